"""Epochs, schedule, checkpoints and log, the same for every method."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.entry import Training
from robusteval.models.network import PrototypeNetwork
from robusteval.training.adversarial import craft
from robusteval.training.batches import batches
from robusteval.training.checkpoint import read_checkpoint, write_checkpoint
from robusteval.training.recipe import Recipe


@dataclass(frozen=True)
class EpochLog:
    """One line of the training log."""

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    lr: float
    seconds: float


@dataclass
class State:
    """Where a training stands after some epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    seconds: float = 0.0
    best: dict[str, Tensor] | None = None


Progress = Callable[[int, int, float], None]


def fit(
    network: PrototypeNetwork,
    recipe: Recipe,
    training: Dataset,
    validation: Dataset,
    settings: Training,
    *,
    checkpoint: Path,
    bfloat16: bool = False,
    progress: Progress = lambda *_: None,
) -> Iterator[EpochLog]:
    """Trains in place, yields a log line per epoch, and leaves the best epoch's weights.

    The best is by accuracy on ``validation``, among the epochs of the joint stage.  After each
    epoch a checkpoint is written; if one of the same settings is there, training goes on from it,
    and ends where it would have ended: every epoch draws from a generator of its own.

    Raises TrainingError on a loss that is not finite; the last checkpoint stays.
    """
    optimizer = make_optimizer(network, recipe, settings)
    state = _resume(checkpoint, network, recipe, optimizer, settings)
    # The list form keeps images' gradient strides simple and lets oneDNN choose its fastest kernels.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for epoch in range(state.epoch, settings.total_epochs):
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(_epoch_seed(settings.seed, epoch))
        torch.manual_seed(_epoch_seed(settings.seed, epoch) ^ 1)
        recipe.start_epoch(network, training, epoch)
        loss, accuracy = _run_epoch(
            network, recipe, optimizer, training, settings, epoch, generator, bfloat16, progress
        )
        validated = accuracy_of(network, validation)
        state.epoch, state.seconds = epoch + 1, state.seconds + time.perf_counter() - started
        if epoch >= settings.warmup_epochs and validated >= state.best_accuracy:
            state.best_accuracy, state.best_epoch = validated, epoch + 1
            state.best = {k: v.detach().clone() for k, v in network.state_dict().items()}
        lr = optimizer.param_groups[0]["lr"]
        _save(checkpoint, network, recipe, optimizer, settings, state)
        yield EpochLog(epoch + 1, loss, accuracy, validated, lr, time.perf_counter() - started)
    if state.best is not None:
        network.load_state_dict(state.best)


def _run_epoch(
    network: PrototypeNetwork,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    settings: Training,
    epoch: int,
    generator: torch.Generator,
    bfloat16: bool,
    progress: Progress,
) -> tuple[float, float]:
    total = math.ceil(len(data) / settings.batch_size)
    losses = correct = seen = 0.0
    network.train()
    source = batches(
        data, settings.batch_size, settings.augment, settings.crop_padding, generator
    )
    for i, (images, labels) in enumerate(source):
        scale_learning_rates(optimizer, settings, epoch + i / total)
        images = images.contiguous(memory_format=torch.channels_last)
        if settings.adversarial and epoch >= settings.warmup_epochs:
            with precision(bfloat16):
                crafted = craft(
                    network, recipe, images, labels, settings.adversarial, epoch, generator
                )
            images, labels = torch.cat([images, crafted]), labels.repeat(2)
        with precision(bfloat16):
            loss, logits = recipe.loss(network, network.activations(images), labels, epoch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"loss became {value} in epoch {epoch + 1}, batch {i + 1}: lower [training] lr; "
                "the checkpoint of the last good epoch is kept"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimizer.step()
        losses += value * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
        progress(i + 1, total, losses / seen)
    return losses / seen, correct / seen


def precision(bfloat16: bool) -> AbstractContextManager[Any]:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)


def make_optimizer(
    network: PrototypeNetwork, recipe: Recipe, settings: Training
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum for the weights; centres without momentum or decay."""
    prototypes = {id(p) for p in network.prototypes.values()}
    special = recipe.parameter_groups(network)
    apart = {id(p) for group in special for p in group["params"]}
    weights = [p for p in network.parameters() if id(p) not in apart and id(p) not in prototypes]
    main = {
        "params": weights,
        "lr": settings.lr,
        "momentum": settings.momentum,
        "nesterov": settings.momentum > 0,
        "weight_decay": settings.weight_decay,
    }
    optimizer = torch.optim.SGD([main, *({"momentum": 0.0, **g} for g in special)], lr=settings.lr)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def scale_learning_rates(
    optimizer: torch.optim.Optimizer, settings: Training, epoch: float
) -> None:
    """Every group's rate at a (fractional) epoch; the warm-up stage has a schedule of its own."""
    warm = epoch < settings.warmup_epochs
    start, length = (0, settings.warmup_epochs) if warm else (settings.warmup_epochs, settings.epochs)
    factor = schedule_factor(settings, epoch, (epoch - start) / length)
    stage = (settings.warmup_lr or settings.lr) / settings.lr if warm else 1.0
    for k, group in enumerate(optimizer.param_groups):
        group["lr"] = group["base_lr"] * factor * (stage if k == 0 else 1.0)


def schedule_factor(settings: Training, epoch: float, share: float) -> float:
    """The share of the peak rate.

    ``one_cycle``: up linearly for 20 % of the stage, down by a cosine to zero.  ``steps``: a tenth
    at each milestone.
    """
    if settings.schedule == "steps":
        return float(0.1 ** sum(epoch >= m for m in settings.milestones))
    if share < 0.2:
        return 0.05 + 0.95 * share / 0.2
    return max(0.5 * (1 + math.cos(math.pi * (share - 0.2) / 0.8)), 1e-3)


@torch.no_grad()
def accuracy_of(network: nn.Module, data: Dataset, batch_size: int = 500) -> float:
    """Share of samples predicted right, in float32 and eval mode."""
    was_training = network.training
    network.eval()
    correct = 0
    for rows in torch.arange(len(data)).split(batch_size):
        correct += int((network(data.images(rows)).argmax(1) == data.labels[rows]).sum())
    network.train(was_training)
    return correct / len(data)


def _epoch_seed(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _fingerprint(settings: Training) -> str:
    return hashlib.sha256(json.dumps(settings.model_dump(), sort_keys=True).encode()).hexdigest()


def _save(
    path: Path,
    network: PrototypeNetwork,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    settings: Training,
    state: State,
) -> None:
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"recipe.{k}": v for k, v in recipe.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in (state.best or {}).items()}
    for i, slot in optimizer.state_dict()["state"].items():
        if slot.get("momentum_buffer") is not None:
            tensors[f"momentum.{i}"] = slot["momentum_buffer"]
    meta = {k: v for k, v in asdict(state).items() if k != "best"}
    write_checkpoint(path, tensors, {**meta, "settings": _fingerprint(settings)})


def _resume(
    path: Path,
    network: PrototypeNetwork,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    settings: Training,
) -> State:
    if not path.is_file():
        return State()
    tensors, meta = read_checkpoint(path)
    if meta.pop("settings") != _fingerprint(settings):
        raise TrainingError(
            f"checkpoint {path} belongs to other [training] settings: delete it to start anew"
        )

    def part(name: str) -> dict[str, Tensor]:
        return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}

    network.load_state_dict(part("network"))
    recipe.load_state_dict(part("recipe"))
    stored = optimizer.state_dict()
    stored["state"] = {int(i): {"momentum_buffer": v} for i, v in part("momentum").items()}
    optimizer.load_state_dict(stored)
    return State(**meta, best=part("best") or None)
