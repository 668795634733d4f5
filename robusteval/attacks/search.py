"""The gradient oracle: one forward and one backward pass a step, on what is not yet broken.

Gradients may come from a faster, rougher form of the model; a sample counts as broken only after
the model itself, in its own precision, mispredicts the image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.inputs import require_images
from robusteval.attacks.losses import distance_margin, logit_margin, of_class, require_finite
from robusteval.attacks.luck import sure_margins
from robusteval.attacks.steps import (
    ascent_direction,
    free_gradient,
    input_gradient,
    kicked,
    norms,
    project_fully,
)
from robusteval.hardware import exact_float32
from robusteval.models.acceleration import static_batch
from robusteval.types import ThreatModel

# By this share of the logits' spread a rough form's margins may be off: bfloat16 has eight bits.
_ROUGH = 0.02
_ULPS = 16 * torch.finfo(torch.float32).eps  # what float32 arithmetic may change in any order
_ROUNDED = 1e-6  # so far float32 arithmetic may carry a point out of the ball
PROBED = 32  # samples that randomness and masking are looked for on
DRAWS = 8  # passes that a masked or random model's gradient is averaged over
_RANDOM = 1e-4  # change of logits between two passes, as a share of their spread


@dataclass(frozen=True)
class Seen:
    """What a pass tells an objective: logits (B, K), squared distances (B, K, M) by layer, labels
    (B,), and the class (B,), or the prototype's place in K·M, that each sample is driven towards,
    if it is; a detector's scores (B,), if there is one (see ``evasion``)."""

    logits: Tensor
    squared: dict[str, Tensor]
    labels: Tensor
    targets: Tensor | None
    scores: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """What ascent maximises: ``losses`` gives (B,).  ``distances``: whether it reads prototypes;
    ``across``: what gives a loss (B,) that steps must leave as it is, if there is one."""

    losses: Callable[[Seen], Tensor]
    distances: bool = False
    across: Callable[[Seen], Tensor] | None = None


@dataclass(frozen=True)
class Step:
    """How far to go, and the radius of the ball around the clean image to be put in after it.

    ``unsigned``: in L∞ along the gradient itself, and not its signs.  At a kink, where two
    gradients take turns, their signs only swing to and fro, while small steps along both add up to
    a way on.
    """

    size: float
    radius: float
    unsigned: bool = False


def _aimed(seen: Seen) -> Tensor:
    assert seen.targets is not None
    return of_class(seen.logits, seen.targets) - of_class(seen.logits, seen.labels)


def _pulled(seen: Seen) -> Tensor:
    *_, deepest = seen.squared.values()
    return distance_margin(deepest, seen.labels)


def _pulled_to(seen: Seen) -> Tensor:
    assert seen.targets is not None
    *_, deepest = seen.squared.values()
    own = deepest[torch.arange(len(deepest), device=deepest.device), seen.labels].amin(1)
    return own - deepest.flatten(1).gather(1, seen.targets[:, None])[:, 0]


MARGIN = Objective(lambda seen: logit_margin(seen.logits, seen.labels))
AIMED = Objective(_aimed)
PULLED = Objective(_pulled, distances=True)  # to the nearest prototype of another class
PULLED_TO = Objective(_pulled_to, distances=True)  # to one of them


class Slopes(NamedTuple):
    """What one step is taken by: rough margins (B,), how far they may be off (B,), losses (B,),
    gradients (B, C, H, W)."""

    margins: Tensor
    doubts: Tensor
    losses: Tensor
    gradients: Tensor

    def plus(self, other: "Slopes") -> "Slopes":
        """With another draw's losses and gradients added; margins stay those of the first."""
        sums = (self.losses + other.losses, self.gradients + other.gradients)
        return Slopes(self.margins, self.doubts, *sums)


@dataclass(frozen=True)
class Climb:
    """Where the samples of an ascent stand: everything of those that are left, and nothing else.

    ``rows`` (B,) into the search; ``points``, ``velocity``, ``clean`` and ``crest``, the image with
    the highest rough margin in the ball, (B, C, H, W); ``highest`` (B,) that margin, −∞ while none
    counts, ``doubts`` (B,) its possible error; ``targets`` (B,), if there are any;
    ``gradients`` (B, C, H, W), the last that weren't zero.
    """

    rows: Tensor
    points: Tensor
    velocity: Tensor
    clean: Tensor
    crest: Tensor
    highest: Tensor
    doubts: Tensor
    targets: Tensor | None
    gradients: Tensor | None = None

    def only(self, kept: Tensor) -> "Climb":
        """Those that are kept (B,)."""
        if kept.all():  # nothing is copied while nothing breaks
            return self
        parts = {k: None if v is None else v[kept] for k, v in vars(self).items()}
        return Climb(**parts)  # type: ignore[arg-type]

    def with_crest(self, slopes: Slopes, floor: float) -> "Climb":
        """With the points that are higher than any before, and may be above the floor."""
        higher = (slopes.margins > self.highest) & (slopes.margins + slopes.doubts > floor)
        if not higher.any():  # as a rule, and images are large
            return self
        shape = (-1, *[1] * (self.points.dim() - 1))
        return replace(
            self,
            crest=torch.where(higher.view(shape), self.points, self.crest),
            highest=torch.maximum(slopes.margins, self.highest),
            doubts=torch.where(higher, slopes.doubts, self.doubts),
        )


class Search:
    """Attacked samples, and the best that is known of each.

    ``best`` (B, C, H, W) holds the first image that broke a sample, else the one with the largest
    margin so far; ``margin`` (B,) its margin by the model itself; ``broken`` (B,).  ``draws``:
    passes that a gradient is averaged over, each but the first at what ``nearby`` makes of the
    points (B, C, H, W), if it is given.  ``votes``: how many forward passes are averaged to decide
    success.  A success is confirmed by fresh ones, because among hundreds of tries one succeeds by
    luck.  ``flat`` (B,): whether a gradient was zero where an ascent stood in the ball.
    """

    def __init__(self, model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel) -> None:
        require_images(images)
        images = images.detach()
        self.model, self.images, self.labels = model, images, labels.long()
        self.threat = threat
        self.draws = self.votes = 1
        self.nearby: Callable[[Tensor], Tensor] | None = None
        self.batch_size = static_batch(images.device, images.shape[1:].numel())
        self.best = images.clone()
        self.margin = images.new_full((len(images),), -torch.inf, dtype=torch.float64)
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.flat = torch.zeros_like(self.broken)
        self.sloped = False  # whether any gradient wasn't zero
        self.seen: Tensor | None = None  # logits of the first samples
        self.kicks: torch.Generator | None = None  # where a zero gradient is no zero step

    @property
    def is_exact(self) -> bool:
        """Whether a step's own pass is the model's last word, too."""
        return self.model.fast is None and self.votes == 1 and not self.images.is_cuda

    def alive(self, rows: Tensor | None = None) -> Tensor:
        """Those of ``rows`` (all by default) that are not yet broken."""
        if rows is None:
            return torch.nonzero(~self.broken)[:, 0]
        return rows[~self.broken[rows]]

    def nearest(self, rows: Tensor, wanted: int) -> Tensor:
        """So many of the rows, those whose best margin is largest."""
        order = self.margin[rows].argsort(descending=True, stable=True)
        return rows[order[:wanted]].sort().values

    def beware(self) -> bool:
        """Whether outputs change between passes; if so, mean gradients and mean logits decide."""
        images = self.images[:PROBED]
        rows = torch.arange(len(images), device=images.device)
        first, second = (self.logits(rows, images) for _ in range(2))
        self.seen = second
        least = torch.maximum(_RANDOM * spread(second), _ULPS * second.abs().amax(1))
        changed = ((first - second).abs().amax(1) > least).any()
        if changed:
            self.draws = self.votes = DRAWS
        return bool(changed)

    def judge(self, rows: Tensor, points: Tensor) -> Tensor:
        """Margins (B,) by the model itself; what breaks a sample, or is its best yet, is kept."""
        margins = self.confirmed(rows, points)
        self.keep(rows, points, margins)
        return margins

    def confirmed(self, rows: Tensor, points: Tensor) -> Tensor:
        """Margins (B,) of points by the model itself; of a random one, luck is looked at again."""
        margins = self.margins(rows, points)
        if self.votes > 1 and (lucky := margins > 0).any():
            margins[lucky] = sure_margins(self, rows[lucky], points[lucky])
        return margins

    def margins(self, rows: Tensor, points: Tensor) -> Tensor:
        """Margins (B,) of points by the model itself, float64."""
        return logit_margin(self.logits(rows, points), self.labels[rows]).double()

    def keep(self, rows: Tensor, points: Tensor, margins: Tensor) -> None:
        """What breaks one of these samples, none of them twice, or is its best yet."""
        better = (margins > self.margin[rows]) & ~self.broken[rows]
        chosen = rows[better]
        self.best[chosen], self.margin[chosen] = points[better], margins[better]
        self.broken[chosen] |= margins[better] > 0

    @torch.no_grad()
    def logits(self, rows: Tensor, points: Tensor) -> Tensor:
        """Logits (B, K) of points by the model itself.  Raises AttackError if not finite."""
        parts = []
        for at in torch.arange(len(rows), device=rows.device).split(self.batch_size):
            with self.model.attending(rows[at]), exact_float32():
                passes = [self.model(points[at]) for _ in range(self.votes)]
            parts.append(torch.stack(passes).mean(0) if self.votes > 1 else passes[0])
        logits = torch.cat(parts)
        require_finite(logits)
        return logits

    def ascend(
        self,
        rows: Tensor,
        points: Tensor,
        objective: Objective,
        schedule: list[Step],
        momentum: float = 0.0,
        targets: Tensor | None = None,
    ) -> None:
        """Steps by a schedule on the samples ``rows`` from ``points`` (B, C, H, W).

        Samples leave as soon as they are broken, which only an image in the ball can tell.  The
        last points are judged at the end, and where gradients are rough the highest, too, if they
        may break their samples.  Where another model leads, they are judged in any case: its last
        points are often not the best.
        """
        clean, nowhere = self.images[rows], points.new_full((len(rows),), -torch.inf)
        still, sure = torch.zeros_like(points), torch.zeros_like(nowhere)
        climb = Climb(rows, points, still, clean, points, nowhere, sure, targets)
        inside = self._all_inside(clean, points)
        floor = -torch.inf if self.model.led else 0.0
        for step in schedule:
            slopes = self.gradients(climb.rows, climb.points, objective, climb.targets)
            if inside and self.is_exact:
                self.keep(climb.rows, climb.points, slopes.margins.double())
            elif inside:
                suspects = slopes.margins > 0
                if suspects.any():
                    self.judge(climb.rows[suspects], climb.points[suspects])
                climb = climb.with_crest(slopes, floor)
            kept = ~self.broken[climb.rows]
            climb = climb.only(kept)
            if len(climb.rows) == 0:
                return
            gradients = slopes.gradients if kept.all() else slopes.gradients[kept]
            climb = self._sloped(climb, gradients, inside)
            climb = self._step(climb, step, momentum)
            inside = step.radius <= self.threat.radius
        self.judge(climb.rows, climb.points)
        climb = climb.only(~self.broken[climb.rows] & (climb.highest + climb.doubts > floor))
        if len(climb.rows):
            self.judge(climb.rows, climb.crest)

    def _all_inside(self, clean: Tensor, points: Tensor) -> bool:
        """Whether the points of an ascent (B, C, H, W) begin in the ball: far ones tell nothing."""
        lengths = norms(points - clean, self.threat.norm)
        return bool((lengths <= self.threat.radius + _ROUNDED).all())

    def gradients(
        self, rows: Tensor, points: Tensor, objective: Objective, targets: Tensor | None = None
    ) -> Slopes:
        """Where the samples ``rows`` stand at ``points``, and which way is up.

        Those that are left are cut into full batches anew at each step.
        """
        parts = []
        with self.model.quickly():
            for at in torch.arange(len(rows), device=rows.device).split(self.batch_size):
                aimed = None if targets is None else targets[at]
                slopes = self.slopes(rows[at], points[at], objective, aimed)
                for _ in range(self.draws - 1):
                    there = points[at] if self.nearby is None else self.nearby(points[at])
                    slopes = slopes.plus(self.slopes(rows[at], there, objective, aimed))
                parts.append(slopes)
        return Slopes(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def slopes(
        self, rows: Tensor, points: Tensor, objective: Objective, targets: Tensor | None = None
    ) -> Slopes:
        """The same of one pass, by whatever form of the model computes now."""
        moved = points.detach().requires_grad_()
        with self.model.attending(rows), torch.enable_grad():
            if objective.distances:
                logits, squared = self.model.logits_and_distances(moved)
            else:
                logits, squared = self.model(moved), {}
            losses = objective.losses(Seen(logits, squared, self.labels[rows], targets))
            gradient = input_gradient(losses, moved)
        logits = logits.detach()
        margins = logit_margin(logits, self.labels[rows])
        return Slopes(margins, _ROUGH * spread(logits), losses.detach(), gradient)

    def _sloped(self, climb: Climb, gradients: Tensor, inside: bool) -> Climb:
        """With gradients to step by: a kick takes the place of a zero one, which is noted."""
        flat = ~gradients.flatten(1).any(1)
        self.sloped |= not flat.all()
        if flat.any():
            self.flat[climb.rows[flat]] |= inside
            if (kicks := self.kicks) is not None:
                gradients = kicked(gradients, climb.gradients, kicks if self.sloped else None)
        return replace(climb, gradients=gradients)

    def _step(self, climb: Climb, step: Step, momentum: float) -> Climb:
        """New points and velocities."""
        norm, points, gradients = self.threat.norm, climb.points, climb.gradients
        assert gradients is not None, "they were looked at"
        if norm == "L2":  # in L∞ pixels don't share a length: what is cut costs the others nothing
            gradients = free_gradient(gradients, points)
        direction = ascent_direction(gradients, norm, step.unsigned)
        if momentum:
            velocity = torch.add(direction, climb.velocity, alpha=momentum)
            free = free_gradient(velocity, points) if norm == "L2" else velocity
            climb, direction = (
                replace(climb, velocity=velocity),
                ascent_direction(free, norm, step.unsigned),
            )
        moved = torch.add(points, direction, alpha=step.size)
        return replace(climb, points=project_fully(moved, climb.clean, norm, step.radius))


def spread(logits: Tensor) -> Tensor:
    """From the smallest to the largest of each sample's logits (B, K): (B,).

    A threshold in units of it knows neither their scale nor a constant added to them.
    """
    return logits.amax(1) - logits.amin(1)


def cosine(radius: float, steps: int, unsigned: bool = False) -> list[Step]:
    """Sizes that fall by a cosine from 2ε to nearly 0, in the ball of that radius."""
    sizes = [radius * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
    return [Step(size, radius, unsigned) for size in sizes]


def shrinking(
    radius: float, steps: int, factors: Sequence[float] = (6, 2, 1), unsigned: bool = False
) -> list[Step]:
    """As many cosines as there are balls, each from where the larger one's ended.

    What is adversarial in a larger ball shows a way that no ascent from inside the smaller one
    finds.  In L∞ the idea is published as Constraint Relaxation (AAAI 2025; see ``cr``), in L1 as a
    part of APGD (Croce and Hein 2021).  The last factor is 1.
    """
    schedule: list[Step] = []
    left = steps
    for place, factor in enumerate(factors):
        phase = cosine(factor * radius, left // (len(factors) - place), unsigned)
        left -= len(phase)
        following = [*factors[1:], 1][place]
        schedule += [
            *phase[:-1],
            *(replace(step, radius=following * radius) for step in phase[-1:]),
        ]
    return schedule
