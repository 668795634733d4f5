"""``adaptive``: an ordered cascade on survivors, with gradients spent where samples are near.

Its losses are margins of logits and of prototype distances, which cannot saturate as
cross-entropy on squared distances does; its targets are ranked by what the model says itself.
Steps are signs or unit vectors, so that no factor by which a sample's loss might be scaled (the gap
between its largest logits, say) changes one.

1. ``margin``: steps on the logit margin, from the clean image, their sizes falling by a cosine
   from 2ε (as in PMA, arXiv:2411.15210; under signs the loss's scale doesn't matter).  In L2, here
   and in ``aim``, through balls that shrink from 6ε (see ``search.shrinking``), and with momentum,
   there by turns with none.
2. ``flip``, in L∞: random search from the best images of the nearest to breaking, for as long as
   it finds ways up that gradients missed.  Where it goes most of a sample's way to breaking, as a
   rule, gradients count as masked.
3. ``aim``: steps towards one wrong class at a time, and away from the right one, from random
   starts, for the nearest; classes are ranked by the margin left at their best image.
4. ``polish``: small steps from the best images of the nearest, by the model's own gradients where
   those before were rougher.  Where ``flip`` broke samples, by turns with more of its search.
5. ``square``: a few gradient-free queries.  What they break and gradients did not says that
   gradients are masked.

Gradients also count as masked where a tenth of the samples have none, where they turn at a step of
ε/10 (shattered), or where ascents that stay inside ε miss what larger balls led to.  Then the
cascade says so, and goes on: ``pull`` draws features to the nearest wrong prototypes, which a head
that hides its slope leaves open; then come longer ascents, along gradients averaged over noise
where they are shattered, longer random search, and full AutoAttack.  A model whose outputs change
between passes is judged by mean logits and attacked along mean gradients from the start, and
AutoAttack is its version for random models.  On such models strength alone counts.  In L∞, on
honest ones ``pull`` breaks next to nothing that ``aim`` doesn't (see ``benchmarks/ablation.py``).
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, cycle, repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import reaches_images
from robusteval.attacks.counting import BACKWARD, Counted, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.libraries.autoattack import Version, autoattack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.random_search import flip_squares
from robusteval.attacks.ranges import require_within, whole
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack, Parameters, defaults_of
from robusteval.attacks.results import AttackResult, Stage, Warned, said
from robusteval.attacks.search import (
    AIMED,
    DRAWS,
    MARGIN,
    PROBED,
    PULLED,
    PULLED_TO,
    Objective,
    Search,
    cosine,
    nearest_of_several,
    ranked,
    ranked_classes,
    ranked_prototypes,
    shrinking,
)
from robusteval.attacks.seeding import seeded
from robusteval.attacks.squares import square_fits
from robusteval.attacks.steps import project, random_start, striped_start
from robusteval.errors import AttackError
from robusteval.models.acceleration import cosines
from robusteval.types import ThreatModel

_RANGES = {"passes_per_sample": whole(3)}
_MARGIN_STEPS = {"Linf": 20, "L2": 45}
# Rounds over the wrong classes: the share of survivors, the nearest to breaking, and the steps
# towards each class.  What is left of the budget goes to all survivors by turns.
_ROUNDS = {
    "Linf": ((0.3, 15), (0.15, 30), (0.15, 30)),
    "L2": ((0.3, 24), (0.15, 24), (0.15, 24)),
}
_MOMENTUM = {"Linf": (0.0,), "L2": (0.75, 0.0)}  # of rounds by turns; the margin's is the first
_LAST_STEPS = 60
# Ascents in vain, for each pass of a sample's budget, after which none follow.  Towards the one
# wrong class of two they differ by their starts only.
_PATIENCE, _PATIENCE_OF_TWO = 1.25, 0.6
_SEARCHED = 2000  # proposals for each sample where gradients are masked
_INSISTING = 100  # steps where gradients are masked
_PAIRS = 5  # wrong prototypes that features are pulled to by turns
_MOST_AIMS = 9  # classes, or prototypes, that a sample is driven towards
_FEWEST = 32  # samples that are near: smaller batches take hardly less time
_FINE_SHARE, _FEWEST_FINE = 0.1, 8  # of survivors: those that are flipped and polished
_FINE, _FINE_STEPS = 0.1, 20  # the sizes of their steps, as a share of the usual ones
_FLIPS, _FLIP_ROUNDS = 40, 24  # proposals of a round, and at most so many rounds
_TOGETHER = 4  # proposals of a sample that make one batch
# The median share of their way to breaking that random search goes on from where gradients ended,
# above which these count as masked: where they broke nothing, and where they broke some.  Zoo's
# models have 0.00 to 0.32, and pcl_at_mnist 0.45 of its nearest tenth; masked ones 0.5 to 1.  Of a
# single survivor the share can be anything: that of one chunk of scpl_cifar10 raises the warning.
_CLOSED = (0.4, 0.7)
_RAISED = 0.01  # the share of a round's proposals that must raise a margin for another
_TURNS, _FLIPS_MORE, _TOGETHER_MORE = 2, 400, 8  # of polish by turns with random search
_FINEST = 16  # samples that take such turns
_QUERIES, _QUERIED = 40, 16  # gradient-free queries, and the samples that they are spent on
_FEW = 0.25  # of a batch: fewer survivors than that share the budget of all of it,
_SHARED = 10  # each up to so many times its own
_DEAD_SHARE = 0.1  # of samples without any gradient, above which it counts as masked
# Of so many samples the share that only ascents through larger balls break, above which gradients
# inside ε count as masked, and the steps inside.  On validation images zoo's models have up to
# 0.18, and 0.49 to 0.67 those of MNIST that were trained adversarially (in L∞); of groups of 32,
# one has 0.34 where all have 0.18.
_COMPARED, _OUTDONE, _INSIDE_STEPS = 64, 0.3, 20
_TURNED = 0.6  # cosine of gradients a tenth of ε apart; models of the zoo have 0.84 to 1.00
_SMOOTHED = 0.5  # the share of ε by which noise moves points before a shattered gradient is taken


def adaptive(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes_per_sample: int = 400,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1] and labels (B,), in L∞ or L2.

    ``model``: an adapter, or any module from such images to logits (B, K), K from 2 up.  Raises
    AttackError for images outside [0, 1], for a module with a single logit, for logits that are NaN
    or infinite, and in inference mode.  ``passes_per_sample``, from 3 up (hundreds are of use): the
    budget for each sample that survives, on average, a backward pass counted as two, with the
    passes that look for masking; samples that break earlier cost less.  Some 44 forward passes for
    gradient-free queries on 16 samples of a batch come on top, and so does what masked models get.
    Where fewer than a quarter survive, they share the budget of the whole batch, each up to
    tenfold: the model is easily broken, and strength alone counts.  A model whose outputs change
    gets eight times as many, since each gradient is a mean of eight.  Less is spent where 1.25
    ascents towards classes (0.6 towards the one wrong class of two) for each pass of the budget
    have broken nothing, one after the other; groups of fewer than 32 samples count as 32.
    Returns the first image that broke a sample, else the one with the largest margin; warns where
    gradients look masked or outputs change (of few images a small share may look so by chance).

    The cascade is this project's own, and has no paper.  The margin is that of Carlini and Wagner
    (2017, their f6) without its floor; PMA (arXiv:2411.15210) takes the same steps on the margin of
    probabilities, which can saturate.  Targeted, it is the difference of two logits, as in FAB-T
    (Croce and Hein 2020).
    """
    parameters = {"seed": seed, "passes_per_sample": passes_per_sample}
    found = adaptive_told(model, images, labels, threat, **parameters)
    for warned in found.warned:
        warnings.warn(said(warned), stacklevel=2)
    return found.images


@attack
def adaptive_told(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes_per_sample: int = 400,
) -> AttackResult:
    """``adaptive``, with what each of its stages broke."""
    require_within("adaptive", {"passes_per_sample": passes_per_sample}, _RANGES)
    if len(images) == 0:
        return AttackResult(images)
    with seeded(seed, images.device):  # a model may draw from the global generators
        counted = as_counted(model, images, labels)
        return Cascade(counted, images, labels, threat, seed, passes_per_sample).run()


class Round(NamedTuple):
    """Over the wrong classes: which share of survivors takes how many steps to each, and how."""

    share: float
    steps: int
    momentum: float


class Cascade:
    """One attack on one batch; ``stages`` tell what each of its own broke.

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
        self.budget, self.before = passes_per_sample, model.passes(len(images))
        self.generator = torch.Generator().manual_seed(seed)
        self.correct = len(images)  # samples to break
        self.aim = AIMED  # what samples are driven by, towards a class or a prototype
        self.vain = 0  # ascents towards a class since the last that broke a sample
        self.overlooked = False  # whether random search broke what gradients did not
        self.reason: Warned | None = None  # why strength alone counts, if it does
        self.stages: list[Stage] = []
        self.warned: list[Warned] = []
        self.notes: list[str] = []

    def run(self) -> AttackResult:
        """All stages, in order."""
        images = self.search.images
        steps = max(min(self._margin_cost, self.budget) // (1 + BACKWARD), 1)
        self._look()
        correct = self.search.alive()
        self.stage("margin", lambda rows: self._ascend(rows, images[rows], MARGIN, steps))
        if self.threat.norm == "L2" and self.budget >= self._margin_cost and not self.reason:
            self.reason = self._outdone(correct[:_COMPARED])
        if self.threat.norm == "Linf":
            self.stage("flip", self._flip)
        self.stage("aim", self._aim)
        self.stage("polish", self._polish)
        self.stage("square", self._query)
        if self.reason:
            self.warned.append(replace(self.reason, stages=tuple(self._escalate())))
        return AttackResult(self.search.best, self.stages, self.warned, self.notes)

    def stage(self, name: str, attack: Callable[[Tensor], None]) -> bool:
        """Runs a stage on the survivors, if there are some, and notes what it broke; whether it
        ran."""
        rows = self.search.alive()
        if len(rows) == 0 or name in self.left_out:
            return False
        before = self._spent().sum()
        attack(rows)
        if self._spent().sum() == before:  # there was no budget for it
            return False
        broken = len(rows) - len(self.search.alive())
        self.stages.append(Stage(name, broken, len(rows)))
        return True

    @property
    def _margin_cost(self) -> int:
        """The passes of the first stage; what gradients miss for less says nothing of masking."""
        return _steps_cost(1, _MARGIN_STEPS[self.threat.norm])

    def _spent(self) -> Tensor:
        """Each sample's passes (B,), a backward one counted as two."""
        return self.model.passes(len(self.search.images)) - self.before

    def _ascend(
        self,
        rows: Tensor,
        start: Tensor,
        objective: Objective,
        steps: int,
        targets: Tensor | None = None,
        momentum: float | None = None,
    ) -> None:
        plan = shrinking if self.threat.norm == "L2" else cosine
        schedule = plan(self.threat.radius, steps)
        momentum = _MOMENTUM[self.threat.norm][0] if momentum is None else momentum
        self.search.ascend(rows, start, objective, schedule, momentum, targets)

    def _aim(self, rows: Tensor) -> None:
        """Towards one wrong class after another, while the budget lasts and some break."""
        tried = self._ranked(rows)
        self.vain = 0
        patience = _PATIENCE if self.model.classes > 2 else _PATIENCE_OF_TWO
        for turn in self._rounds():
            for place in [*range(tried.shape[1]), None]:
                targets = None if place is None else tried[:, place]
                if not self._drive(targets, turn) or self.vain >= patience * self.budget:
                    return

    def _drive(self, targets: Tensor | None, turn: Round) -> bool:
        """Each sample towards its class of ``targets`` (B,), or to any: a share of survivors, and,
        while that breaks some, the next nearest.  False where the budget has less left."""
        untried = ~self.search.broken
        while True:
            alive = self.search.alive()
            wanted = max(_FEWEST, math.ceil(turn.share * len(alive)))
            near = self._nearest(alive[untried[alive]], wanted)
            passes = _steps_cost(len(near), turn.steps) + self._fine_cost(alive)
            if len(alive) == 0 or not self._affords(passes, alive):
                return False
            if len(near) == 0:
                return True
            untried[near] = False
            objective = MARGIN if targets is None else self.aim
            chosen = None if targets is None else targets[near]
            start = self.anywhere(near)
            self._ascend(near, start, objective, turn.steps, chosen, turn.momentum)
            if len(self.search.alive(near)) == len(near):
                self.vain += max(len(near), _FEWEST)
                return True
            self.vain = 0

    def _ranked(self, rows: Tensor) -> Tensor:
        """Of all samples (B, places) the wrong classes to try, where they are among ``rows``.

        The one with the largest logit comes last: the margin was about it.  Where the nearest of
        several prototypes decides, it is those.
        """
        points = self.search.best[rows]
        if nearest_of_several(self.model):
            self.aim, order = PULLED_TO, ranked_prototypes(self.search, rows, points)
            first = order[:, :1]
        else:
            logits = self.search.logits(rows, points)
            order = ranked(self.search, rows, logits)
            own = self.search.labels[rows][:, None]
            first = logits.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
        places = min(order.shape[1], _MOST_AIMS)
        others = order[order != first].view(len(rows), -1)[:, : places - 1]
        tried = order.new_zeros((len(self.search.images), places))
        tried[rows] = torch.cat([others, first], 1)
        return tried

    def _rounds(self) -> Iterator[Round]:
        """Without end.

        With momentum and without, steps break different samples in L2; in L∞ it only costs some.
        """
        rounds = chain(_ROUNDS[self.threat.norm], repeat((1.0, _LAST_STEPS)))
        momenta = cycle(_MOMENTUM[self.threat.norm])
        return (Round(*one, momentum) for one, momentum in zip(rounds, momenta, strict=False))

    def _flip(self, rows: Tensor) -> None:
        """Random search on the nearest, for as long as it finds ways up that gradients missed."""
        near = self._nearest(rows, self._fine_count(rows))
        before = self.search.margin[near]
        for _ in range(_FLIP_ROUNDS):
            left = self.search.alive(near)
            passes = _flip_cost(len(left), _FLIPS, _TOGETHER) + self._fine_cost(rows)
            if len(left) == 0 or not self._affords(passes, self.search.alive()):
                break
            if flip_squares(self.search, left, _FLIPS, self.generator, _TOGETHER) < _RAISED:
                break
        self.overlooked = len(self.search.alive(near)) < len(near)
        way, left = -before, -self.search.margin[near].clamp(max=0)
        closed = torch.where(way > 0, 1 - left / way, 0.0)
        if float(closed.median()) > _CLOSED[len(rows) < self.correct]:
            self.reason = self.reason or Warned("searched")

    def _polish(self, rows: Tensor) -> None:
        """Small steps from the best images of the nearest, and more random search if it pays."""
        if self._affords(self._fine_cost(rows), rows):
            self._sharpen(self._nearest(rows, self._fine_count(rows)))
        for _ in range(_TURNS if self.overlooked else 0):
            alive = self.search.alive()
            near = self._nearest(alive, _FINEST)
            passes = _flip_cost(len(near), _FLIPS_MORE, _TOGETHER_MORE)
            passes += _steps_cost(len(near), _FINE_STEPS)
            if len(near) == 0 or not self._affords(passes, alive):
                return
            flip_squares(self.search, near, _FLIPS_MORE, self.generator, _TOGETHER_MORE)
            self._sharpen(self.search.alive(near))

    def _sharpen(self, rows: Tensor) -> None:
        """Small steps from the best images of ``rows``, by the model's own gradients."""
        if len(rows) == 0:
            return
        coarse = cosine(self.threat.radius, _FINE_STEPS)
        schedule = [replace(step, size=_FINE * step.size) for step in coarse]
        with self.model.led_by(None):
            self.search.ascend(rows, self.search.best[rows], MARGIN, schedule)

    def _fine_count(self, rows: Tensor) -> int:
        """How many of the survivors are polished."""
        return min(len(rows), max(_FEWEST_FINE, math.ceil(_FINE_SHARE * len(rows))))

    def _fine_cost(self, rows: Tensor) -> int:
        """The passes that polishing these survivors would take."""
        return _steps_cost(self._fine_count(rows), _FINE_STEPS)

    def _affords(self, passes: int, alive: Tensor) -> bool:
        """Whether so many more passes keep the survivors' mean within the budget.

        Where few survive, they share the budget of the batch, up to tenfold: they are cheap.
        """
        batch = len(self.search.images)
        spent = float(self._spent()[alive.cpu()].sum()) + passes * self.search.draws
        few = len(alive) < _FEW * batch
        return spent <= self.budget * (min(batch, _SHARED * len(alive)) if few else len(alive))

    def _nearest(self, rows: Tensor, wanted: int) -> Tensor:
        """So many of the rows, those whose best margin is largest."""
        order = self.search.margin[rows].argsort(descending=True, stable=True)
        return rows[order[:wanted]].sort().values

    def anywhere(self, rows: Tensor) -> Tensor:
        """Random starts in the ball; in L∞ striped ones, half of whose pixels are the best image's.

        Stripes break more than uniform noise, and more still where they begin halfway to the best.
        """
        images = self.search.images[rows]
        if self.threat.norm == "L2":
            return random_start(images, self.threat, self.generator)
        start = striped_start(images, self.threat, self.generator)
        known = torch.rand(images[:, :1].shape, generator=self.generator) < 0.5
        return torch.where(known.to(images.device), self.search.best[rows], start)

    def _query(self, rows: Tensor) -> None:
        """A little of Square (Andriushchenko et al. 2020) on some survivors, where it can run."""
        if not square_fits(self.search.images, self.threat.norm, oblong=False):
            return
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
        if len(self.search.alive(some)) < len(some) and self.budget >= self._margin_cost:
            self.reason = self.reason or Warned("queried")

    def _look(self) -> None:
        """Whether outputs are random or gradients masked; clean images are judged on the way."""
        search = self.search
        rows = torch.arange(len(search.images), device=search.images.device)
        if search.beware():
            self.reason = Warned("random")
            self.budget *= DRAWS  # as many steps as any model gets
        search.judge(rows, search.images)
        self.correct = len(search.alive())
        if not self.reason and len(some := search.alive(rows[:PROBED])):
            self.reason = self._masked(some)

    def _masked(self, rows: Tensor) -> Warned | None:
        """Why the model's gradients on the margin look masked, if they do."""
        images = self.search.images[rows]
        here = self.search.slopes(rows, images, MARGIN).gradients.flatten(1)
        dead = float((here.abs().amax(1) == 0).double().mean())
        if dead == 1 and not reaches_images(self.model, images):
            return Warned("no_gradient")
        if dead > _DEAD_SHARE:
            return Warned("dead", _in_hundredths(dead))
        moved = random_start(images, self.threat, self.generator, share=0.1)
        there = self.search.slopes(rows, moved, MARGIN).gradients.flatten(1)
        cosine_of = float(cosines(here, there).median())
        if cosine_of < _TURNED:
            self.search.nearby = lambda points: random_start(
                points, self.threat, self.generator, share=_SMOOTHED
            )
            return Warned("turning", _in_hundredths(cosine_of))
        return None

    def _outdone(self, rows: Tensor) -> Warned | None:
        """Why gradients inside the ball look masked, if they do: what the larger balls of the first
        stage broke of these samples, ascents that never leave the ball should break, too."""
        broken = rows[self.search.broken[rows]]
        if len(broken) <= _OUTDONE * len(rows):
            return None
        with self.model.attending(broken):
            inside = Search(
                self.model, self.search.images[broken], self.search.labels[broken], self.threat
            )
            schedule = cosine(self.threat.radius, _INSIDE_STEPS)
            inside.ascend(inside.alive(), inside.images, MARGIN, schedule, _MOMENTUM["L2"][0])
        missed = len(inside.alive()) / len(rows)
        if missed <= _OUTDONE:
            return None
        return Warned("outdone", _in_hundredths(missed))

    def _escalate(self) -> list[str]:
        """Strength alone: prototypes, longer ascents over averaged gradients, longer random search,
        full AutoAttack.

        Returns the stages that ran.
        """
        if self.search.nearby is not None:
            self.search.draws = DRAWS
        stages = {}
        if self.model.layers and not self.model.reads_distances:
            stages["pull"] = self._pull
        stages["more steps"] = self._insist
        if self.threat.norm == "Linf" and self.search.words == 1:
            stages["more search"] = self._search
        stages["AutoAttack"] = self._autoattack
        return [name for name, attack in stages.items() if self.stage(name, attack)]

    def _pull(self, rows: Tensor) -> None:
        """To whichever wrong prototype is nearest, then to the nearest ones by turns."""
        self._ascend(rows, self.anywhere(rows), PULLED, _INSISTING)
        near = ranked_prototypes(self.search, rows, self.search.images[rows])
        for place in range(min(near.shape[1], _PAIRS)):
            left = ~self.search.broken[rows]
            if left.any():
                start = self.anywhere(rows[left])
                self._ascend(rows[left], start, PULLED_TO, _INSISTING, near[left, place])

    def _insist(self, rows: Tensor) -> None:
        self._ascend(rows, self.anywhere(rows), MARGIN, _INSISTING)
        for place in range(min(3, self.model.classes - 1)):
            alive = self.search.alive(rows)
            if len(alive):
                targets = ranked_classes(self.search, alive, self.search.best[alive])[:, place]
                self._ascend(alive, self.anywhere(alive), AIMED, _INSISTING, targets)

    def _search(self, rows: Tensor) -> None:
        """Random search from the best images, where Square begins anew."""
        flip_squares(self.search, rows, _SEARCHED, self.generator, _TOGETHER_MORE)

    def _autoattack(self, rows: Tensor) -> None:
        images, labels = self.search.images[rows], self.search.labels[rows]
        version: Version = "rand" if self.search.words > 1 else "standard"
        with self.model.attending(rows):
            try:
                found = autoattack(
                    self.model, images, labels, self.threat, seed=self.seed, version=version
                )
            except AttackError as error:  # what was found before it stays
                self.warned.append(Warned("no_autoattack", text=str(error)))
                return
        self.stages += [replace(stage, name=f"AutoAttack's {stage.name}") for stage in found.stages]
        self.notes += [f"AutoAttack's {note}" for note in found.notes]
        self.warned += found.warned
        self.search.judge(rows, project(found.images, images, self.threat))


def _in_hundredths(measured: float) -> float:
    """As it is told: the last bits of what was measured are no part of it."""
    return round(100 * measured) / 100


def _steps_cost(samples: int, steps: int) -> int:
    """The passes of so many steps on so many samples, a backward one counted as two."""
    return (1 + BACKWARD) * samples * steps


def _flip_cost(samples: int, queries: int, together: int) -> int:
    """The passes of random search, the verdicts on the best included."""
    return samples * (queries + queries // together)


def _passes(given: Parameters, classes: int) -> tuple[int, int]:
    """A backward pass counts as two; random search takes none, nor do the queries on top."""
    budget = given["passes_per_sample"]
    return budget + 44, budget // 3


ATTACKS = (
    Attack(
        name="adaptive",
        library=ROBUSTEVAL,
        function=adaptive_told,
        norms=BOTH,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="both",
        by_sample=True,
        passes=_passes,
        parameters=_RANGES,
        defaults=defaults_of(lambda: adaptive_told),
        version=1,
    ),
)
