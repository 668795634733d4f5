"""``adaptive``: an ordered cascade on survivors, with gradients spent where samples are near.

Its losses are margins of logits and of prototype distances, which cannot saturate as
cross-entropy on squared distances does; its targets are ranked by what the model says itself.

1. ``margin``: momentum steps on the logit margin, from the clean image, their sizes falling by a
   cosine from 2ε (as in PMA, arXiv:2411.15210; under signs the loss's scale doesn't matter).  In
   L2, here and below, through balls that shrink from 6ε (see ``search.shrinking``).
2. ``aim``: steps towards one wrong class at a time, from random starts, for the survivors that
   came nearest to breaking; classes are ranked by the margin left at their best image.
3. ``square``: a few gradient-free queries.  What they break and gradients did not says that
   gradients are masked.

Where gradients are masked or the model is random, the cascade says so, and goes on: ``pull`` draws
features to the nearest wrong prototype, which a head that hides its slope leaves open; then come
longer ascents, expectation over passes, and full AutoAttack.  On such a model strength alone
counts.  On honest ones ``pull`` broke nothing that ``aim`` didn't (see ``benchmarks/ablation.py``).
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.libraries import AttackResult, autoattack, torchattacks_attack
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.search import (
    AIMED,
    MARGIN,
    PULLED,
    Objective,
    Search,
    cosine,
    ranked_classes,
    shrinking,
)
from robusteval.attacks.steps import project, random_start
from robusteval.types import ThreatModel

BACKWARD = 2  # a backward pass costs about as much as two forward ones
_MARGIN_STEPS = {"Linf": 20, "L2": 30}
_AIMED_STEPS = 40
_INSISTING = 100  # steps where gradients are masked
_MOST_CLASSES = 9  # that a sample is driven towards
_NEAR = 0.3  # the share of survivors that further steps are spent on first
_FEWEST = 32  # but no fewer than these: smaller batches take hardly less time
_QUERIES, _QUERIED = 40, 16  # gradient-free queries, and the samples that they are spent on
_FEW = 0.25  # of a batch: fewer survivors than that share the budget of all of it
_DEAD_SHARE = 0.1  # of samples without any gradient, above which it counts as masked
_DRAWS = 8  # passes that a random model's gradient is averaged over
_RANDOM = 1e-4  # relative change of logits between two passes


def adaptive(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes_per_sample: int = 240,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1] and labels (B,), in L∞ or L2.

    ``model``: an adapter, or any module from such images to logits (B, K).
    ``passes_per_sample``: the budget for each sample that survives, on average, a backward pass
    counted as two; samples that break earlier cost less.  Where fewer than a quarter survive, they
    share the budget of the whole batch: the model is easily broken, and strength alone counts.
    Returns the first image that broke a sample, else the one with the largest margin.  Its source
    is this file: see the head.
    """
    parameters = {"seed": seed, "passes_per_sample": passes_per_sample}
    return adaptive_told(model, images, labels, threat, **parameters).images


def adaptive_told(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes_per_sample: int = 240,
) -> AttackResult:
    """``adaptive``, with what each of its stages broke."""
    counted = as_counted(model, images)
    return Cascade(counted, images, labels, threat, seed, passes_per_sample).run()


class Cascade:
    """One attack on one batch; ``notes`` tell what each stage broke.

    ``left_out``: stages to do without, to see what each is worth.
    """

    left_out: frozenset[str] = frozenset()

    def __init__(
        self,
        model: Counted,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        seed: int,
        passes_per_sample: int,
    ) -> None:
        self.search = Search(model, images, labels, threat)
        self.model, self.threat, self.seed = model, threat, seed
        self.budget = passes_per_sample
        self.generator = torch.Generator().manual_seed(seed)
        self.queried = False
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def run(self) -> AttackResult:
        """All stages, in order."""
        images, steps = self.search.images, _MARGIN_STEPS[self.threat.norm]
        random = self._is_random()
        self.stage("margin", lambda rows: self._ascend(rows, images[rows], MARGIN, steps))
        self.stage("aim", self._aim)
        self.stage("square", self._query)
        if reason := "outputs change between passes" if random else self._masked():
            self.warnings.append(f"adaptive: {reason}; went on with more steps and AutoAttack")
            self._escalate(_DRAWS if random else 1)
        return AttackResult(self.search.best, self.notes, self.warnings)

    def stage(self, name: str, attack: Callable[[Tensor], None]) -> None:
        """Runs a stage on the survivors, and notes what it broke."""
        rows = self.search.alive()
        if len(rows) and name not in self.left_out:
            attack(rows)
            broken = len(rows) - len(self.search.alive())
            self.notes.append(f"{name} broke {broken} of {len(rows)}")

    def _ascend(
        self,
        rows: Tensor,
        start: Tensor,
        objective: Objective,
        steps: int,
        targets: Tensor | None = None,
        inside: bool = False,
    ) -> None:
        plan = shrinking if self.threat.norm == "L2" and not inside else cosine
        schedule = plan(self.threat.radius, steps)
        self.search.ascend(rows, start, objective, schedule, targets=targets)

    def _aim(self, rows: Tensor) -> None:
        """Towards further classes, the nearest samples first, while the budget lasts.

        A class that broke some is tried on the next nearest, too, before another class is.
        """
        ranked = torch.zeros_like(self._untried(), dtype=torch.long)
        ranked[rows] = ranked_classes(self.search, rows, self.search.best[rows])[
            :, : ranked.shape[1]
        ]
        untried = self._untried()
        for place, share, steps, inside in self._rounds():
            broke = True
            while broke:
                alive = self.search.alive(rows)
                near = self._nearest(alive[untried[alive, place]], share, of=len(alive))
                if len(alive) == 0 or not self._affords(len(near) * steps, alive):
                    return
                untried[near, place] = False
                start, targets = self.anywhere(near), ranked[near, place]
                self._ascend(near, start, AIMED, steps, targets, inside)
                broke = len(self.search.alive(near)) < len(near)
            if not untried[alive].any():
                untried = self._untried()

    @property
    def _places(self) -> int:
        """How many wrong classes a sample is driven towards."""
        return min(self.model.classes - 1, _MOST_CLASSES)

    def _untried(self) -> Tensor:
        """Of each sample and place in its ranking: everything."""
        shape = (len(self.search.images), self._places)
        return torch.ones(shape, dtype=torch.bool, device=self.search.images.device)

    def _rounds(self) -> Iterator[tuple[int, float, int, bool]]:
        """(place in a sample's ranking, share of survivors, steps, whether to stay in the ball).

        Without end.  The closest class comes last: the stage before has tried it.  Balls that
        shrink and ascents that never leave the smallest one break different samples in L2.
        """
        share, steps, inside = _NEAR, _AIMED_STEPS, False
        while True:
            for place in [*range(1, self._places), 0]:
                yield place, share, steps, inside
            inside = not inside
            share, steps = min(2 * share, 1.0), steps if share < 1 else 2 * steps

    def _affords(self, steps: int, alive: Tensor) -> bool:
        """Whether so many more gradient steps keep the survivors' mean within the budget.

        Where few survive, they share the budget of the batch: they are cheap.
        """
        used = self.model.forward_passes + BACKWARD * self.model.backward_passes
        spent = float(used[alive.cpu()].sum()) + (1 + BACKWARD) * steps
        batch = len(self.search.images)
        return spent <= self.budget * (batch if len(alive) < _FEW * batch else len(alive))

    def _nearest(self, rows: Tensor, share: float, of: int | None = None) -> Tensor:
        """Those of the rows whose best margin is largest: a share ``of`` so many."""
        wanted = max(_FEWEST, math.ceil(share * (of or len(rows))))
        count = min(len(rows), wanted)
        order = self.search.margin[rows].argsort(descending=True, stable=True)
        return rows[order[:count]].sort().values

    def anywhere(self, rows: Tensor) -> Tensor:
        """Random starts in the ball."""
        return random_start(self.search.images[rows], self.threat, self.generator)

    def _query(self, rows: Tensor) -> None:
        """A little of Square (Andriushchenko et al. 2020) on some survivors."""
        chosen = torch.randperm(len(rows), generator=self.generator)[:_QUERIED].to(rows.device)
        some = rows[chosen.sort().values]
        images, labels = self.search.images[some], self.search.labels[some]
        parameters = {"n_queries": _QUERIES, "n_restarts": 1, "loss": "margin"}
        with self.model.attending(some):
            found = torchattacks_attack(
                self.model,
                images,
                labels,
                self.threat,
                name="Square",
                seed=self.seed,
                parameters=parameters,
            )
        self.search.judge(some, project(found.images, images, self.threat))
        self.queried = len(self.search.alive(some)) < len(some)

    def _masked(self) -> str:
        """Why gradients look masked, or nothing."""
        dead = self.search.dead_share or 0.0
        if dead > _DEAD_SHARE:
            return f"{100 * dead:.0f} % of samples have no gradient"
        if self.queried:
            return "a few gradient-free queries broke what gradients did not"
        return ""

    def _is_random(self) -> bool:
        """Whether two passes over the same images differ; clean margins are judged on the way."""
        images = self.search.images
        rows = torch.arange(len(images), device=images.device)
        first = self.search.judge(rows, images)
        second = self.search.logits(rows[:32], images[:32])
        again = logit_margin(second, self.search.labels[:32])
        scale = second.abs().amax().clamp_min(1e-12)
        return bool((first[:32] - again).abs().amax() > _RANDOM * scale)

    def _escalate(self, draws: int) -> None:
        """Strength alone: prototypes, longer ascents over averaged gradients, full AutoAttack."""
        self.search.draws = draws
        if self.model.layers and not self.model.reads_distances:
            self.stage("pull", self._pull)
        self.stage("more steps", self._insist)
        self.stage("AutoAttack", self._autoattack)

    def _pull(self, rows: Tensor) -> None:
        self._ascend(rows, self.anywhere(rows), PULLED, _INSISTING)

    def _insist(self, rows: Tensor) -> None:
        self._ascend(rows, self.anywhere(rows), MARGIN, _INSISTING)
        for place in range(min(3, self.model.classes - 1)):
            alive = self.search.alive(rows)
            if len(alive):
                targets = ranked_classes(self.search, alive, self.search.best[alive])[:, place]
                self._ascend(alive, self.anywhere(alive), AIMED, _INSISTING, targets)

    def _autoattack(self, rows: Tensor) -> None:
        images, labels = self.search.images[rows], self.search.labels[rows]
        with self.model.attending(rows):
            found = autoattack(self.model, images, labels, self.threat, seed=self.seed)
        self.notes += found.notes
        self.warnings += found.warnings
        self.search.judge(rows, project(found.images, images, self.threat))
