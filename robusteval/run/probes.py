"""Is the gradient masked?  Measurements on a few samples; ``findings`` turns them into verdicts.

They follow the six indicators of attack failure (Pintor et al. 2022, "Indicators of Attack
Failure") and the checklist of Carlini et al. 2019 ("On Evaluating Adversarial Robustness").  The
probing attack climbs the logit margin, which cannot saturate, so that what it misses is the
model's doing and not its loss's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.losses import distance_margin, joint_loss, logit_margin
from robusteval.attacks.search import cosine
from robusteval.attacks.squashed import squash_of
from robusteval.attacks.steps import (
    ascent_direction,
    input_gradient,
    norms,
    project,
    random_start,
)
from robusteval.evidence.judge import predict
from robusteval.evidence.measured import NOISE_DRAWS, SQUARE_QUERIES, STEPS, losses_of
from robusteval.models.adapter import Adapter
from robusteval.plan.plan import PROBES
from robusteval.types import ThreatModel

WOBBLE_DRAWS = 20
SATURATED = 17.0  # at this gap float32's largest probability rounds to 1 (24 bits: ln 2^24 = 16.6)
EPS_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
Losses = Callable[[Adapter, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trace:
    """One ascent: the margin (steps + 1, B) at every iterate, its start included."""

    margins: Tensor

    @property
    def ever(self) -> Tensor:
        """(B,) bool: some iterate was misclassified."""
        return (self.margins > 0).any(0)

    @property
    def at_last(self) -> Tensor:
        """(B,) bool: the last iterate was misclassified."""
        return self.margins[-1] > 0


def ascend(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    steps: int,
    seed: int | None = None,
) -> tuple[Tensor, Trace]:
    """Projected ascent on the logit margin, from a random start where a seed is given.

    Steps fall by a cosine from 2ε; one step is FGSM's.  No sample stops early.  Returns each
    sample's best image, and the trace.
    """
    moved = images
    if seed is not None:
        moved = random_start(images, threat, torch.Generator().manual_seed(seed))
    best, best_margin, margins = moved, torch.full_like(images[:, 0, 0, 0], -torch.inf), []
    sizes = [threat.radius] if steps == 1 else [s.size for s in cosine(threat.radius, steps)]
    for step in range(steps + 1):
        leaf = moved.detach().requires_grad_()
        margin = logit_margin(model(leaf), labels)
        margins.append(margin.detach().cpu())
        better = margin.detach() > best_margin
        best = torch.where(better.view(-1, 1, 1, 1), leaf.detach(), best)
        best_margin = torch.where(better, margin.detach(), best_margin)
        if step == steps:
            break
        direction = ascent_direction(input_gradient(margin, leaf), threat.norm)
        moved = project(leaf.detach() + sizes[step] * direction, images, threat)
    return best, Trace(torch.stack(margins))


@dataclass(frozen=True)
class Subject:
    """What probes look at: a model, initially correct samples, and a ball around each.

    ``source``: the model whose adversarials are transferred to this one.
    """

    model: Adapter
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    seed: int
    source: Adapter | None = None

    @property
    def start(self) -> int:
        return self.seed % 2**32


def measure(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    seed: int,
    source: Adapter | None = None,
) -> dict[str, Any]:
    """All measurements as plain data, on initially correct samples.

    ``source``: the model whose adversarials are transferred to this one.
    """
    subject = Subject(model, images, labels, threat, seed, source)
    names = PROBES if source else PROBES[:-1]
    return put_together({name: probe(name, subject) for name in names}, threat)


def probe(name: str, subject: Subject) -> dict[str, Any]:
    """One part of the measurements, which needs no other."""
    return {"samples": len(subject.images), **_PARTS[name](subject)}


def put_together(parts: Mapping[str, Mapping[str, Any]], threat: ThreatModel) -> dict[str, Any]:
    """All measurements, from those of each probe."""
    looks, ascents, growth = parts["looks"], parts["ascents"], parts["growth"]["growth"]
    by_gradient = torch.tensor(ascents["broken"])
    broken = list(growth["broken"])
    broken.insert(EPS_MULTIPLES.index(1.0), [threat.radius, ascents["attack"]["many"]])

    def compared(name: str, **about: int) -> dict[str, int] | None:
        if name not in parts:
            return None
        by_this = torch.tensor(parts[name]["broken"])
        alone = int((by_this & ~by_gradient).sum())
        return {**about, "broken": int(by_this.sum()), "alone": alone}

    return {
        "samples": looks["samples"],
        "threat": threat.to_json(),
        **{name: looks[name] for name in ("gradients", "logits", "passes")},
        "attack": ascents["attack"],
        "wobble": looks["wobble"],
        "growth": {**growth, "broken": broken},
        "noise": compared("noise", draws=NOISE_DRAWS),
        "square": compared("square", queries=SQUARE_QUERIES),
        "transfer": compared("transfer"),
    }


def _looks(on: Subject) -> dict[str, Any]:
    return {
        "gradients": gradients(on.model, on.images, on.labels),
        "logits": kind_of_logits(on.model, on.images),
        "passes": changes(on.model, on.images),
        "wobble": wobble(on.model, on.images, on.labels, on.threat, on.start),
    }


def _ascents(on: Subject) -> dict[str, Any]:
    about = on.model, on.images, on.labels, on.threat
    _, many = ascend(*about, STEPS, on.start)
    _, double = ascend(*about, 2 * STEPS, on.start)
    broken = (many.ever | double.ever).tolist()
    return {"attack": attack_quality(*about, many, double), "broken": broken}


def _losses(model: Adapter, classes: int) -> dict[str, Losses]:
    def cross_entropy(m: Adapter, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(m(x), y, reduction="none")

    def margin(m: Adapter, x: Tensor, y: Tensor) -> Tensor:
        return logit_margin(m(x), y)

    def dlr(m: Adapter, x: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = m(x)
        largest = logits.topk(3, dim=1).values
        return logit_margin(logits, y) / (largest[:, 0] - largest[:, 2] + 1e-12)

    def prototype_margin(m: Adapter, x: Tensor, y: Tensor) -> Tensor:
        return distance_margin(m.distances(x), y)

    def joint(m: Adapter, x: Tensor, y: Tensor) -> Tensor:
        logits, squared = m.logits_and_distances(x)
        return joint_loss(logits, squared, y)

    known: dict[str, Losses] = {
        "cross-entropy": cross_entropy,
        "logit margin": margin,
        "DLR": dlr,
        "prototype margin": prototype_margin,
        "CE + PC": joint,
    }
    return {name: known[name] for name in losses_of(classes, bool(model.layers))}


def gradients(model: Adapter, images: Tensor, labels: Tensor) -> dict[str, dict[str, int | bool]]:
    """Indicator 1: for each loss, samples whose input gradient is zero or not finite."""
    found: dict[str, dict[str, int | bool]] = {}
    for name, loss in _losses(model, model.classes).items():
        leaf = images.detach().requires_grad_()
        values = loss(model, leaf, labels)
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        if gradient is None:
            found[name] = {"unavailable": True, "zero": len(images), "non_finite": 0}
            continue
        finite = torch.isfinite(gradient).flatten(1).all(1)
        zero = (gradient == 0).flatten(1).all(1)
        found[name] = {
            "unavailable": False,
            "zero": int(zero.sum()),
            "non_finite": int((~finite).sum()),
        }
    return found


def kind_of_logits(model: Adapter, images: Tensor) -> dict[str, Any]:
    """Whether logits are probabilities, log-probabilities or squashed otherwise, and how many are
    saturated."""
    outputs = predict(model, images)
    squash, logits = squash_of(model, images, outputs), outputs.double()
    sums = logits.sum(1)
    probabilities = (logits >= 0).all(1) & ((sums - 1).abs() < 1e-3)
    log_probabilities = logits.logsumexp(1).abs() < 1e-4
    top = logits.topk(2, dim=1).values
    gap = top[:, 0] - top[:, 1]
    return {
        "probabilities": int(probabilities.sum()),
        "log_probabilities": int(log_probabilities.sum()),
        "saturated": int((gap >= SATURATED).sum()),
        "median_gap": float(gap.median()),
        "squashed": squash.name if squash else "",
    }


def changes(model: Adapter, images: Tensor) -> dict[str, float]:
    """Largest relative change of a sample's logits between two passes, and with batch size 1."""
    first = predict(model, images, len(images)).double()
    again = predict(model, images, len(images)).double()
    singly = predict(model, images, 1).double()
    length = first.norm(dim=1).clamp_min(1e-12)
    return {
        "between_passes": float(((again - first).norm(dim=1) / length).max()),
        "with_batch_size": float(((singly - first).norm(dim=1) / length).max()),
    }


def attack_quality(
    model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel, many: Trace, double: Trace
) -> dict[str, int]:
    """Indicators 3 and 4, and whether steps pay: one against many, many against twice as many."""
    _, single = ascend(model, images, labels, threat, 1)
    low, high = double.margins.amin(0), double.margins.amax(0)
    risen = (double.margins.cummax(0).values - low) / (high - low).clamp_min(1e-12)
    late_rise = risen[-1] - risen[-11]
    return {
        "steps": STEPS,
        "single_step": int(single.ever.sum()),
        "many": int(many.ever.sum()),
        "twice": int((many.ever | double.ever).sum()),
        "silent": int((many.ever & ~many.at_last).sum()),
        "unfinished": int(((late_rise > 0.05) & ~double.ever).sum()),
    }


def wobble(
    model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
) -> dict[str, float]:
    """Indicator 2: how much the margin changes under uniform noise of half the ball.

    The mean of min(|ΔL| / |L|, 1) over draws and samples, as in the paper with L the margin; a
    margin that is no number any more counts as 1.
    """
    generator = torch.Generator().manual_seed(seed)
    before = logit_margin(predict(model, images), labels)
    total = 0.0
    for _ in range(WOBBLE_DRAWS):
        moved = images + _noise(images, threat, 0.5, generator)
        after = logit_margin(predict(model, moved.clamp(0, 1)), labels)
        relative = (after - before).abs() / before.abs().clamp_min(1e-12)
        total += float(relative.nan_to_num(1.0).clamp_max(1).mean())
    return {"relative": total / WOBBLE_DRAWS}


def growth(on: Subject) -> dict[str, Any]:
    """Success as ε grows (at ε itself the ascents tell), and indicator 6: samples that not even the
    whole range breaks."""
    whole = 1.0 if on.threat.norm == "Linf" else math.sqrt(on.images[0].numel())

    def broken(radius: float, start: int | None) -> Tensor:
        ball = _ball(on.threat, radius)
        return ascend(on.model, on.images, on.labels, ball, STEPS, start)[1].ever

    radii = [min(m * on.threat.radius, whole) for m in EPS_MULTIPLES if m != 1]
    by_radius = [[radius, int(broken(radius, on.start).sum())] for radius in radii]
    # Over the whole range, twice: a start may lie badly.
    ever = broken(whole, None) | broken(whole, on.start + 1)
    return {"growth": {"broken": by_radius, "whole_range": int(ever.sum())}}


def noise(on: Subject) -> dict[str, list[bool]]:
    """What the best of many random perturbations breaks."""
    generator = torch.Generator().manual_seed(on.start)
    broken = torch.zeros(len(on.images), dtype=torch.bool)
    for _ in range(NOISE_DRAWS):
        moved = on.images + _noise(on.images, on.threat, 1.0, generator)
        broken |= _wrong(on, project(moved, on.images, on.threat))
    return {"broken": broken.tolist()}


def square(on: Subject) -> dict[str, list[bool]]:
    """What a short Square attack breaks, which asks for logits alone."""
    found = torchattacks_attack(
        Counted(on.model, len(on.images)),
        on.images,
        on.labels,
        on.threat,
        name="Square",
        seed=on.start,
        parameters={"n_queries": SQUARE_QUERIES, "p_init": 0.8, "loss": "margin"},
    ).images
    return {"broken": _wrong(on, project(found, on.images, on.threat)).tolist()}


def transfer(on: Subject) -> dict[str, list[bool]]:
    """What adversarials made on another model break."""
    assert on.source is not None, "there is a model to transfer from"
    best, _ = ascend(on.source, on.images, on.labels, on.threat, STEPS, on.start)
    return {"broken": _wrong(on, best).tolist()}


_PARTS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "looks": _looks,
    "ascents": _ascents,
    "growth": growth,
    "noise": noise,
    "square": square,
    "transfer": transfer,
}
# The forward and backward passes of each sample; gradients are of up to five losses, and eight
# outputs.
PASSES: dict[str, tuple[int, int]] = {
    "looks": (11 + WOBBLE_DRAWS, 13),
    "ascents": (3 * STEPS + 4, 3 * STEPS + 1),
    "growth": (6 * (STEPS + 1), 6 * STEPS),
    "noise": (NOISE_DRAWS, 0),
    "square": (SQUARE_QUERIES, 0),
    "transfer": (STEPS + 2, STEPS),
}


def _wrong(on: Subject, images: Tensor) -> Tensor:
    return (predict(on.model, images).argmax(1) != on.labels).cpu()


def _noise(images: Tensor, threat: ThreatModel, share: float, generator: torch.Generator) -> Tensor:
    """Uniform in a share of the L∞ ball, or of that share's length in a uniform direction."""
    if threat.norm == "Linf":
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
    else:
        noise = torch.randn(images.shape, generator=generator)
        noise = noise / norms(noise, "L2").view(-1, 1, 1, 1)
    return (share * threat.radius * noise).to(images.device)


def _ball(threat: ThreatModel, radius: float) -> ThreatModel:
    return ThreatModel(threat.norm, radius)  # type: ignore[arg-type]
