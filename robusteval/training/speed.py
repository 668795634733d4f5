"""How a machine trains fastest: float32 or bfloat16, eager or compiled, by trying."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robusteval.data.datasets import Dataset
from robusteval.hardware import best_seconds, compile_any_number, exact_float32
from robusteval.models.entry_tables import Training
from robusteval.models.network import PrototypeNetwork

# Compiling takes up to a minute per shape, and a training meets four or five shapes.
COMPILE_COST = 240.0
_SMALL = 28 * 28  # smaller images aren't worth the rounding

Stopwatch = Callable[[PrototypeNetwork, Tensor, bool], float]


@dataclass(frozen=True)
class Speed:
    """Whether to train in bfloat16, and whether to compile the backbone."""

    bfloat16: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        return ("bfloat16" if self.bfloat16 else "float32") + (
            ", compiled" if self.compiled else ""
        )


def precision(bfloat16: bool, device: str = "cpu") -> AbstractContextManager[Any]:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bfloat16)


@contextmanager
def as_judged() -> Iterator[None]:
    """Within it the network computes as verdicts do: eagerly, in exact float32.

    What is looked at once an epoch comes in shapes of its own, which aren't worth compiling.
    """
    with torch.compiler.set_stance("force_eager"), exact_float32():
        yield


def activations(network: PrototypeNetwork, images: Tensor, bfloat16: bool) -> dict[str, Tensor]:
    """The backbone's layers.  bfloat16 ends here: autocast would round every product of a head or
    a loss as well."""
    with precision(bfloat16, images.device.type):
        return network.activations(images)


def seconds_per_step(network: PrototypeNetwork, images: Tensor, bfloat16: bool) -> float:
    """A forward and a backward pass over ``images``, to the parameters."""

    def step() -> None:
        layers = activations(network, images, bfloat16)
        network.logits(layers).square().mean().backward()

    took = best_seconds(step, str(images.device))
    network.zero_grad(set_to_none=True)
    return took


def compile_backbone(network: PrototypeNetwork) -> None:
    """In place; each shape is compiled when it is first met."""
    compile_any_number()
    network.backbone.compile(dynamic=False)


def choose_speed(
    network: PrototypeNetwork,
    data: Dataset,
    settings: Training,
    stopwatch: Stopwatch = seconds_per_step,
    device: str = "cpu",
) -> Speed:
    """bfloat16 where it is a tenth faster; compiled where that saves more than compiling costs.

    Tries on a copy, so that batch-norm statistics stay as they are.
    """
    if data.pixels[0].numel() < _SMALL:
        return Speed()
    trial = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = data.images(torch.arange(min(settings.batch_size, len(data))))
    images = images.to(device, memory_format=torch.channels_last)
    plain, half = (stopwatch(trial, images, choice) for choice in (False, True))
    bfloat16 = half < 0.9 * plain
    eager = min(plain, half) if bfloat16 else plain
    steps = settings.total_epochs * math.ceil(len(data) / settings.batch_size)
    if (crafted := settings.adversarial) is not None:
        steps *= crafted.replays if crafted.attack == "free" else 2 + crafted.steps
    if 0.5 * eager * steps < COMPILE_COST:  # compiling has not been seen to more than halve a step
        return Speed(bfloat16)
    compile_backbone(trial)
    try:
        compiled = stopwatch(trial, images, bfloat16)
    except Exception:  # noqa: BLE001 - no compiler, or one that can't: torch raises many kinds
        return Speed(bfloat16)
    return Speed(bfloat16, (eager - compiled) * steps > COMPILE_COST)
