"""Ascents on losses of prototypes: ``joint_pc`` and ``prototype_margin``.

One forward and one backward pass per step and sample not yet broken.  They return the first image
that broke a sample, else the one with the largest margin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.losses import joint_loss
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import COUNT, FLAG, POSITIVE, SHARE, Range, require_within
from robusteval.attacks.record import BOTH, Attack, Needs, defaults_of
from robusteval.attacks.search import PULLED, Objective, Search, Step, cosine
from robusteval.attacks.steps import random_start
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

_MARGIN_RANGES = {"steps": COUNT, "momentum": SHARE, "start": FLAG}
_JOINT_RANGES = {**_MARGIN_RANGES, "step_size": POSITIVE}
JOINT = Objective(lambda seen: joint_loss(seen.logits, seen.squared, seen.labels), distances=True)


@dataclass(frozen=True)
class _Ascent:
    """What is climbed, by which steps, and from where."""

    objective: Objective
    schedule: list[Step]
    momentum: float
    start: bool
    seed: int


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
) -> Tensor:
    """The adaptive attack of the PCL paper: ascent on CE + PC (eq. 8) at every supervised depth.

    ``steps`` from 1 up; ``step_size``, above 0, is a share of ε; ``momentum`` in [0, 1); ``start``
    draws a random start.  With the defaults it is the paper's PGD (Table 2) on its joint loss
    (Table 4).  In L2 gradients leave out pixels that are at the end of their range.  At most
    ``steps`` forward and backward passes a sample, and two forward ones for the last word.  Raises
    AttackError for a model without prototypes, and for images outside [0, 1].
    """
    given = {"steps": steps, "step_size": step_size, "momentum": momentum, "start": start}
    require_within("joint_pc", given, _JOINT_RANGES)
    schedule = [Step(step_size * threat.radius, threat.radius)] * steps
    ascent = _Ascent(JOINT, schedule, momentum, start, seed)
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
    search = Search(counted, images, labels, threat)
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
