"""What a run will do: its cells, its chunks and its jobs.

A cell is one attack under one threat model (an attack that knows no ε has one cell for all of its
norm's threats).  A chunk is a fixed slice of the samples; a job is one cell on one chunk.  Every
random stream comes from (seed, cell, chunk, restart), so neither order, interruption nor the number
of workers changes a result.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from robusteval.attacks.record import Attack, Gradients
from robusteval.attacks.registry import find
from robusteval.detection import registry as detection
from robusteval.detection.record import Detector
from robusteval.models.adapter import Parts
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import Attackers, AttackSpec, Suite
from robusteval.types import Goal, ThreatModel, parse_eps


@dataclass(frozen=True)
class Cell:
    """One attack under one threat model, or under several where the attack knows no ε.

    ``led``: whether it follows a surrogate's gradients, too, on a budget of their own.
    """

    spec: AttackSpec
    threats: tuple[ThreatModel, ...]
    parameters: dict[str, Any]
    led: bool = False

    @property
    def attack(self) -> Attack:
        """The record of its attack."""
        return find(self.spec.library, self.spec.attack)

    @property
    def gradients(self) -> Gradients:
        """What its attack goes by; another model's gradients say nothing about this one's."""
        return "both" if self.spec.source else self.attack.gradients

    @property
    def key(self) -> str:
        """A stable name: the attack, and the threat unless it knows none."""
        if not self.attack.knows_eps:
            return f"{self.spec.name}/{self.threats[0].norm}"
        return f"{self.spec.name}/{self.threats[0]}"


@dataclass(frozen=True)
class Pursuit:
    """An attack that knows a detector: its goal within a threat, and of which set of outliers, if
    they are its samples."""

    detector: str
    goal: Goal
    threat: ThreatModel
    outliers: str = ""

    @property
    def key(self) -> str:
        """A stable name."""
        return "/".join(filter(None, (self.detector, self.goal, str(self.threat), self.outliers)))


NO_PROTOTYPES = "the model has no prototypes"
NO_LOSS = "the model's own training loss is unknown"
_FEATURES = ("features", "both")
# What the diagnostics measure, part by part; the last one only where there is a model to transfer
# from.
PROBES = ("looks", "ascents", "growth", "noise", "square", "transfer")
JobKind = Literal["fit", "clean", "attack", "outliers", "pursuit", "probe", "diagnostics"]


@dataclass(frozen=True)
class Job:
    """The unit of work, of evidence and of resume.

    ``part``: the place in the plan of its fit, cell, outlier set, pursuit or probe; ``label``: its
    name, for people; ``scored_by``: the detectors whose scores stand in its rows; ``layers``: how
    many layers with prototypes.  What a ``probe`` found is kept until ``diagnostics`` puts all
    probes together.
    """

    kind: JobKind
    part: int
    chunk: int
    label: str = field(default="", compare=False)
    scored_by: tuple[str, ...] = field(default=(), compare=False)
    layers: int = field(default=0, compare=False)

    @property
    def stem(self) -> str:
        """The name of its files."""
        if self.kind == "clean":
            return f"clean-{self.chunk:04d}"
        if self.kind == "diagnostics":
            return "diagnostics"
        if self.kind == "probe":
            return f"diagnostics-{self.label}"
        if self.kind == "outliers":
            return f"outliers-{self.part:02d}"
        slug = re.sub(r"[^A-Za-z0-9.]+", "_", self.label)
        whole = f"{self.kind}-{self.part:02d}-{slug}"
        return f"{whole}-{self.chunk:04d}" if self.kind == "attack" else whole


@dataclass(frozen=True)
class Plan:
    """Cells in the suite's order, what was left out and why, and the chunks' rows."""

    cells: list[Cell]
    left_out: dict[str, str]  # attacks
    chunks: list[range]
    threats: list[ThreatModel]
    outliers: list[str]
    diagnosed: int  # samples that the diagnostics look at
    probes: tuple[str, ...]  # the parts of the diagnostics
    detectors: tuple[str, ...]  # that this model can have
    fits: tuple[str, ...]  # those of them that are fitted
    detectors_left_out: dict[str, str]
    detected: frozenset[str]  # attacks whose images they score
    layers: int  # of the model, that carry prototypes
    pursuits: tuple[Pursuit, ...]  # attacks that know a detector

    def fit_job(self, detector: str) -> Job:
        """A detector's fit to the training data."""
        return Job("fit", self.fits.index(detector), 0, detector)

    def fit_jobs(self) -> list[Job]:
        """Every detector's that is fitted: what scores build on."""
        return [self.fit_job(name) for name in self.fits]

    def clean_job(self, chunk: int) -> Job:
        """Clean predictions on a chunk: what every other job builds on."""
        return Job("clean", 0, chunk, scored_by=self.detectors, layers=self.layers)

    def attack_job(self, part: int, chunk: int) -> Job:
        """A cell on a chunk."""
        cell = self.cells[part]
        scored_by = self.detectors if cell.spec.name in self.detected else ()
        return Job("attack", part, chunk, cell.key, scored_by, self.layers)

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

    def outlier_jobs(self) -> list[Job]:
        """Outlier scores."""
        return [
            Job("outliers", part, 0, name, self.detectors)
            for part, name in enumerate(self.outliers)
        ]

    def pursuit_jobs(self) -> list[Job]:
        """Attacks that know a detector, each on all of its samples."""
        return [Job("pursuit", part, 0, each.key) for part, each in enumerate(self.pursuits)]

    def probe_jobs(self) -> list[Job]:
        """The parts of the diagnostics, whose evidence gives way to the whole's."""
        return [Job("probe", part, 0, name) for part, name in enumerate(self.probes)]

    def diagnostics_jobs(self) -> list[Job]:
        """The diagnostics as a whole, if there are any."""
        return [Job("diagnostics", 0, 0)] if self.diagnosed else []

    def other_jobs(self) -> list[Job]:
        """Outlier scores, attacks on detectors, and the diagnostics."""
        return [*self.outlier_jobs(), *self.pursuit_jobs(), *self.diagnostics_jobs()]

    def jobs(self) -> list[Job]:
        """Everything whose evidence stays, in the order in which one process does it."""
        return [*self.fit_jobs(), *self.clean_jobs(), *self.attack_jobs(), *self.other_jobs()]

    def counted_jobs(self) -> list[Job]:
        """The jobs that people are told of, which are those that take time: each probe counts, and
        not again the diagnostics as a whole."""
        first = [*self.fit_jobs(), *self.clean_jobs(), *self.attack_jobs()]
        return [*first, *self.outlier_jobs(), *self.pursuit_jobs(), *self.probe_jobs()]

    def counted_done(self, has: Callable[[Job], bool]) -> list[Job]:
        """Those of ``counted_jobs`` that are done: a probe also by the diagnostics as a whole."""
        probed = any(map(has, self.diagnostics_jobs()))
        return [job for job in self.counted_jobs() if has(job) or (job.kind == "probe" and probed)]


def check_names(suite: Suite, threats: Sequence[ThreatModel]) -> None:
    """Raises UnknownNameError for attacks and detectors that there aren't, and AttackError for
    attacks that can't run in their norms or with their parameters, or whose library is missing."""
    for detector in suite.detection.detectors:
        detection.find(detector)
    for attack in suite.attacks:
        for threat in (t for t in threats if t.norm in attack.norms):
            record = find(attack.library, attack.attack)
            record.check((threat.norm,), attack.parameters_for(threat))


def make_plan(suite: Suite, spec: RunSpec, parts: Parts) -> Plan:
    """Cells and chunks; what needs more than the model has is left out."""
    every = spec.threat_models()
    attacked = {norm for attack in suite.attacks for norm in attack.norms}
    threats = [threat for threat in every if threat.norm in attacked]  # not detectors alone
    cells, left_out = [], {}
    for attack in suite.attacks:
        if reason := _unfit(attack, parts):
            left_out[attack.name] = reason
            continue
        cells += _cells_of(attack, threats, led=bool(spec.surrogate))
    size = spec.batch_size
    chunks = [range(i, min(i + size, spec.samples)) for i in range(0, spec.samples, size)]
    outliers = [*spec.outliers, *spec.outlier_folders]
    diagnosed = suite.diagnostics.samples if threats else 0
    reasons = {name: _why_not(name, parts, spec) for name in suite.detection.detectors}
    detectors = tuple(name for name, reason in reasons.items() if not reason)
    return Plan(
        cells,
        left_out,
        chunks,
        threats,
        outliers,
        diagnosed,
        (PROBES if spec.transfer_source else PROBES[:-1]) if diagnosed else (),
        detectors,
        fits=tuple(name for name in detectors if detection.find(name).needs_training_data),
        detectors_left_out={name: reason for name, reason in reasons.items() if reason},
        detected=frozenset(suite.detection.attacks),
        layers=parts.layers,
        pursuits=tuple(_pursuits(suite.detection.attackers, detectors, every, outliers)),
    )


def _unfit(attack: AttackSpec, parts: Parts) -> str:
    """Why an attack can't run on a model; empty where it can, or runs on another one."""
    return "" if attack.source else lacking(find(attack.library, attack.attack), parts)


def lacking(attack: Attack, parts: Parts) -> str:
    """What an attack needs that a model has not; empty where there is nothing."""
    if attack.needs.prototypes and not parts.prototypes:
        return NO_PROTOTYPES
    return NO_LOSS if attack.needs.training_loss and not parts.own_loss else ""


def _pursuits(
    asked: Attackers,
    detectors: Sequence[str],
    threats: Sequence[ThreatModel],
    outliers: Sequence[str],
) -> Iterator[Pursuit]:
    """Each goal on each of the detectors that are there, at each norm's first ε."""
    first = [next((t for t in threats if t.norm == norm), None) for norm in asked.norms]
    for detector in (name for name in asked.detectors if name in detectors):
        for threat in filter(None, first):
            for goal in asked.goals:
                sets = outliers[: asked.outliers] if goal == "accept" else [""]
                yield from (Pursuit(detector, goal, threat, name) for name in sets)
            if asked.stratified:
                inner = ThreatModel(threat.norm, parse_eps(asked.stratified) * threat.eps)
                yield Pursuit(detector, "reject", inner)


def _why_not(detector: str, parts: Parts, spec: RunSpec) -> str:
    """Why a run can't have a detector; empty where it can."""
    record = detection.find(detector)
    if reason := _lacking(record, parts):
        return reason
    if record.needs_training_data and not spec.training and spec.own_data:
        return "it is fitted to training data: give some (fit_images=…, fit_labels=…, --fit-data)"
    if record.needs_training_data and not spec.training:
        return f"it is fitted to training data, and those of {spec.dataset} are not there"
    return ""


def _lacking(detector: Detector, parts: Parts) -> str:
    """What a detector needs that a model has not; empty where there is nothing."""
    if detector.needs_prototypes and not parts.prototypes:
        return NO_PROTOTYPES
    if detector.reads in _FEATURES and not parts.features:
        return "the model shows no features, only logits"
    if detector.needs_linear_head and not parts.linear_head:
        return "the model's logits are not linear in its features"
    return ""


def has_fits(suite: Suite, parts: Parts) -> bool:
    """Whether a suite has a detector for such a model that is fitted to training data."""
    records = map(detection.find, suite.detection.detectors)
    return any(one.needs_training_data and not _lacking(one, parts) for one in records)


def has_choices(suite: Suite, parts: Parts) -> bool:
    """Whether one of these has settings to choose from."""
    records = map(detection.find, suite.detection.detectors)
    return any(len(one.settings) > 1 and not _lacking(one, parts) for one in records)


def reads_features(suite: Suite) -> bool:
    """Whether it matters for a suite's plan if a model has features of its own."""
    return any(detection.find(name).reads in _FEATURES for name in suite.detection.detectors)


def reads_linear_head(suite: Suite) -> bool:
    """Whether it matters for a suite's plan if a model's logits are linear in its features."""
    return any(detection.find(name).needs_linear_head for name in suite.detection.detectors)


def asks_for_loss(suite: Suite) -> bool:
    """Whether it matters for a suite's plan if a model's training loss is known."""
    own = [attack for attack in suite.attacks if not attack.source]
    return any(find(one.library, one.attack).needs.training_loss for one in own)


def _cells_of(attack: AttackSpec, threats: list[ThreatModel], led: bool) -> list[Cell]:
    """A cell per threat model, or one for all of a norm's where the attack knows no ε."""
    knows_eps = find(attack.library, attack.attack).knows_eps
    led = led and attack.follows_surrogates
    cells = []
    for norm in attack.norms:
        meant = [t for t in threats if t.norm == norm]
        groups = [(t,) for t in meant] if knows_eps else [tuple(meant)] if meant else []
        cells += [Cell(attack, group, attack.parameters_for(group[0]), led) for group in groups]
    return cells


def job_seed(seed: int, cell: Cell, chunk: int, restart: int) -> int:
    """The seed of one job, the same whatever runs before, beside or after it."""
    digest = hashlib.sha256(f"{seed}/{cell.key}/{chunk}/{restart}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def job_stream(seed: int, job: Job) -> int:
    """The seed of the global generators that a randomised model may draw from in a job."""
    digest = hashlib.sha256(f"{seed}/{job.stem}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def expected_passes(cell: Cell, classes: int) -> tuple[int, int]:
    """The most forward and backward passes that a batch's samples take on average.

    Where gradients aren't masked; broken samples stop earlier.
    """
    forward, backward = cell.attack.expected_passes(cell.parameters, classes)
    times = cell.spec.restarts * (2 if cell.led else 1)
    return forward * times, backward * times
