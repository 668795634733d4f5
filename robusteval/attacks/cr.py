"""``cr``: Constraint Relaxation, the published attack whose ascents leave the ball on purpose."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import BACKWARD, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import COUNT, optional, require_norms, require_within, whole
from robusteval.attacks.record import ANY_MODEL, LINF, Attack, Parameters, defaults_of
from robusteval.attacks.search import AIMED, Objective, Search, Slopes
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import project_fully, random_start
from robusteval.hardware import exact_float32
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

_RANGES = {
    "targets": COUNT,
    "cycles": COUNT,
    "cycle_steps": whole(3),
    "restarts": COUNT,
    "passes_per_sample": optional(whole(3)),
}
# The public code's constants (github.com/fzjcdt/constraint-relaxation-attack, commit 31a17e6,
# attacks/attacks/cr_attack.py).
_FIRST_SHARE = 0.5  # of ε, by which the first cycle's ball is wider; each cycle's is half as much,
_LEAST_SHARE = 0.05  # but no less than this
_CE_STEP = 0.5  # of ε: what ranks the targets steps so far,
_CE_SLOW_STEP = 0.25  # and once, in the middle, half as far
_NEAR = 0.05  # in units of logits: a margin that brings a sample another restart
_FAR = 1.0  # times the cycle's share, in units of logits: from where a sample leaves at mid-cycle
CROSS_ENTROPY = Objective(lambda seen: F.cross_entropy(seen.logits, seen.labels, reduction="none"))


@attack
def cr(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    targets: int = 3,
    cycles: int = 5,
    cycle_steps: int = 30,
    restarts: int = 5,
    passes_per_sample: int | None = None,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1] and labels (B,), in L∞: *Efficient
    Robustness Evaluation via Constraint Relaxation* (AAAI 2025), written anew from its public code.

    A third of ``cycle_steps`` steps on cross-entropy from a random start ranks the wrong classes.
    Towards each of the first ``targets`` go ``cycles`` cycles from a random start, by signs of the
    targeted margin's gradient.  A cycle has a share: ½, then half the last one's, 0.05 at least.
    Steps are the share times ε.  A third of the cycle goes in a ball of ε (1 + share), a third at
    ε; then the perturbation is cut to ε (1 − share), noise of share times ε is added, and the rest
    goes at ε.  While the ball is wide, each step's image is cut to ε and looked at by one more
    pass; from then on a step's own pass tells whether its target is reached.  At mid-cycle samples
    leave whose logit margin to the target is above the share.  Those whose margin came below 0.05
    are tried again, at most ``restarts`` times in all.  The public code takes three targets for ten
    classes, five for a hundred and seven for a thousand (the logarithm, rounded up).

    The two thresholds are in units of logits, as published: on logits a thousand times as large
    nearly all samples leave at mid-cycle, and on much smaller ones none.  What this version does
    otherwise: no pass is made on a sample that is broken already, nor one whose answer is known
    (three for each target); a restart goes on to the next target where no sample of the batch came
    near the first, since neighbours in a batch should decide nothing.

    ``passes_per_sample``: a budget that the attack was not published with.  It ends before the
    survivors' mean passes, a backward one counted as two, exceed it.  Without it, a survivor takes
    at most (with the other defaults) 3,087 forward and 2,260 backward passes, and one that is far
    at every target 105 and 70.  Raises AttackError for another norm, for a model without
    gradients, and for images outside [0, 1].
    """
    given = {"targets": targets, "cycles": cycles, "cycle_steps": cycle_steps}
    given |= {"restarts": restarts}
    require_within("cr", {**given, "passes_per_sample": passes_per_sample}, _RANGES)
    require_norms("cr", (threat.norm,), LINF)
    if len(images) == 0:
        return images
    with seeded(seed, images.device):  # a model may draw from the global generators
        counted = as_counted(model, images, labels)
        search = Search(counted, images, labels, threat)
        length = _Length(**given, budget=passes_per_sample or math.inf)
        with counted.led_by(None), gradients_needed(counted, images), exact_float32():
            _Relaxation(search, length, seed).run()
    return search.best


@dataclass(frozen=True)
class _Length:
    """How long the attack goes on at most."""

    targets: int
    cycles: int
    cycle_steps: int
    restarts: int
    budget: float

    @property
    def third(self) -> int:
        """Steps of each phase, and of the ascent that ranks targets."""
        return self.cycle_steps // 3


@dataclass(frozen=True)
class _Phase:
    """Where in a cycle a step is, and the cycle's share of ε."""

    step: int
    third: int
    share: float

    @property
    def radius(self) -> float:
        """Of the ball that the step ends in, in units of ε."""
        return 1 + self.share if self.step < self.third else 1.0

    @property
    def is_checked_apart(self) -> bool:
        """Whether what the step leads to, cut to ε, is looked at by a pass of its own."""
        return self.step <= self.third

    @property
    def shrinks(self) -> bool:
        """Whether the ball shrinks, and noise is added, before the step."""
        return self.step == 2 * self.third

    @property
    def farthest(self) -> float:
        """The margin in logits from which samples leave, rather than take the step."""
        mid_cycle = self.step == 2 * self.third - 1 and not self.is_checked_apart
        return _FAR * self.share if mid_cycle else math.inf

    @property
    def cost(self) -> int:
        """Passes of the step, a backward one counted as two."""
        return 1 + BACKWARD + self.is_checked_apart


@dataclass(frozen=True)
class _Climb:
    """Samples on their way to one target each: ``rows`` (B,) into the search, ``points`` and
    ``clean`` (B, C, H, W), ``targets`` (B,)."""

    rows: Tensor
    points: Tensor
    clean: Tensor
    targets: Tensor

    def only(self, kept: Tensor) -> "_Climb":
        """Those that are kept (B,)."""
        if kept.all():  # nothing is copied while nothing leaves
            return self
        return _Climb(self.rows[kept], self.points[kept], self.clean[kept], self.targets[kept])


class _Relaxation:
    """``near`` (B, targets) holds which samples came near each target in the last restart."""

    def __init__(self, search: Search, length: _Length, seed: int) -> None:
        self.search, self.length = search, length
        self.eps = search.threat.radius
        self.generator = torch.Generator().manual_seed(seed)
        self.before = search.model.passes(len(search.images))

    def run(self) -> None:
        """All restarts."""
        ranked = self._ranked()
        if ranked is None:
            return
        near = torch.ones_like(ranked, dtype=torch.bool)
        for _ in range(self.length.restarts):
            came = torch.zeros_like(near)
            for place in range(near.shape[1]):
                rows = self.search.alive(torch.nonzero(near[:, place])[:, 0])
                came[:, place] = self._chase(rows, ranked[rows, place])
            near = came

    def _affords(self, passes: int) -> bool:
        alive = self.search.alive()
        if len(alive) == 0 or math.isinf(self.length.budget):
            return len(alive) > 0
        spent = self.search.model.passes(len(self.search.images)) - self.before
        return float(spent[alive.cpu()].mean()) + passes <= self.length.budget

    def _ranked(self) -> Tensor | None:
        """Wrong classes (B, targets) by their logits where cross-entropy led, the largest first;
        None where all samples are broken, or the budget ends before."""
        search, third = self.search, self.length.third
        rows = search.alive()
        points = random_start(search.images, search.threat, self.generator)
        search.judge(rows, points)
        for step in range(third):
            if not self._affords(1 + BACKWARD):
                break
            size = _CE_SLOW_STEP if step == third // 2 else _CE_STEP
            alive = search.alive()
            slopes = search.gradients(alive, points[alive], CROSS_ENTROPY)
            search.keep(alive, points[alive], slopes.margins.double())
            moved = points[alive] + size * self.eps * slopes.gradients.sign()
            points[alive] = project_fully(moved, search.images[alive], "Linf", self.eps)
        if not self._affords(1):
            return None
        return self._classes_at(search.alive(), points)

    def _classes_at(self, rows: Tensor, points: Tensor) -> Tensor:
        search = self.search
        count = min(self.length.targets, search.model.classes - 1)
        logits = search.logits(rows, points[rows])
        labels = search.labels[rows]
        search.keep(rows, points[rows], logit_margin(logits, labels).double())
        found = torch.zeros((len(points), count), dtype=torch.long, device=points.device)
        own = F.one_hot(labels, logits.shape[1]).bool()
        wrong = logits.masked_fill(own, -torch.inf)
        found[rows] = wrong.argsort(1, descending=True)[:, :count]
        return found

    def _phases(self) -> Iterator[_Phase]:
        share = 2 * _FIRST_SHARE
        for _ in range(self.length.cycles):
            share = max(share / 2, _LEAST_SHARE)
            for step in range(self.length.cycle_steps):
                yield _Phase(step, self.length.third, share)

    def _chase(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Drives samples to their targets (B,); which of all (B,) came near, or broke."""
        search = self.search
        near = torch.zeros_like(search.broken)
        clean = search.images[rows]
        points = random_start(clean, search.threat, self.generator)
        climb = _Climb(rows, points, clean, targets)
        for phase in self._phases():
            if len(climb.rows) == 0 or not self._affords(phase.cost):
                break
            climb = self._stepped(climb, phase, near)
        return near

    def _stepped(self, climb: _Climb, phase: _Phase, near: Tensor) -> _Climb:
        """After one step, without those that left; marks who came near."""
        search, share = self.search, phase.share
        if phase.shrinks:
            cut = project_fully(climb.points, climb.clean, "Linf", (1 - share) * self.eps)
            noisy = random_start(cut, search.threat, self.generator, share)
            climb = replace(climb, points=noisy)
        slopes = search.gradients(climb.rows, climb.points, AIMED, climb.targets)
        signs = slopes.gradients.sign()
        if not phase.is_checked_apart:
            kept = self._told_by(climb, slopes, phase.farthest, near)
            climb, signs = climb.only(kept), signs[kept]
        moved = climb.points + share * self.eps * signs
        points = project_fully(moved, climb.clean, "Linf", phase.radius * self.eps)
        climb = replace(climb, points=points)
        return self._checked_apart(climb, near) if phase.is_checked_apart else climb

    def _told_by(self, climb: _Climb, slopes: Slopes, farthest: float, near: Tensor) -> Tensor:
        """Who goes on (B,), by the margin to the target of the step's own pass."""
        margins = slopes.losses  # the target's logit less the label's
        near[climb.rows[margins > -_NEAR]] = True
        reached = margins > 0
        rows, points = climb.rows[reached], climb.points[reached]
        self.search.keep(rows, points, slopes.margins[reached].double())
        return ~reached & (margins >= -farthest)

    def _checked_apart(self, climb: _Climb, near: Tensor) -> _Climb:
        """Without those that are broken where their points are cut to ε, by any class."""
        if len(climb.rows) == 0:
            return climb
        inside = project_fully(climb.points, climb.clean, "Linf", self.eps)
        margins = self.search.margins(climb.rows, inside)
        near[climb.rows[margins > -_NEAR]] = True
        fooled = margins > 0
        self.search.keep(climb.rows[fooled], inside[fooled], margins[fooled])
        return climb.only(~fooled)


def _passes(given: Parameters, classes: int) -> tuple[int, int]:
    third, steps = given["cycle_steps"] // 3, given["cycle_steps"]
    cycles = given["restarts"] * min(given["targets"], classes - 1) * given["cycles"]
    forward, backward = third + 2 + cycles * (steps + third + 1), third + cycles * steps
    budget = given["passes_per_sample"]
    if budget is None:
        return forward, backward
    return min(forward, budget), min(backward, budget // (1 + BACKWARD))


ATTACKS = (
    Attack(
        name="cr",
        library=ROBUSTEVAL,
        function=cr,
        norms=LINF,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="uses",
        by_sample=True,
        passes=_passes,
        parameters=_RANGES,
        defaults=defaults_of(lambda: cr),
        version=1,
    ),
)
