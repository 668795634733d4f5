"""Attacks that know the detector: its own score is in their loop, and decides what they reach.

Three goals, each within a threat's ball.  ``evade``: an inlier that was classified right is
misclassified, and the detector accepts it.  ``reject``: an inlier's score falls.  ``accept``: an
outlier's score rises.

For ``evade`` there are three objectives, which the method ``turns`` takes by turns, but for the
last one, and each other method alone:

- The joint margin: the smaller one of the logit margin and of the score's way above the
  threshold, each in its own unit.  Both are above zero where the attack has what it wants.
- Selective steps: on the margin while the class is right, on the score once it is wrong
  (Bryniarski et al. 2022, arXiv 2106.15023, Section 4).
- Orthogonal steps: the same, less what of the gradient lies along the other one (the same, 4.2).

In L∞ most of the selective steps follow gradients themselves: at the boundary of a class their
signs only swing to and fro.

No loss is a sum of both with weights: there a score that is easily raised pays for a class that
stays right.  The other goals climb the score itself.  Where a detector passes no gradient to the
image, random search takes half of the passes, and the outcome says so.

Nothing ends when an image is accepted: the best image of each sample is the one of the highest
score (for ``evade`` among those that are misclassified), so that one run of the attack answers for
every threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.losses import logit_margin, require_finite
from robusteval.attacks.random_search import flip_squares
from robusteval.attacks.search import Objective, Search, Seen, Slopes, cosine
from robusteval.attacks.steps import input_gradient, random_start
from robusteval.hardware import exact_float32
from robusteval.models.adapter import Adapter
from robusteval.types import Evading, Goal, ThreatModel

# Of images (B, C, H, W) their logits (B, K) and scores (B,), higher = more in-distribution.
Look = Callable[[Adapter, Tensor], tuple[Tensor, Tensor]]

_RIGHT = 1e6  # so far an image of the right class is behind one that is misclassified
_MOMENTUM = 0.75
_FEWEST = 3  # steps of a leg
_BLIND = 0.5  # share of the passes that random search takes where there is no gradient
_TOGETHER = 4  # of its proposals that make one batch


@dataclass(frozen=True)
class Guard:
    """A detector as an attack sees it.

    ``threshold``: the score from which it accepts; ``unit``: how far inliers' scores spread.
    """

    look: Look
    threshold: float
    unit: float


class Leg(NamedTuple):
    """A part of an attack: which share of its passes, up which objective, from where.

    ``small``: the sizes of its steps, as a share of the usual ones; ``unsigned``: see
    ``search.Step``.
    """

    objective: Literal["joint", "selective", "orthogonal", "score"]
    share: float
    start: Literal["clean", "best", "random"]
    small: float = 1.0
    unsigned: bool = False


# To have errors accepted, by each method.  ``turns`` was chosen on training images of ``digits``
# (``benchmarks/evasion.py`` sets it beside the others on test images).
EVADING: dict[Evading, tuple[Leg, ...]] = {
    "turns": (
        Leg("joint", 0.2, "clean"),
        Leg("selective", 0.3, "best", unsigned=True),
        Leg("selective", 0.25, "random"),
        Leg("selective", 0.25, "best", 0.25, unsigned=True),
    ),
    "selective": (Leg("selective", 1.0, "clean"),),
    "orthogonal": (Leg("orthogonal", 1.0, "clean"),),
    "joint": (Leg("joint", 1.0, "clean"),),
}
# To move a score alone, down or up.
MOVING = (
    Leg("score", 0.45, "clean"),
    Leg("score", 0.3, "random"),
    Leg("score", 0.25, "best", 0.25),
)


class Evasion(Search):
    """A search for what a detector accepts, or rejects.

    ``images`` (B, C, H, W) in [0, 1]; ``labels`` (B,), the true classes; of outliers, any.  A
    point's merit takes the place of its margin: above zero where the goal is reached at the guard's
    threshold, and larger the surer.  No sample ever counts as broken, so that all passes go into
    larger merits; ``best`` holds each sample's image of the largest.
    """

    def __init__(
        self,
        model: Counted,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        guard: Guard,
        goal: Goal,
        method: Evading = "turns",
    ) -> None:
        super().__init__(model, images, labels, threat)
        self.guard, self.goal = guard, goal
        self.legs = EVADING[method] if goal == "evade" else MOVING
        self.gap = 1.0  # the unit of logit margins
        self.objectives = {
            "joint": Objective(self._joint),
            "selective": Objective(self._selective),
            "orthogonal": Objective(self._selective, across=self._unselected),
            "score": Objective(self._surplus),
        }

    @property
    def is_exact(self) -> bool:
        """A step's own pass tells the merit; what counts is measured once more in the end."""
        return True

    def run(self, seed: int, passes: int) -> int:
        """Spends so many passes on each sample, a backward pass counted as two.

        Returns for how many samples the score has a gradient at the clean image.  Raises
        AttackError for logits that aren't finite.
        """
        generator = torch.Generator().manual_seed(seed)
        self.kicks = torch.Generator().manual_seed(seed)
        end = self._spent() + passes
        guided = self._begin()
        along = passes if guided else (1 - _BLIND) * passes
        for leg in self.legs:
            self._climb(leg, leg.share * along, generator)
        if not guided:
            self._wander(end, generator)
        return guided

    def _begin(self) -> int:
        """Judges the clean images.  Returns for how many the score has a gradient there."""
        rows = self.alive()
        logits = self.logits(rows, self.images)
        self.gap = float(logit_margin(logits, self.labels).abs().median().clamp_min(1e-12))
        self.judge(rows, self.images)
        slopes = self.gradients(rows, self.images, self.objectives["score"])
        return int(slopes.gradients.flatten(1).any(1).sum())

    def _climb(self, leg: Leg, passes: float, generator: torch.Generator) -> None:
        """One leg; how many steps its passes allow is seen at its first."""
        rows, threat, points = self.alive(), self.threat, self.best
        if leg.start == "clean":
            points = self.images
        elif leg.start == "random":
            points = random_start(self.images, threat, generator)
        objective, before = self.objectives[leg.objective], self._spent()
        self.keep(rows, points, self.gradients(rows, points, objective).margins.double())
        cost = max(self._spent() - before, 1.0)
        usual = cosine(threat.radius, max(int(passes / cost) - 1, _FEWEST), leg.unsigned)
        schedule = [replace(step, size=leg.small * step.size) for step in usual]
        momentum = _MOMENTUM if threat.norm == "L2" else 0.0
        self.ascend(rows, points, objective, schedule, momentum)

    def _wander(self, end: float, generator: torch.Generator) -> None:
        """Random search from the best images, until that many passes are spent."""
        rows, before = self.alive(), self._spent()
        flip_squares(self, rows, _TOGETHER, generator, _TOGETHER)
        cost = max(self._spent() - before, 1.0)
        if (rounds := int((end - self._spent()) / cost)) > 0:
            flip_squares(self, rows, rounds * _TOGETHER, generator, _TOGETHER)

    def _spent(self) -> float:
        """Passes of a sample so far, on average."""
        return float(self.model.passes(len(self.images)).mean())

    def keep(self, rows: Tensor, points: Tensor, margins: Tensor) -> None:
        """What is the best yet of these samples, none of them twice."""
        better = margins > self.margin[rows]
        chosen = rows[better]
        self.best[chosen], self.margin[chosen] = points[better], margins[better]

    @torch.no_grad()
    def margins(self, rows: Tensor, points: Tensor) -> Tensor:
        """Merits (B,) of points, float64."""
        parts = []
        for at in torch.arange(len(rows), device=rows.device).split(self.batch_size):
            with self.model.attending(rows[at]), exact_float32():
                parts.append(self.merits(self.look(rows[at], points[at], None)))
        return torch.cat(parts).double()

    def look(self, rows: Tensor, points: Tensor, targets: Tensor | None) -> Seen:
        """What the model and its detector say of points."""
        logits, scores = self.guard.look(self.model, points)
        require_finite(logits)
        return Seen(logits, {}, self.labels[rows], targets, scores)

    def slopes(
        self, rows: Tensor, points: Tensor, objective: Objective, targets: Tensor | None = None
    ) -> Slopes:
        """Merits, and the objective's gradients, of one pass."""
        moved = points.detach().requires_grad_()
        with self.model.attending(rows), torch.enable_grad():
            seen = self.look(rows, moved, targets)
            losses = objective.losses(seen)
            across = objective.across
            gradient = input_gradient(losses, moved, keep=across is not None)
            if across is not None:
                gradient = _without(gradient, input_gradient(across(seen), moved))
        merits = self.merits(seen).detach()
        return Slopes(merits, torch.zeros_like(merits), losses.detach(), gradient)

    def merits(self, seen: Seen) -> Tensor:
        """(B,) How good points are, in units of the score, above zero from its threshold on."""
        surplus = self._surplus(seen)
        if self.goal != "evade":
            return surplus
        margin = self._margin(seen)
        return torch.where(margin > 0, surplus, margin - _RIGHT)

    def _margin(self, seen: Seen) -> Tensor:
        return logit_margin(seen.logits, seen.labels).double() / self.gap

    def _surplus(self, seen: Seen) -> Tensor:
        """How far the score is beyond the threshold, to the side that is wanted."""
        assert seen.scores is not None, "every look gives some"
        above = (seen.scores.double() - self.guard.threshold) / self.guard.unit
        return -above if self.goal == "reject" else above

    def _joint(self, seen: Seen) -> Tensor:
        return torch.minimum(self._margin(seen), self._surplus(seen))

    def _selective(self, seen: Seen) -> Tensor:
        margin = self._margin(seen)
        return torch.where(margin > 0, self._surplus(seen), margin)

    def _unselected(self, seen: Seen) -> Tensor:
        margin = self._margin(seen)
        return torch.where(margin > 0, margin, self._surplus(seen))


def _without(gradient: Tensor, other: Tensor) -> Tensor:
    """A gradient (B, C, H, W) less its component along another; itself where nothing is left."""
    along, flat = other.flatten(1), gradient.flatten(1)
    length = along.square().sum(1, keepdim=True)
    share = (flat * along).sum(1, keepdim=True) / length.clamp_min(1e-30)
    left = torch.where(length > 0, flat - share * along, flat)
    lost = left.norm(dim=1, keepdim=True) <= 1e-6 * flat.norm(dim=1, keepdim=True)
    return torch.where(lost, flat, left).view_as(gradient)
