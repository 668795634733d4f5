"""What a run will do: its spec, its cells and its chunks.

The spec holds all that decides the outcome, and its hash names the run.  A cell is one attack
under one threat model (an attack that knows no ε has one cell for all of its norm's threats).  A
chunk is a fixed slice of the samples; a job is one cell on one chunk.  Every random stream comes
from (seed, cell, chunk, restart), so neither order, interruption nor the number of workers changes
a result.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter

from robusteval.attacks.record import Attack
from robusteval.attacks.registry import code_of, find
from robusteval.data.datasets import Dataset
from robusteval.data.readers import Shape
from robusteval.detection.detectors import DETECTORS, detectors_for
from robusteval.errors import ThreatError
from robusteval.evaluation.suite import AttackSpec, Suite
from robusteval.hardware import MOST_THREADS
from robusteval.models.acceleration import static_batch
from robusteval.types import NORMS, Norm, ThreatModel, parse_eps

_PIXELS_AT_ONCE = 120 * 3 * 32 * 32


def default_batch(shape: Shape, device: str = "cpu") -> int:
    """Images attacked together where the user does not say: 120 at 3×32×32, up to 500 smaller.

    On an accelerator no fewer than its models take at once.
    """
    pixels = shape.channels * shape.height * shape.width
    fewest = 16 if device == "cpu" else static_batch(device)
    return max(fewest, min(500, _PIXELS_AT_ONCE // pixels))


@dataclass(frozen=True)
class Cell:
    """One attack under one threat model, or under several where the attack knows no ε."""

    spec: AttackSpec
    threats: tuple[ThreatModel, ...]
    parameters: dict[str, Any]

    @property
    def attack(self) -> Attack:
        """The record of its attack."""
        return find(self.spec.library, self.spec.attack)

    @property
    def key(self) -> str:
        """A stable name: the attack, and the threat unless it knows none."""
        if not self.attack.knows_eps:
            return f"{self.spec.name}/{self.threats[0].norm}"
        return f"{self.spec.name}/{self.threats[0]}"


Keep = Literal["first", "all"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1, le=10**8)]
_MOST_CHUNKS = 10**5


@dataclass(frozen=True)
class RunSpec:
    """All that decides a run's outcome, as plain data.

    ``threads``: of each worker, since sums split over threads differ in the last bit.  ``keep``:
    which adversarial images are stored, the ``first`` success of each sample and threat model in
    the suite's order or ``all``.  ``transfer_source``: name and digest of the model whose
    adversarials the diagnostics transfer, empty where there is none.  ``forms``: how the model
    computes for libraries and for our own gradients (see ``models.acceleration``).  ``sources``:
    digests of the models that the suite's transfer attacks name.  ``outlier_digests``: of the
    images that are taken of outlier sets and folders.  ``code``: digests of what computes each
    attack; empty in runs from before attacks had versions.
    """

    # What ``from_json`` asks of a file.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False
    )

    model: Annotated[str, Field(pattern=r"^\w[\w.\-]*$")]
    model_digest: Digest
    dataset: str
    data_digest: Digest
    suite: Suite
    threats: list[tuple[Norm, str]]
    samples: Count
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    batch_size: Count
    time_limit: Annotated[float, Field(gt=0)] | None = None
    outliers: tuple[str, ...] = ()
    outlier_folders: tuple[str, ...] = ()
    outlier_digests: dict[str, Digest] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: Annotated[str, Field(pattern=r"^[a-z]+(:[0-9]+)?$")] = "cpu"
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    keep: Keep = "first"
    transfer_source: tuple[()] | tuple[str, Digest] = ()
    forms: tuple[str, str] = ("float32", "float32")
    sources: dict[str, Digest] = field(default_factory=dict)
    code: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the spec."""
        canonical = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """``<model>-<suite>-<8 hex of the spec>``: the run's folder."""
        return f"{self.model}-{self.suite.name}-{self.digest[:8]}"

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON gives back unchanged.

        Of the suite what was set, so that a field that suites get later leaves old digests alone.
        """
        suite = self.suite.model_dump(exclude_unset=True)
        plain: dict[str, Any] = json.loads(json.dumps({**self.__dict__, "suite": suite}))
        if not self.code:  # so that the digests of older runs stay theirs
            del plain["code"]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The spec of its plain data.

        Raises ValueError (pydantic's) for a field that is missing, unknown or out of its range, and
        ThreatError for an ε that is none.
        """
        spec = TypeAdapter(cls).validate_json(json.dumps(plain))
        spec.threat_models()
        if spec.samples > spec.batch_size * _MOST_CHUNKS:
            raise ValueError(f"batch_size: {spec.batch_size} makes over {_MOST_CHUNKS} chunks")
        return spec

    def threat_models(self) -> list[ThreatModel]:
        """The threats, with their exact ε."""
        return [ThreatModel(norm, parse_eps(eps)) for norm, eps in self.threats]


JobKind = Literal["clean", "attack", "outliers", "diagnostics"]


@dataclass(frozen=True)
class Job:
    """The unit of work, of evidence and of resume.

    ``part``: the cell's or outlier set's place in the plan; ``label``: its name, for people;
    ``scored_by``: the detectors whose scores stand in its rows.
    """

    kind: JobKind
    part: int
    chunk: int
    label: str = field(default="", compare=False)
    scored_by: tuple[str, ...] = field(default=(), compare=False)

    @property
    def stem(self) -> str:
        """The name of its files."""
        if self.kind == "clean":
            return f"clean-{self.chunk:04d}"
        if self.kind == "diagnostics":
            return "diagnostics"
        slug = re.sub(r"[^A-Za-z0-9.]+", "_", self.label)
        if self.kind == "outliers":
            return f"outliers-{self.part:02d}"
        return f"attack-{self.part:02d}-{slug}-{self.chunk:04d}"


@dataclass(frozen=True)
class Plan:
    """Cells in the suite's order, what was left out and why, and the chunks' rows."""

    cells: list[Cell]
    left_out: dict[str, str]
    chunks: list[range]
    threats: list[ThreatModel]
    outliers: list[str]
    diagnosed: int  # samples that the diagnostics look at
    detectors: tuple[str, ...]  # that this model can have
    detected: frozenset[str]  # attacks whose images they score

    def clean_job(self, chunk: int) -> Job:
        """Clean predictions on a chunk: what every other job builds on."""
        return Job("clean", 0, chunk, scored_by=self.detectors)

    def attack_job(self, part: int, chunk: int) -> Job:
        """A cell on a chunk."""
        cell = self.cells[part]
        scored_by = self.detectors if cell.spec.name in self.detected else ()
        return Job("attack", part, chunk, cell.key, scored_by)

    def clean_jobs(self) -> list[Job]:
        """Clean predictions on every chunk."""
        return [self.clean_job(chunk) for chunk in range(len(self.chunks))]

    def attack_jobs(self) -> list[Job]:
        """Every cell on every chunk, cell by cell."""
        return [
            self.attack_job(part, chunk)
            for part in range(len(self.cells))
            for chunk in range(len(self.chunks))
        ]

    def other_jobs(self) -> list[Job]:
        """Outlier scores, and the diagnostics."""
        jobs = [
            Job("outliers", part, 0, name, self.detectors)
            for part, name in enumerate(self.outliers)
        ]
        return [*jobs, *([Job("diagnostics", 0, 0)] if self.diagnosed else [])]

    def jobs(self) -> list[Job]:
        """Everything, in the order in which one process does it."""
        return [*self.clean_jobs(), *self.attack_jobs(), *self.other_jobs()]


def threats_for(suite: Suite, data: Dataset, eps: list[str]) -> list[ThreatModel]:
    """The threats of each norm that the suite attacks: ``eps`` given by the user, the suite's
    own, or the data set's.

    A user's ε applies to L∞; written ``L2:0.5``, to L2.
    """
    given: dict[Norm, list[str]] = {}
    for text in eps:
        norm, _, value = text.strip().rpartition(":")
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
            threats += [ThreatModel(norm, parse_eps(r)) for r in radii]
    for threat in threats:
        _require_fitting(threat, data)
    return list(dict.fromkeys(threats))


def _require_fitting(threat: ThreatModel, data: Dataset) -> None:
    """Raises ThreatError for a ball that holds every image there is."""
    shape = data.info.shape
    diagonal = math.sqrt(shape.channels * shape.height * shape.width)
    if threat.norm == "L2" and threat.radius > diagonal:
        raise ThreatError(
            f"ε {threat.eps_text} in L2 is larger than the diagonal {diagonal:.3g} of "
            f"{data.info.name}'s images: every image is within it, so choose a smaller one"
        )


def check_names(suite: Suite, threats: Sequence[ThreatModel]) -> None:
    """Raises UnknownNameError for attacks and detectors that there aren't, and AttackError for
    attacks that can't run in their norms or with their parameters, or whose library is missing."""
    for detector in suite.detection.detectors:
        DETECTORS.get(detector)
    for attack in suite.attacks:
        for threat in (t for t in threats if t.norm in attack.norms):
            record = find(attack.library, attack.attack)
            record.check((threat.norm,), attack.parameters_for(threat))


def make_plan(suite: Suite, spec: RunSpec, has_prototypes: bool) -> Plan:
    """Cells and chunks; attacks that need prototypes are left out of models without."""
    threats = spec.threat_models()
    cells, left_out = [], {}
    for attack in suite.attacks:
        if find(attack.library, attack.attack).needs.prototypes and not has_prototypes:
            left_out[attack.name] = "the model has no prototypes"
            continue
        cells += _cells_of(attack, threats)
    size = spec.batch_size
    chunks = [range(i, min(i + size, spec.samples)) for i in range(0, spec.samples, size)]
    outliers = [*spec.outliers, *spec.outlier_folders]
    diagnosed = suite.diagnostics.samples if threats else 0
    detectors = detectors_for(suite.detection.detectors, has_prototypes)
    detected = frozenset(suite.detection.attacks)
    return Plan(cells, left_out, chunks, threats, outliers, diagnosed, detectors, detected)


def _cells_of(attack: AttackSpec, threats: list[ThreatModel]) -> list[Cell]:
    """A cell per threat model, or one for all of a norm's where the attack knows no ε."""
    knows_eps = find(attack.library, attack.attack).knows_eps
    cells = []
    for norm in attack.norms:
        meant = [t for t in threats if t.norm == norm]
        groups = [(t,) for t in meant] if knows_eps else [tuple(meant)] if meant else []
        cells += [Cell(attack, group, attack.parameters_for(group[0])) for group in groups]
    return cells


def job_seed(seed: int, cell: Cell, chunk: int, restart: int) -> int:
    """The seed of one job, the same whatever runs before, beside or after it."""
    digest = hashlib.sha256(f"{seed}/{cell.key}/{chunk}/{restart}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def job_stream(seed: int, job: Job) -> int:
    """The seed of the global generators that a randomised model may draw from in a job."""
    digest = hashlib.sha256(f"{seed}/{job.stem}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def library_versions(suite: Suite) -> dict[str, str]:
    """Versions of the packages whose attacks and detectors run, and of our own."""
    packages = {a.library.package: a.library.version for a in records_of(suite)}
    if suite.detection.detectors:
        packages["pytorch-ood"] = version("pytorch-ood")
    packages |= {name: version(name) for name in ("robusteval", "torch")}
    return dict(sorted(packages.items()))


def attack_code(suite: Suite) -> dict[str, str]:
    """Digests of the code that computes each attack of a suite, by its key."""
    return {attack.key: code_of(attack) for attack in records_of(suite)}


def records_of(suite: Suite) -> list[Attack]:
    """The records of a suite's attacks, each once, in its order."""
    return list({(a.library, a.attack): find(a.library, a.attack) for a in suite.attacks}.values())


def expected_passes(cell: Cell, classes: int) -> tuple[int, int]:
    """The most forward and backward passes that a batch's samples take on average.

    Where gradients aren't masked; broken samples stop earlier.
    """
    forward, backward = cell.attack.expected_passes(cell.parameters, classes)
    return forward * cell.spec.restarts, backward * cell.spec.restarts
