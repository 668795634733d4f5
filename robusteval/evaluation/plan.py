"""What a run will do: its spec, its cells and its chunks.

The spec holds all that decides the outcome, and its hash names the run.  A cell is one attack
under one threat model (an attack that knows no ε has one cell for all of its norm's threats).  A
chunk is a fixed slice of the samples.  Every random stream comes from (seed, cell, chunk,
restart), so neither order nor interruption changes a result.
"""

import hashlib
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from robusteval.attacks.registry import LIBRARIES, NEEDS_PROTOTYPES, AttackCall
from robusteval.data.datasets import Dataset
from robusteval.data.readers import Shape
from robusteval.detection.detectors import DETECTORS
from robusteval.errors import ThreatError
from robusteval.evaluation.suite import AttackSpec, Suite
from robusteval.models.adapter import Adapter
from robusteval.types import NORMS, Norm, ThreatModel, parse_eps

_PIXELS_AT_ONCE = 120 * 3 * 32 * 32


def default_batch(shape: Shape) -> int:
    """Images attacked together where the user does not say: 120 at 3×32×32, up to 500 smaller."""
    pixels = shape.channels * shape.height * shape.width
    return max(16, min(500, _PIXELS_AT_ONCE // pixels))


@dataclass(frozen=True)
class Cell:
    """One attack under one threat model, or under several where the attack knows no ε."""

    spec: AttackSpec
    threats: tuple[ThreatModel, ...]
    parameters: dict[str, Any]

    @property
    def call(self) -> AttackCall:
        return AttackCall(self.spec.library, self.spec.attack, self.parameters)

    @property
    def key(self) -> str:
        """A stable name: the attack, and the threat unless it knows none."""
        if not self.call.knows_eps:
            return f"{self.spec.name}/{self.threats[0].norm}"
        return f"{self.spec.name}/{self.threats[0]}"


@dataclass(frozen=True)
class RunSpec:
    """All that decides a run's outcome, as plain data."""

    model: str
    model_digest: str
    dataset: str
    data_digest: str
    suite: dict[str, Any]
    threats: list[list[str]]
    samples: int
    seed: int
    batch_size: int
    time_limit: float | None = None
    outliers: tuple[str, ...] = ()
    outlier_folders: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the spec."""
        canonical = json.dumps(self.__dict__, sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """Cells in the suite's order, what was left out and why, and the chunks' rows."""

    cells: list[Cell]
    left_out: dict[str, str]
    chunks: list[range]
    threats: list[ThreatModel]


def threats_for(suite: Suite, data: Dataset, eps: list[str]) -> list[ThreatModel]:
    """The threats of each norm that the suite attacks: ``eps`` given by the user, the suite's
    own, or the data set's.

    A user's ε applies to L∞; written ``L2:0.5``, to L2.
    """
    given: dict[Norm, list[str]] = {}
    for text in eps:
        norm, _, value = text.rpartition(":")
        threat = ThreatModel(norm or "Linf", parse_eps(value))  # type: ignore[arg-type]
        given.setdefault(threat.norm, []).append(value)
    if unused := [n for n in given if n not in suite.norms]:
        raise ThreatError(
            f"ε is given for {', '.join(unused)}, which no chosen attack of {suite.name} uses"
        )
    threats = []
    for norm in NORMS:
        if norm in suite.norms:
            default = suite.threats.get(norm, [data.info.threats[norm]])
            radii = given.get(norm, default)
            threats += [ThreatModel(norm, parse_eps(r)) for r in dict.fromkeys(radii)]
    return threats


def make_plan(suite: Suite, model: Adapter, threats: list[ThreatModel], spec: RunSpec) -> Plan:
    """Cells and chunks; attacks that need prototypes are left out of models without."""
    for detector in suite.detection.detectors:
        DETECTORS.get(detector)
    cells, left_out = [], {}
    for attack in suite.attacks:
        AttackCall(attack.library, attack.attack, {}).check()
        if (
            attack.library == "robusteval"
            and attack.attack in NEEDS_PROTOTYPES
            and not model.layers
        ):
            left_out[attack.name] = "the model has no prototypes"
            continue
        for norm in attack.norms:
            meant = [t for t in threats if t.norm == norm]
            knows_eps = AttackCall(attack.library, attack.attack, {}).knows_eps
            groups = [(t,) for t in meant] if knows_eps else [tuple(meant)] if meant else []
            cells += [Cell(attack, group, attack.parameters_for(group[0])) for group in groups]
    size = spec.batch_size
    chunks = [range(i, min(i + size, spec.samples)) for i in range(0, spec.samples, size)]
    return Plan(cells, left_out, chunks, threats)


def job_seed(seed: int, cell: Cell, chunk: int, restart: int) -> int:
    """The seed of one job, the same whatever runs before, beside or after it."""
    digest = hashlib.sha256(f"{seed}/{cell.key}/{chunk}/{restart}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def library_versions() -> dict[str, str]:
    """Versions of the libraries whose attacks run."""
    packages = {*LIBRARIES.values(), "torch"}
    return {name: version(name) for name in sorted(packages)}


def expected_passes(cell: Cell, classes: int) -> tuple[int, int]:
    """The most forward and backward passes a sample can take; broken ones stop earlier."""
    targets, parameters = min(9, classes - 1), cell.parameters
    if cell.spec.library == "autoattack":
        apgd = 100 * (1 + (targets if classes >= 4 else 1 if classes == 3 else 0))
        fab = 100 * targets
        return apgd + 4 * fab + 5000, apgd + fab
    if cell.spec.attack == "DeepFool":  # a gradient per class and round
        rounds = int(parameters.get("steps", 50))
        return rounds, rounds * classes
    if cell.spec.attack == "Square":
        return int(parameters.get("n_queries", 5000)) + 1, 0
    if cell.spec.attack == "gaussian_noise":
        return 0, 0
    steps = int(parameters.get("steps", 1))
    return cell.spec.restarts * steps, cell.spec.restarts * steps
