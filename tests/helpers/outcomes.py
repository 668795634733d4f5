"""What every attack returns on small models, stored with its version.

    python -m tests.helpers.outcomes

writes anew what is of another version, or new.  Models are linear, a small network and prototypes
of pixels, in float64, on one thread and in their plain form, so that processors agree: an outcome
that changed is the attack's.  Libraries' attacks, some of which take float32 alone, are given
images and logits in that, rounded.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.attacks.counting import Counted
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.record import Attack
from robusteval.attacks.registry import LIBRARIES, OWN
from robusteval.attacks.steps import norms
from robusteval.models.adapter import Adapter
from robusteval.types import NORMS, Norm
from tests.helpers.known import margins, pixel_prototypes, threat_of

PATH = Path(__file__).parent / "attack_outcomes.json"
SAMPLES, CLASSES, SHAPE = 4, 5, (3, 8, 8)
DIGITS = 5
MOST = 3000  # passes of an attack that is run in one norm only
# What makes an attack quick; others run with their defaults.
FEWER: dict[str, Any] = {
    **{"n_queries": 60, "steps": 8, "max_iterations": 40, "binary_search_steps": 4},
    **{"num_steps": 12, "n_iter": 8, "nb_iter": 4, "nb_sample": 8, "iter": 8, "search_iter": 4},
    **{"df_steps": 6, "num_iter_set": 5, "passes_per_sample": 150, "batch_max": 16},
}
# More where so few would show nothing of an attack's parts.
MORE: dict[str, dict[str, Any]] = {"robusteval.smallest": {"steps": 60}}
Outcome = list[list[float]]  # of each sample: its perturbation's norm, and its margin


class Network(nn.Module):
    """A tanh layer between two linear ones, its weights a formula's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        pixels = SHAPE[0] * SHAPE[1] * SHAPE[2]
        generator = torch.Generator().manual_seed(width)
        sizes = [pixels, width, CLASSES] if width else [pixels, CLASSES]
        self.weights = nn.ParameterList(
            torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5
            for a, b in pairwise(sizes)
        )

    def forward(self, images: Tensor) -> Tensor:
        found = 4 * (images.double().flatten(1) - 0.5)
        for weight in self.weights[:-1]:
            found = torch.tanh(found @ weight.T)
        logits: Tensor = (found @ self.weights[-1].T).to(images.dtype)
        return logits


@cache
def models() -> dict[str, Adapter]:
    """By name; the last one has prototypes, several to a class."""
    generator = torch.Generator().manual_seed(1)
    pixels = SHAPE[0] * SHAPE[1] * SHAPE[2]
    prototypes = 0.3 + 0.4 * torch.rand((CLASSES, 2, pixels), generator=generator)
    return {
        "linear": Adapter(Network(0), CLASSES),
        "network": Adapter(Network(16), CLASSES),
        "prototypes": pixel_prototypes(prototypes).double(),
    }


def spread_images() -> Tensor:
    """(B, C, H, W), far enough from boundaries that an attack's steps are no last bits."""
    generator = torch.Generator().manual_seed(2)
    return 0.1 + 0.8 * torch.rand((SAMPLES, *SHAPE), generator=generator)


def radius(model: Adapter, images: Tensor, labels: Tensor, norm: Norm) -> float:
    """Where a linear model would have lost half of the samples, and some more."""
    moved = images.clone().requires_grad_()
    logits = model(moved)
    top = logits.topk(2, dim=1)
    gap = top.values[:, 0] - top.values[:, 1]
    (slope,) = torch.autograd.grad(gap.sum(), moved)
    dual = slope.flatten(1).abs().sum(1) if norm == "Linf" else slope.flatten(1).norm(dim=1)
    return 1.6 * float((gap / dual).detach().median())


def outcomes(attack: Attack) -> dict[str, Outcome]:
    """By model and norm."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return dict(_outcomes(attack))
    finally:
        torch.set_num_threads(threads)


def _outcomes(attack: Attack) -> Iterator[tuple[str, Outcome]]:
    for name, model in models().items():
        ours = attack.library is ROBUSTEVAL
        if (attack.needs.prototypes and not model.layers) or (name != "network" and not ours):
            continue
        if attack.needs.training_loss:
            model = _trained(model)
        images = spread_images().to(torch.float64 if ours else torch.float32)
        labels = model(images).argmax(1)
        given = {k: v for k, v in FEWER.items() if k in attack.parameters}
        given |= MORE.get(attack.key, {})
        if "source" in attack.parameters:
            given["source"] = models()["network" if name == "linear" else "linear"]
        costs = attack.expected_passes(given, CLASSES)[0]
        known = [norm for norm in NORMS if norm in attack.norms]
        for norm in known[:1] if costs > MOST else known:
            threat = threat_of(norm, radius(model, images, labels, norm))
            counted = Counted(model, SAMPLES)
            found = attack.run(counted, images, labels, threat, 0, given).images.double()
            moved = norms(found - images.double(), norm).tolist()
            left = margins(model, found, labels).tolist()
            rows = zip(moved, left, strict=True)
            yield (
                f"{name} {norm}",
                [[float(f"{value:.{DIGITS}g}") for value in row] for row in rows],
            )


def _trained(model: Adapter) -> Adapter:
    """A copy, as if it had been trained on cross-entropy of logits at half their size."""
    known = copy.deepcopy(model)
    known.own_loss = lambda images, labels: F.cross_entropy(model(images) / 2, labels)
    return known


def attacks() -> dict[str, Attack]:
    """Every attack, by its key."""
    libraries = [attack for table in LIBRARIES.values() for attack in table.values()]
    own = [OWN.get(name) for name in OWN if OWN.plugin(name) is None]
    return {attack.key: attack for attack in [*own, *libraries]}


def stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
    return found


def main() -> None:
    before, told = stored(), {}
    for key, attack in attacks().items():
        known = before.get(key)
        if known is None or known["version"] != attack.version:
            known = {"version": attack.version, "outcomes": outcomes(attack)}
        told[key] = known
    lines = [f"{json.dumps(key)}: {json.dumps(about)}" for key, about in told.items()]
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
