"""What the stages of an attack on one batch share: survivors, budget, ascents and their starts."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from robusteval.attacks.budget import Budget
from robusteval.attacks.counting import Counted
from robusteval.attacks.neighbours import led, led_by_others
from robusteval.attacks.results import Stage, Warned
from robusteval.attacks.search import Objective, Search, shrinking
from robusteval.attacks.steps import random_start, striped_start
from robusteval.attacks.tuning import TUNING, Round, Tuning
from robusteval.models.adapter import Adapter
from robusteval.types import Norm, ThreatModel


class Staged:
    """An attack on one batch, in stages; ``stages`` tell what each broke."""

    left_out: frozenset[str] = frozenset()
    tunings: ClassVar[Mapping[Norm, Tuning]] = TUNING

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
        self.search.kicks = torch.Generator().manual_seed(seed)
        self.model, self.threat, self.seed = model, threat, seed
        self.tuning = self.tunings[threat.norm]
        self.budget = Budget(self.search, passes_per_sample, self.tuning)
        self.generator = torch.Generator().manual_seed(seed)
        self.correct = len(images)  # samples to break
        self.went_inward = False  # whether balls shrank around what breaks a sample
        self.reason: Warned | None = None  # why strength alone counts, if it does
        self.leader: Adapter | None = None  # whose gradients take the place of the model's own
        self.stages: list[Stage] = []
        self.warned: list[Warned] = []
        self.notes: list[str] = []

    def stage(self, name: str, attack: Callable[[Tensor], None]) -> bool:
        """Runs a stage on the survivors, if there are some, and notes what it broke; whether it
        ran."""
        rows = self.search.alive()
        if len(rows) == 0 or name in self.left_out:
            return False
        before = self.budget.spent().sum()
        attack(rows)
        if self.budget.spent().sum() == before:  # there was no budget for it
            return False
        broken = len(rows) - len(self.search.alive())
        self.stages.append(Stage(name, broken, len(rows)))
        return True

    def ascend(
        self,
        rows: Tensor,
        start: Tensor,
        objective: Objective,
        turn: Round | int,
        targets: Tensor | None = None,
    ) -> None:
        """Through the norm's balls one after the other, or as ``turn`` says, if it isn't just the
        number of steps."""
        if isinstance(turn, int):
            turn = Round(1.0, turn, self.tuning.momentum)
        if len(rows) and turn.steps:
            balls = turn.balls or self.tuning.balls
            schedule = shrinking(self.threat.radius, turn.steps, balls, turn.unsigned)
            self.search.ascend(rows, start, objective, schedule, turn.momentum, targets)

    @property
    def has_distances(self) -> bool:
        """Whether whatever gives gradients has the model's prototypes."""
        return self.leader is None or self.leader.layers == self.model.layers

    def start_of(self, rows: Tensor, turn: Round) -> Tensor:
        """Where the ascents of a round begin."""
        if turn.clean:
            return self.search.images[rows]
        if turn.others and len(led(self.search)):
            return led_by_others(self.search, rows, self.generator, self.tuning)
        return self.anywhere(rows)

    def anywhere(self, rows: Tensor) -> Tensor:
        """Random starts, in L2 in a larger ball; in L∞ striped ones in the ball, half of whose
        pixels are the best image's.

        Stripes break more than uniform noise, and more still where they begin halfway to the best.
        """
        images = self.search.images[rows]
        if self.threat.norm == "L2":
            return random_start(images, self.threat, self.generator, self.tuning.far)
        start = striped_start(images, self.threat, self.generator)
        known = torch.rand(images[:, :1].shape, generator=self.generator) < 0.5
        return torch.where(known.to(images.device), self.search.best[rows], start)
