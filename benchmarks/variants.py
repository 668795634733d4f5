"""``adaptive`` without one of its parts, or with another in its place, for ``ablation``."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import Counted
from robusteval.attacks.prototype_ascents import JOINT
from robusteval.attacks.search import AIMED, MARGIN, PULLED, Objective, Seen
from robusteval.attacks.steps import random_start, striped_start
from robusteval.attacks.tuning import TUNING, Round, Tuning
from robusteval.types import Norm

MOMENTUM = 0.75
_PAIRS = 3  # own prototypes that features are driven from by turns


def tuned(**changes: Any) -> dict[Norm, Tuning]:
    """The usual tuning in both norms, with some of it changed."""
    return {norm: replace(usual, **changes) for norm, usual in TUNING.items()}


class WithPull(Cascade):
    """Features pulled to the nearest wrong prototype before targets, masked or not."""

    def aim(self, rows: Tensor) -> None:
        if self.model.layers:
            near = self.search.nearest(rows, math.ceil(len(rows) / 3))
            self.ascend(near, self.anywhere(near), PULLED, 20)
            rows = self.search.alive()
        if len(rows):
            super().aim(rows)


class WithPairs(Cascade):
    """Features driven from each own prototype to the nearest of another class, pair by pair."""

    def aim(self, rows: Tensor) -> None:
        if self.model.layers:
            for turn in range(_PAIRS):
                near = self.search.nearest(rows, math.ceil(len(rows) / 6))
                if len(near):
                    self.ascend(near, self.anywhere(near), from_own(turn), 15)
                rows = self.search.alive()
        if len(rows):
            super().aim(rows)


def from_own(turn: int) -> Objective:
    """Away from the ``turn``-th nearest own prototype, towards the nearest other."""

    def losses(seen: Seen) -> Tensor:
        *_, deepest = seen.squared.values()
        each = torch.arange(len(deepest), device=deepest.device)
        own = deepest[each, seen.labels].sort(1).values
        others = deepest.flatten(2).amin(2).scatter(1, seen.labels[:, None], torch.inf)
        return own[:, turn % own.shape[1]] - others.amin(1)

    return Objective(losses, distances=True)


class Redirected(Cascade):
    """Every ascent after another objective, towards other targets."""

    def instead(
        self, objective: Objective, targets: Tensor | None
    ) -> tuple[Objective, Tensor | None]:
        """What takes the place of an objective and its targets (B,)."""
        return objective, targets

    def ascend(
        self,
        rows: Tensor,
        start: Tensor,
        objective: Objective,
        turn: Round | int,
        targets: Tensor | None = None,
    ) -> None:
        objective, targets = self.instead(objective, targets)
        super().ascend(rows, start, objective, turn, targets)


class JointLoss(Redirected):
    """Ascents on CE + PC, the PCL paper's joint loss, in the place of those towards classes."""

    def instead(
        self, objective: Objective, targets: Tensor | None
    ) -> tuple[Objective, Tensor | None]:
        return (JOINT, None) if objective is AIMED and self.model.layers else (objective, targets)


class Ratios(Redirected):
    """Margins over the gap between large logits, as AutoAttack's DLR and targeted DLR."""

    def instead(
        self, objective: Objective, targets: Tensor | None
    ) -> tuple[Objective, Tensor | None]:
        if self.model.classes < 4 or objective not in (AIMED, MARGIN):
            return objective, targets
        return over_gap(objective), targets


def over_gap(objective: Objective) -> Objective:
    """DLR of a margin (Croce and Hein 2020): untargeted over z₁ − z₃, targeted over z₁ − ½ (z₃ +
    z₄), logits by size."""

    def losses(seen: Seen) -> Tensor:
        first, _, third, fourth = seen.logits.topk(4, dim=1).values.T
        last = third if seen.targets is None else (third + fourth) / 2
        return objective.losses(seen) / (first - last).clamp_min(1e-12)

    return Objective(losses)


class Restarts(Redirected):
    """The same steps on the untargeted margin, in the place of one wrong class after another."""

    def instead(
        self, objective: Objective, targets: Tensor | None
    ) -> tuple[Objective, Tensor | None]:
        return MARGIN, None


class RankedBySlopes(Cascade):
    """Classes by linearised margins: the logit gap over the dual norm of its gradient."""

    def ranked(self, rows: Tensor) -> Tensor:
        tried = super().ranked(rows)
        points, dual = self.search.best[rows], 1 if self.threat.norm == "Linf" else 2
        near = []
        for targets in tried[rows].T:
            slopes = self.search.gradients(rows, points, self.aimed, targets)
            near.append(slopes.losses / slopes.gradients.flatten(1).norm(dual, 1).clamp_min(1e-12))
        order = torch.stack(near, 1).argsort(1, descending=True)
        tried[rows] = tried[rows].gather(1, order)
        return tried


class WithoutSquare(Cascade):
    """No gradient-free queries."""

    left_out: ClassVar = frozenset({"square"})


class WithoutMargin(Cascade):
    """Targets from the first step."""

    left_out: ClassVar = frozenset({"margin"})

    def escalate(self) -> list[str]:
        """Random search from clean images goes far, which says nothing of gradients here."""
        return []


class RankedByLogits(Cascade):
    """Classes by their logits alone, without the distances between prototypes."""

    def __init__(self, model: Counted, *rest: object) -> None:
        model.class_distances = lambda: None  # type: ignore[method-assign]
        super().__init__(model, *rest)  # type: ignore[arg-type]


class Everywhere(Cascade):
    """Every survivor in every round, not the nearest to breaking first."""

    def drive(self, targets: Tensor | None, turn: Round) -> bool:
        return super().drive(targets, turn._replace(share=1.0))


class Unpolished(Cascade):
    """No small steps from the best images."""

    left_out: ClassVar = frozenset({"polish"})


class LongAscents(Cascade):
    """Forty steps towards each class from the first."""

    def rounds(self) -> Iterator[Round]:
        return (turn._replace(steps=40) for turn in super().rounds())


class WithoutFlip(Cascade):
    """No random search from the best images."""

    left_out: ClassVar = frozenset({"flip"})


class WithMomentum(Cascade):
    """Steps that remember those before, in L∞ as in L2."""

    tunings: ClassVar = tuned(momentum=MOMENTUM)

    def rounds(self) -> Iterator[Round]:
        return (turn._replace(momentum=MOMENTUM) for turn in super().rounds())


class RandomStarts(Cascade):
    """Uniform starts instead of striped ones."""

    def anywhere(self, rows: Tensor) -> Tensor:
        return random_start(self.search.images[rows], self.threat, self.generator)


class StripedStarts(Cascade):
    """Striped starts that know nothing of the best images."""

    def anywhere(self, rows: Tensor) -> Tensor:
        return striped_start(self.search.images[rows], self.threat, self.generator)


class InsideBall(Cascade):
    """Ascents that never leave the ball, in L2 as in L∞: without the idea of Constraint Relaxation
    (AAAI 2025)."""

    tunings: ClassVar = tuned(balls=(1,), far=1.0)


class OnTheirOwn(Cascade):
    """Random starts in the place of what broke similar samples."""

    def rounds(self) -> Iterator[Round]:
        return (turn._replace(others=False) for turn in super().rounds())


class OneClassAtATime(Cascade):
    """Ascents towards each class in the place of those to whichever is nearest."""

    def rounds(self) -> Iterator[Round]:
        return (turn._replace(aims=turn.aims or None) for turn in super().rounds())


class WithoutMomentum(Cascade):
    """Steps that forget those before."""

    tunings: ClassVar = tuned(momentum=0.0)

    def rounds(self) -> Iterator[Round]:
        return (turn._replace(momentum=0.0) for turn in super().rounds())


class WithoutCleanStarts(Cascade):
    """After the margin no ascent begins at a clean image."""

    def rounds(self) -> Iterator[Round]:
        return (turn for turn in super().rounds() if not turn.clean)


class SignsAlone(Cascade):
    """By the gradient's signs alone, from beginning to polish."""

    tunings: ClassVar = tuned(fine_sizes=((False, 0.1),))

    def rounds(self) -> Iterator[Round]:
        return (turn._replace(unsigned=False) for turn in super().rounds())


class OutsideOnly(Cascade):
    """The margin through larger balls from the first step."""

    tunings: ClassVar = tuned(inside_steps=0)


class NeverInward(Cascade):
    """No balls that shrink around what breaks a sample."""

    left_out: ClassVar = frozenset({"inward"})


class RestUnspent(Cascade):
    """What is too little for 32 samples is spent on none."""

    tunings: ClassVar = tuned(fewest_of_the_rest=32)


class WithoutKicks(Cascade):
    """A zero gradient is a zero step."""

    def __init__(self, model: Counted, *rest: object) -> None:
        super().__init__(model, *rest)  # type: ignore[arg-type]
        self.search.kicks = None


class NotThrough(Cascade):
    """No gradients that pass straight through what stops them."""

    left_out: ClassVar = frozenset({"through"})


class AlongOutputs(Cascade):
    """Along margins of the outputs as they are."""

    left_out: ClassVar = frozenset({"unsquashed"})


WHOLE = "whole"
VARIANTS: dict[str, type[Cascade]] = {
    WHOLE: Cascade,
    "restarts on the untargeted margin instead of targets": Restarts,
    "ascents on CE + PC instead of targets": JointLoss,
    "AutoAttack's ratios (DLR) instead of margins": Ratios,
    "targets from the first step": WithoutMargin,
    "features pulled to the nearest wrong prototype before targets": WithPull,
    "features driven from own prototypes to others, pair by pair, before targets": WithPairs,
    "without gradient-free queries": WithoutSquare,
    "classes ranked by logits alone": RankedByLogits,
    "classes ranked by linearised margins": RankedBySlopes,
    "all survivors in each round": Everywhere,
    "40 steps to each class": LongAscents,
    "without polish": Unpolished,
    "without random search": WithoutFlip,
    "with momentum": WithMomentum,
    "uniform starts": RandomStarts,
    "striped starts, without the best image": StripedStarts,
    "ascents inside the ball only": InsideBall,
    "without momentum": WithoutMomentum,
    "without starts from similar samples": OnTheirOwn,
    "towards one class at a time": OneClassAtATime,
    "no later ascent begins at a clean image": WithoutCleanStarts,
    "signs alone": SignsAlone,
    "larger balls from the first step": OutsideOnly,
    "without balls that shrink inward": NeverInward,
    "what is too little for 32 is left unspent": RestUnspent,
}
# On copies that hide their gradients.
VARIANTS_ON_COPIES: dict[str, type[Cascade]] = {
    WHOLE: Cascade,
    "a zero gradient is a zero step": WithoutKicks,
    "without gradients straight through": NotThrough,
    "along squashed outputs": AlongOutputs,
}
# What is the whole itself, or can't be, in the other norm.
ONE_NORM: dict[str, Norm] = {
    "without random search": "Linf",
    "with momentum": "Linf",
    "uniform starts": "Linf",
    "striped starts, without the best image": "Linf",
    "signs alone": "Linf",
    "ascents inside the ball only": "L2",
    "larger balls from the first step": "L2",
    "without momentum": "L2",
    "without starts from similar samples": "L2",
    "towards one class at a time": "L2",
    "without balls that shrink inward": "L2",
}


def variants_in(norm: Norm) -> dict[str, type[Cascade]]:
    """Those that are another attack than the whole in that norm."""
    return {told: kind for told, kind in VARIANTS.items() if ONE_NORM.get(told, norm) == norm}
