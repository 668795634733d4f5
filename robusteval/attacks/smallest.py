"""The smallest perturbation that breaks each sample, by one ascent through balls of its own size.

In the manner of FMN (Pintor et al. 2021, "Fast Minimum-norm Adversarial Attacks"): each sample's
ball shrinks while it is broken, and grows while it isn't.  Here ascent is on the logit margin,
the first ball is where a linear model would break, in L2 larger balls come before it, and the last
word on a success is the model's own, in its own precision.
"""

import math
from collections.abc import Iterator
from itertools import cycle, product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.leading import leader_of
from robusteval.attacks.levels import Moves, levels_of
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.pieces import PROBES, Pieces, in_parts, linear_on_pieces
from robusteval.attacks.ranges import require_within, whole
from robusteval.attacks.ranking import aims, ranked_classes
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack, defaults_of
from robusteval.attacks.search import MARGIN, PROBED, Objective, Search, Slopes
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import (
    ascent_direction,
    free_gradient,
    norms,
    per_sample,
    project_fully,
)
from robusteval.attacks.straight import ReadStraight
from robusteval.types import Norm, ThreatModel, parse_eps

_RANGES = {"steps": whole(2)}
_MOMENTUM = 0.5
_FIRST_RATE, _LAST_RATE = 0.2, 0.002  # by which a ball shrinks or grows
_FIRST_SIZE, _LAST_SIZE = 1.0, 0.01  # of a step, in units of the ball
# In L2 a round's first share of steps goes through balls that shrink from so many times the
# smallest known: as in ``search.shrinking``, what breaks there shows ways that none finds inside.
_WIDE_SHARE, _WIDER, _WIDE_SIZE = {"Linf": 0.0, "L2": 0.2}, 6.0, 2.0
_BEYOND = 1.02  # the first ball, in units of a linear model's distance to the boundary
_TINY = torch.finfo(torch.float32).tiny
# Steps of the first ascent, and together of those towards the first wrong classes, or prototypes.
_MARGIN_STEPS, _AIM_STEPS, _AIMS = 50, 48, 4
# Then, by turns, those of small ascents from the best images, and towards so many further classes.
_FINE_STEPS, _FURTHER_STEPS, _FURTHER = 25, 25, 3
_TURNED = 0.9  # cosine of gradients a small step apart, below which they are at a kink
_NARROWING = 8  # steps that moving levels towards one class counts as
_FINE = 0.1  # the rates and sizes of small ones, as a share of the usual ones


class Leg(NamedTuple):
    """One ascent: its steps, towards which place of the ranked classes, None for any, and how.

    ``fine``: by small steps from the best images, not from the clean ones.
    """

    steps: int
    place: int | None = None
    fine: bool = False


def legs(places: int) -> Iterator[Leg]:
    """Without end, and the same however many steps there are: more of them never find less."""
    first = min(places, _AIMS)
    yield Leg(_MARGIN_STEPS)
    yield from (Leg(_AIM_STEPS // first, place) for place in range(first))
    further = cycle(range(first, places)) if places > first else cycle(range(places))
    while True:
        yield Leg(_FINE_STEPS, fine=True)
        yield from (Leg(_FURTHER_STEPS, next(further)) for _ in range(_FURTHER))


@attack
def smallest(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    steps: int = 100,
) -> Tensor:
    """Images (B, C, H, W) in [0, 1], each with the smallest perturbation found that breaks it.

    A sample that nothing broke comes back as it is.

    - ``threat`` names the norm; its ε is not used.
    - ``steps``: 2 or more; a hundred are of use.

    It makes at most ``steps`` forward and backward passes, and as many forward passes again, by
    which the model itself checks each success. Eleven more, and one for each 20 steps, look for
    randomness and a gradient, rank classes and look at the last points of each ascent. A model
    whose outputs change is judged by mean logits along mean gradients, of eight passes each, and a
    success by up to 264. Only its draws depend on ``seed``.

    Where clean images have no gradient, it goes by what has some, as ``adaptive`` does. Where
    pixels are read in steps, it moves them to other levels first, which counts as eight steps for
    each class, and in L2 as eight more to try a little less. Where the margin is linear on pieces,
    as of the nearest of prototypes of pixels, it follows these after the first ascent, by cutting
    planes (see ``pieces``).

    Raises AttackError for images outside [0, 1], for logits that are NaN or infinite, if no
    gradient reaches the images, and in inference mode.

    The radius goes as ε in Algorithm 1 of FMN (Pintor et al. 2021, arXiv:2102.12827). It becomes (1
    − γ) times as large while the sample is broken and (1 + γ) times while it isn't, and γ falls by
    a cosine. Until a sample is broken, the radius is as far as a linear model would need. In L2 a
    fifth of an ascent's steps come first, through balls that shrink from six times the smallest
    norm known. Ascents follow each other in an order that knows nothing of ``steps`` (see
    ``legs``), so that more steps never find larger norms. Where a small step turns the gradient,
    in L∞ the next goes along the gradient itself, not its signs. That ascents through larger balls
    find more is the idea of Constraint Relaxation (AAAI 2025; see ``cr``).
    """
    require_within("smallest", {"steps": steps}, _RANGES)
    if len(images) == 0:
        return images
    with seeded(seed, images.device):  # a model may draw from the global generators
        counted = as_counted(model, images, labels)
        with gradients_needed(counted, images):
            return Shrinking(counted, images, labels, threat.norm, seed).run(steps)


class Shrinking:
    """One search on one batch; ``known`` (B,) are the smallest norms that break a sample so far."""

    def __init__(
        self, model: Counted, images: Tensor, labels: Tensor, norm: Norm, seed: int = 0
    ) -> None:
        images = images.detach()
        self.largest = 1.0 if norm == "Linf" else math.sqrt(images[0].numel())
        anything = ThreatModel(norm, parse_eps(math.ceil(self.largest)))
        self.search = Search(model, images, labels, anything)
        self.model, self.images, self.norm, self.seed = model, images, norm, seed
        self.best = images.clone()
        self.known = torch.full_like(images[:, 0, 0, 0], torch.inf)
        self.rows = torch.arange(len(images), device=images.device)

    def run(self, steps: int) -> Tensor:
        """The best images, by what has a gradient."""
        self.search.beware()
        leader = None
        if self.search.votes == 1 and self._is_flat():
            leader = leader_of(self.search, self.rows, self.seed)
        with self.model.led_by(leader or self.model.fast):
            if isinstance(leader, ReadStraight) and leader.stepped:
                steps = self.move_levels(leader, steps)
            self.climb_by_turns(steps)
        return self.best

    def _is_flat(self) -> bool:
        """Whether no clean image that is looked at has a gradient."""
        some = self.rows[:PROBED]
        with self.model.quickly():
            return not self.search.slopes(some, self.images[some], MARGIN).gradients.any()

    def move_levels(self, leader: ReadStraight, steps: int) -> int:
        """Pixels that are read in steps to other levels, towards one class after the other; the
        steps that are left."""
        if (levels := levels_of(self.search, leader)) is None:
            return steps
        moves = Moves(self.search, leader, levels)
        classes = ranked_classes(self.search, self.rows, self.images).T
        # In L∞ pixels share no budget, and a choice of them is the best there is.
        attempts = (moves.narrow, moves.shave) if self.norm == "L2" else (moves.narrow,)
        for attempt, aimed_at in product(attempts, classes):
            if steps < _NARROWING:
                break
            known = self.known.clamp_max(self.largest)
            attempt(aimed_at, known, self._broken, 2 * _NARROWING - 2)
            steps -= _NARROWING
        return steps

    def _broken(self, points: Tensor) -> Tensor:
        return self._note(points, torch.ones_like(self.known, dtype=torch.bool))

    def climb_by_turns(self, steps: int) -> None:
        """For whatever is closest first, then towards classes by turns."""
        objective, targets = aims(self.search, self.rows, self.images)
        for number, leg in enumerate(legs(targets.shape[1])):
            if number == 1:
                steps = self.follow_pieces(steps)
            if steps <= 0:
                break
            if leg.place is None:
                self.climb(leg, steps, MARGIN, None)
            else:
                self.climb(leg, steps, objective, targets[:, leg.place])
            steps -= leg.steps

    def follow_pieces(self, steps: int) -> int:
        """Where the model is linear on pieces; the steps that are left."""
        if self.search.votes > 1 or steps < PROBES:
            return steps
        with self.model.led_by(None):
            objective = linear_on_pieces(self.search, self.rows)
            if objective is None:
                return steps - PROBES
            return min(
                Pieces(self.search, at, self.known[at], self._shorter, objective).run(
                    steps - PROBES
                )
                for at in in_parts(self.search, self.rows)
            )

    def _shorter(self, rows: Tensor, points: Tensor) -> Tensor:
        self._keep(rows, points)
        return self.known[rows]

    def climb(
        self,
        leg: Leg,
        steps: int,
        objective: Objective,
        targets: Tensor | None,
        start: Tensor | None = None,
    ) -> None:
        """One ascent, or as much of it as so many steps allow, from ``start`` (B, C, H, W), if it
        isn't the leg's own."""
        images, scale = self.images, _FINE if leg.fine else 1.0
        points = (self.best if leg.fine else images if start is None else start).clone()
        velocity = torch.zeros_like(images)
        radius = first = torch.zeros_like(self.known)
        before = torch.zeros_like(images)
        if leg.fine:
            radius = torch.where(self.known.isinf(), radius, self.known)
        wide = 0 if leg.fine else int(_WIDE_SHARE[self.norm] * leg.steps)
        for step in range(min(leg.steps, steps)):
            slopes = self.search.gradients(self.rows, points, objective, targets)
            doubts = 0 if self.search.is_exact else slopes.doubts
            broken = self._note(points, slopes.margins + doubts > 0)
            if step == 0:
                first = self._linear(points, slopes)
            if step < wide:
                size = _falling(step / wide, _WIDE_SIZE, 0)
                radius = self._widened(first, step / wide)
            else:
                passed = (step - wide) / (leg.steps - wide)
                size = scale * _falling(passed, _FIRST_SIZE, _LAST_SIZE)
                rate = scale * _falling(passed, _FIRST_RATE, _LAST_RATE)
                radius = self._resized(radius, points, slopes, broken, rate)
            kinks = None
            if leg.fine and step and self.norm == "Linf":  # in L2 gradients have no signs to lose
                kinks = _at_kinks(slopes.gradients, before)
            before = slopes.gradients
            velocity = _MOMENTUM * velocity + self._direction(before, points, kinks)
            direction = self._direction(velocity, points, kinks)
            moved = points + per_sample(size * radius, images) * direction
            points = project_fully(moved, images, self.norm, per_sample(radius, images))
        self._broken(points)

    def _direction(self, gradients: Tensor, points: Tensor, kinks: Tensor | None) -> Tensor:
        """Within [0, 1]: by the norm's steps, at kinks (B,) along gradients themselves."""
        free = free_gradient(gradients, points)
        direction = ascent_direction(free, self.norm)
        if kinks is None:
            return direction
        along = ascent_direction(free, self.norm, unsigned=True)
        return torch.where(per_sample(kinks, free), along, direction)

    def _note(self, points: Tensor, broken: Tensor) -> Tensor:
        """Keeps what breaks a sample at a smaller norm than is known; (B,) whether it breaks."""
        rows = self.rows[broken]
        if len(rows) == 0:
            return broken
        return broken.index_put((rows,), self._keep(rows, points[rows]))

    def _keep(self, rows: Tensor, points: Tensor) -> Tensor:
        """The same of points (b, C, H, W) of the samples ``rows``; (b,) whether they break them."""
        broken = self.search.confirmed(rows, points) > 0
        lengths = norms(points - self.images[rows], self.norm)
        smaller = broken & (lengths < self.known[rows])
        chosen = rows[smaller]
        self.best[chosen], self.known[chosen] = points[smaller], lengths[smaller]
        return broken

    def _resized(
        self, radius: Tensor, points: Tensor, slopes: Slopes, broken: Tensor, rate: float
    ) -> Tensor:
        """Smaller where broken, larger where not; at first as a linear model would break."""
        grown = torch.where(
            self.known.isinf() | (radius == 0),
            torch.maximum(_BEYOND * self._linear(points, slopes), (1 + rate) * radius),
            (1 + rate) * radius,
        )
        grown = torch.minimum(grown, (1 - rate) * self.known)
        shrunk = (1 - rate) * torch.minimum(radius, self.known)
        return torch.where(broken, shrunk, grown).clamp(1e-8, self.largest)

    def _widened(self, first: Tensor, passed: float) -> Tensor:
        """Radii of the balls by which a round begins, for the share of them that has passed."""
        smallest_known = torch.where(self.known.isinf(), first, self.known)
        wider: float = _WIDER ** (1 - passed)
        return (wider * smallest_known).clamp(1e-8, self.largest)

    def _linear(self, points: Tensor, slopes: Slopes) -> Tensor:
        """How far from the clean image a linear model would break."""
        gradients = slopes.gradients
        dual = gradients.flatten(1).abs().sum(1) if self.norm == "Linf" else norms(gradients, "L2")
        return norms(points - self.images, self.norm) - slopes.losses / dual.clamp_min(_TINY)


def _falling(passed: float, first: float, last: float) -> float:
    """From first to last by a cosine, where that share of the way has passed."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * passed))


def _at_kinks(gradients: Tensor, before: Tensor) -> Tensor:
    """Where a small step has turned the gradient (B,): two take turns there, as where two
    prototypes are as near, and their signs only swing to and fro (see ``search.Step``)."""
    cosines = nn.functional.cosine_similarity(gradients.flatten(1), before.flatten(1))
    return cosines < _TURNED


ATTACKS = (
    Attack(
        name="smallest",
        library=ROBUSTEVAL,
        function=smallest,
        norms=BOTH,
        knows_eps=False,
        needs=ANY_MODEL,
        gradients="uses",
        by_sample=False,
        # Each success is looked at once more.
        passes=lambda given, classes: (
            2 * given["steps"] + given["steps"] // 20 + 11,
            given["steps"] + 1,
        ),
        parameters=_RANGES,
        defaults=defaults_of(lambda: smallest),
        version=5,
    ),
)
