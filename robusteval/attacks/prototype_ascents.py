"""Ascents on losses of prototypes: ``joint_pc`` and ``prototype_margin``.

One forward and one backward pass per step and sample not yet broken.  They return the first image
that broke a sample, else the one with the largest margin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.losses import joint_loss
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.own_loss import unit_l1
from robusteval.attacks.ranges import (
    CHANCE,
    COUNT,
    FLAG,
    POSITIVE,
    SHARE,
    Range,
    one_of,
    require_within,
)
from robusteval.attacks.record import BOTH, Attack, Needs, defaults_of
from robusteval.attacks.search import PULLED, Climb, Objective, Search, Step, cosine
from robusteval.attacks.steps import random_start
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

_MARGIN_RANGES = {"steps": COUNT, "momentum": SHARE, "start": FLAG}
_JOINT_RANGES = {
    **_MARGIN_RANGES,
    "momentum": CHANCE,
    "step_size": POSITIVE,
    "adds": one_of("signs", "gradients"),
}
JOINT = Objective(lambda seen: joint_loss(seen.logits, seen.squared, seen.labels), distances=True)


@dataclass(frozen=True)
class _Ascent:
    """What is climbed, by which steps, and from where."""

    objective: Objective
    schedule: list[Step]
    momentum: float
    start: bool
    seed: int
    adds: str = "signs"


class _OfGradients(Search):
    """Momentum adds up gradients of L1 norm 1 (PCL, eq. 18), and not unit steps."""

    def _step(self, climb: Climb, step: Step, momentum: float) -> Climb:
        assert climb.gradients is not None, "they were looked at"
        velocity = momentum * climb.velocity + unit_l1(climb.gradients)
        return super()._step(replace(climb, velocity=velocity, gradients=velocity), step, 0.0)


@attack
def joint_pc(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    steps: int = 10,
    step_size: float = 0.25,
    momentum: float = 0.0,
    start: bool = False,
    adds: str = "signs",
) -> Tensor:
    """The adaptive attack of the PCL paper: ascent on CE + PC (eq. 8) at every supervised depth.

    ``steps`` from 1 up; ``step_size``, above 0, is a share of ε; ``momentum`` in [0, 1]; ``start``
    draws a random start.  ``adds``: what momentum adds up, unit steps (in L∞ ``"signs"``) or, as
    eq. 18 has it, ``"gradients"`` of L1 norm 1.

    The columns of Table 4, with the settings of Table 2: PGD is the defaults with ``start=True``;
    BIM has a ``step_size`` of 1/10 and no start; MIM as BIM, ``momentum=1, adds="gradients"``;
    FGSM is one step of 1.  A sample that broke is left as it is.  In L2 gradients leave out pixels
    that are at the end of their range.  At most ``steps`` forward and backward passes a sample, and
    two forward ones for the last word.  Raises AttackError for a model without prototypes, and for
    images outside [0, 1].
    """
    given = {"steps": steps, "step_size": step_size, "momentum": momentum, "start": start}
    require_within("joint_pc", {**given, "adds": adds}, _JOINT_RANGES)
    schedule = [Step(step_size * threat.radius, threat.radius)] * steps
    ascent = _Ascent(JOINT, schedule, momentum, start, seed, adds)
    return _ascended(model, images, labels, threat, ascent)


@attack
def prototype_margin(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    steps: int = 40,
    momentum: float = 0.0,
    start: bool = True,
) -> Tensor:
    """Ascent on the margin of prototype distances: d(own) − d(nearest other).

    It can't saturate, as cross-entropy on squared distances does.  Steps fall by a cosine from
    2ε.  Where a model reads its class elsewhere than from these distances, pulling features to a
    wrong prototype still has to change that reading to count.  ``steps`` from 1 up; ``momentum`` in
    [0, 1), where 0.75 breaks a few samples fewer on most models.  At most ``steps`` forward and
    backward passes a sample, and two forward ones for the last word.  The project's own; the steps
    are those of PMA (arXiv:2411.15210).  Raises AttackError for a model without prototypes, and for
    images outside [0, 1].
    """
    given = {"steps": steps, "momentum": momentum, "start": start}
    require_within("prototype_margin", given, _MARGIN_RANGES)
    ascent = _Ascent(PULLED, cosine(threat.radius, steps), momentum, start, seed)
    return _ascended(model, images, labels, threat, ascent)


def _ascended(
    model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel, ascent: _Ascent
) -> Tensor:
    """By the model's own gradients, in its own precision: as the paper's attack is."""
    _need_prototypes(model)
    if len(images) == 0:
        return images
    counted = as_counted(model, images, labels)
    kind = _OfGradients if ascent.adds == "gradients" else Search
    search = kind(counted, images, labels, threat)
    generator = torch.Generator().manual_seed(ascent.seed)
    points = random_start(images, threat, generator) if ascent.start else images
    with counted.led_by(None), gradients_needed(counted, images):
        search.ascend(search.alive(), points, ascent.objective, ascent.schedule, ascent.momentum)
    return search.best


def _need_prototypes(model: nn.Module) -> None:
    if not getattr(model, "layers", ()):
        raise AttackError("this model has no prototypes: leave prototype-aware attacks out")


def _record(name: str, function: Callable[..., Tensor], ranges: Mapping[str, Range]) -> Attack:
    return Attack(
        name=name,
        library=ROBUSTEVAL,
        function=function,
        norms=BOTH,
        knows_eps=True,
        needs=Needs(prototypes=True, classes=2, channels=None, square_images=()),
        gradients="uses",
        by_sample=True,
        passes=lambda given, classes: (given["steps"] + 2, given["steps"]),
        parameters=ranges,
        defaults=defaults_of(lambda: function),
        version=2,
    )


ATTACKS = (
    _record("joint_pc", joint_pc, _JOINT_RANGES),
    _record("prototype_margin", prototype_margin, _MARGIN_RANGES),
)
