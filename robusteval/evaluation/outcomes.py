"""What a run found, per sample.  Every number in a report is computed from these."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from robusteval.evaluation.plan import Cell, Plan, RunSpec
from robusteval.evaluation.verify import TOLERANCE
from robusteval.types import ThreatModel

Bools = NDArray[np.bool_]
Status = Literal["done", "failed", "not_finished"]


@dataclass
class CellOutcome:
    """One attack's outcome over all N samples; rows that it did not reach stay unfooled."""

    cell: Cell
    status: Status
    reason: str
    attacked: Bools  # (N,) initially correct and judged
    fooled: Bools  # (N,) mispredicted after verification; in the ball where ε was known
    norm: NDArray[np.float64]  # (N,) of the perturbation
    margin: NDArray[np.float64]  # (N,) largest wrong logit less the label's
    survives_8_bit: Bools  # (N,)
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, cell: Cell, count: int) -> "CellOutcome":
        """An outcome to be filled chunk by chunk."""
        blank = np.zeros(count, bool)
        nan = np.full(count, np.nan)
        return cls(cell, "done", "", blank, blank.copy(), nan, nan.copy(), blank.copy())

    def success(self, threat: ThreatModel) -> Bools:
        """Samples that this attack broke within a threat model."""
        return self.fooled & (self.norm <= threat.radius + TOLERANCE)


@dataclass(frozen=True)
class Example:
    """One attacked image for the report, as uint8 (C, H, W)."""

    row: int
    attack: str
    threat: ThreatModel
    label: int
    prediction: int
    clean: NDArray[np.uint8]
    adversarial: NDArray[np.uint8]


@dataclass(frozen=True)
class Separation:
    """Scores of one detector on in-distribution samples and on what it should tell apart."""

    kind: Literal["outliers", "attack_detection"]
    detector: str
    against: str
    inside: NDArray[np.float64]
    outside: NDArray[np.float64]


@dataclass
class RunResult:
    """All that a report is made of."""

    spec: RunSpec
    plan: Plan
    labels: NDArray[np.int64]
    clean_prediction: NDArray[np.int64]
    outcomes: list[CellOutcome]
    separations: list[Separation]
    examples: list[Example]
    findings: list[str]
    class_names: tuple[str, ...]
    seconds: float

    @property
    def clean_correct(self) -> Bools:
        return np.asarray(self.clean_prediction == self.labels)

    @property
    def complete(self) -> bool:
        return all(o.status == "done" for o in self.outcomes)


class Progress(Protocol):
    """Told how far a run is: ``within`` a chunk by passes made, and after each chunk."""

    def start(self, cell: Cell, samples: int) -> None: ...

    def within(self, cell: Cell, done: float) -> None: ...

    def advance(self, cell: Cell, done: int, robust: int, of: int) -> None: ...

    def finish(self, outcome: CellOutcome) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def start(self, cell: Cell, samples: int) -> None:
        """Does nothing."""

    def within(self, cell: Cell, done: float) -> None:
        """Does nothing."""

    def advance(self, cell: Cell, done: int, robust: int, of: int) -> None:
        """Does nothing."""

    def finish(self, outcome: CellOutcome) -> None:
        """Does nothing."""
