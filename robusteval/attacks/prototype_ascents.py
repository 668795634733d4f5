"""Ascents on losses of prototypes: ``joint_pc`` and ``prototype_margin``.

One forward and one backward pass per step and sample not yet broken.  They return the first
misclassified image they meet, else the last one tried.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import NO_GRADIENT
from robusteval.attacks.counting import Counted, try_out
from robusteval.attacks.inputs import attack
from robusteval.attacks.losses import distance_margin, joint_loss, logit_margin
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import COUNT, FLAG, POSITIVE, SHARE, Range, require_within
from robusteval.attacks.record import BOTH, Attack, Needs, defaults_of, stepwise
from robusteval.attacks.search import cosine
from robusteval.attacks.steps import (
    ascent_direction,
    input_gradient,
    project,
    random_start,
)
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

_MARGIN_RANGES = {"steps": COUNT, "momentum": SHARE, "start": FLAG}
_JOINT_RANGES = {**_MARGIN_RANGES, "step_size": POSITIVE}
Objective = Callable[[Adapter, Tensor, Tensor], tuple[Tensor, Tensor]]


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
    (Table 4).  At most ``steps`` forward and backward passes a sample.  Raises AttackError for a
    model without prototypes, and for images outside [0, 1].
    """
    _need_prototypes(model)
    given = {"steps": steps, "step_size": step_size, "momentum": momentum, "start": start}
    require_within("joint_pc", given, _JOINT_RANGES)

    def objective(adapter: Adapter, moved: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits, squared = adapter.logits_and_distances(moved)
        return logits, joint_loss(logits, squared, y)

    sizes = [step_size * threat.radius] * steps
    return _ascend(model, images, labels, threat, objective, sizes, momentum, start, seed)


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
    backward passes a sample.  The project's own; the steps are those of PMA (arXiv:2411.15210).
    Raises AttackError for a model without prototypes, and for images outside [0, 1].
    """
    _need_prototypes(model)
    given = {"steps": steps, "momentum": momentum, "start": start}
    require_within("prototype_margin", given, _MARGIN_RANGES)

    def objective(adapter: Adapter, moved: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # One pass for both: the network's logits and the distances share its layers.
        logits, squared = adapter.logits_and_distances(moved)
        deepest = squared[adapter.layers[-1]]
        return logits, distance_margin(deepest, y)

    sizes = [step.size for step in cosine(threat.radius, steps)]
    return _ascend(model, images, labels, threat, objective, sizes, momentum, start, seed)


def _need_prototypes(model: nn.Module) -> None:
    if not getattr(model, "layers", ()):
        raise AttackError("this model has no prototypes: leave prototype-aware attacks out")


def _attending(model: Adapter, rows: Tensor) -> AbstractContextManager[None]:
    """Within it, passes that are counted are those of these samples."""
    return model.attending(rows) if isinstance(model, Counted) else nullcontext()


def _ascend(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    objective: Objective,
    step_sizes: list[float],
    momentum: float,
    start: bool,
    seed: int,
) -> Tensor:
    """Projected ascent on ``objective`` (→ logits, loss per sample); broken samples drop out."""
    try_out(model, images)
    generator = torch.Generator().manual_seed(seed)
    result = random_start(images, threat, generator) if start else images.clone()
    alive = torch.arange(len(images), device=images.device)
    velocity = torch.zeros_like(images)
    for size in step_sizes:
        moved = result[alive].requires_grad_()
        with _attending(model, alive), torch.enable_grad():
            logits, losses = objective(model, moved, labels[alive])
            if not losses.requires_grad:
                raise AttackError(NO_GRADIENT)
            gradient = input_gradient(losses, moved)
        unbroken = logit_margin(logits.detach(), labels[alive]) <= 0
        alive, moved, gradient = alive[unbroken], moved.detach()[unbroken], gradient[unbroken]
        if len(alive) == 0:
            break
        direction = ascent_direction(gradient, threat.norm)
        velocity[alive] = momentum * velocity[alive] + direction
        step = ascent_direction(velocity[alive], threat.norm) if momentum else direction
        result[alive] = project(moved + size * step, images[alive], threat)
    return result.detach()


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
        passes=stepwise(),
        parameters=ranges,
        defaults=defaults_of(lambda: function),
        version=1,
    )


ATTACKS = (
    _record("joint_pc", joint_pc, _JOINT_RANGES),
    _record("prototype_margin", prototype_margin, _MARGIN_RANGES),
)
