"""What a run found, per sample, read from its evidence.  Every number is computed from these."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robusteval.attacks.results import Stage
from robusteval.detection.registry import find as find_detector
from robusteval.detection.tuning import setting_of
from robusteval.evidence.columns import COLUMNS, SCORE, merged_facts, nearest_columns
from robusteval.evidence.files import Files
from robusteval.evidence.judge import first_successes, near_tie, success
from robusteval.evidence.measured import NOISE_DRAWS, SQUARE_QUERIES, STEPS, counts, losses_of
from robusteval.evidence.pieces import Piece, attack_facts, require_known
from robusteval.evidence.pursued import PursuitOutcome, pursuit_outcome
from robusteval.evidence.record import open_store, parts_of
from robusteval.evidence.separations import (
    Bools,
    Clean,
    Scores,
    Separation,
    of_attacks,
    of_outliers,
    of_worst_case,
)
from robusteval.evidence.store import FailureKind, NoEvidence, Store
from robusteval.evidence.telling import Raised
from robusteval.plan.plan import Cell, Job, Plan, make_plan
from robusteval.plan.spec import RunSpec
from robusteval.types import ThreatModel

Model = Mapping[str, Any]  # what a run's record says of it

NOT_REACHED = "it was not reached"


@dataclass
class CellOutcome:
    """One attack's outcome over all N samples; rows that it did not reach stay blank.

    ``rows``: (N,) by name, every column of ``columns`` that is spread over samples; ``facts``:
    every fact of it, all chunks' as one.
    """

    cell: Cell
    status: Literal["done"] | NoEvidence
    reason: str
    attacked: Bools  # (N,) initially correct and judged
    rows: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    evidence: list[str] = field(default_factory=list)  # its files
    seconds: float = 0.0
    failure: FailureKind | None = None
    scores: dict[str, Scores] = field(default_factory=dict)  # per detector, of attacked samples

    @classmethod
    def empty(cls, cell: Cell, count: int, layers: int) -> "CellOutcome":
        """An outcome to be filled chunk by chunk; ``layers``: how many carry prototypes."""
        columns = [*COLUMNS, *nearest_columns(layers)]
        rows = {c.name: np.full(count, c.blank) for c in columns if c.blank is not None}
        return cls(cell, "done", "", np.zeros(count, bool), rows, merged_facts([]))

    def success(self, threat: ThreatModel) -> Bools:
        """Samples that this attack broke within a threat model."""
        found: Bools = success(self.rows, threat)
        return found

    # Those that more than one module reads, by name

    @property
    def fooled(self) -> Bools:
        return self.rows["fooled"]

    @property
    def prediction(self) -> NDArray[np.int64]:
        return self.rows["prediction"]

    @property
    def norm(self) -> Scores:
        return self.rows["norm"]

    @property
    def margin(self) -> Scores:
        return self.rows["margin"]

    @property
    def survives_8_bit(self) -> Bools:
        return self.rows["survives_8_bit"]

    @property
    def forward_passes(self) -> Scores:
        return self.rows["forward_passes"]

    @property
    def backward_passes(self) -> Scores:
        return self.rows["backward_passes"]

    @property
    def stages(self) -> list[Stage]:
        return list(self.facts["stages"])

    @property
    def warned(self) -> list[Raised]:
        return list(self.facts["warned"])

    @property
    def notes(self) -> list[str]:
        return list(self.facts["notes"])

    @property
    def lost(self) -> int:
        return int(self.facts["lost"])

    @property
    def drifted(self) -> int:
        return int(self.facts["drifted"])


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


@dataclass
class RunResult:
    """All that a report is made of."""

    spec: RunSpec
    plan: Plan
    record: dict[str, Any]
    evidence_digest: str
    clean: dict[str, NDArray[Any]]  # (N,) by name, every column of clean jobs
    outcomes: list[CellOutcome]
    separations: list[Separation]
    diagnostics: dict[str, Any] | None
    failures: dict[str, str]  # other jobs that failed: name → reason
    verification: dict[str, Any] | None
    seconds: float
    unfitted: dict[str, str]  # detectors whose fit failed: name → reason
    pursuits: list[PursuitOutcome]  # attacks that know a detector
    settings: dict[str, dict[str, float]]  # that were chosen for detectors: name → setting

    @property
    def indices(self) -> NDArray[np.int64]:
        return self.clean["index"]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.clean["label"]

    @property
    def clean_prediction(self) -> NDArray[np.int64]:
        return self.clean["prediction"]

    @property
    def gap(self) -> NDArray[np.float32]:
        return self.clean["gap"]

    @property
    def spread(self) -> NDArray[np.float32]:
        return self.clean["spread"]

    @property
    def second_prediction(self) -> NDArray[np.int64]:
        return self.clean["second_prediction"]

    @property
    def clean_scores(self) -> dict[str, Scores]:
        """(N,) Each detector's scores of the clean samples."""
        return _scores(self.clean)

    @property
    def tie(self) -> float:
        """The gap between logits up to which a prediction is a near-tie."""
        return near_tie(self.spread)

    @property
    def clean_correct(self) -> Bools:
        return np.asarray(self.clean_prediction == self.labels)

    def robust(self, threat: ThreatModel) -> tuple[Bools, bool]:
        """Samples that no attack under a threat model broke, and whether all its attacks ran."""
        robust = self.clean_correct.copy()
        meant = [o for o in self.outcomes if threat in o.cell.threats]
        for outcome in meant:
            robust &= ~outcome.success(threat)
        return robust, bool(meant) and all(o.status == "done" for o in meant)

    @property
    def complete(self) -> bool:
        return all(o.status == "done" for o in self.outcomes) and not self.failures


def load_result(files: Files) -> RunResult:
    """A run's result from its evidence alone.  Raises EvidenceError if it is not readable."""
    store, spec, record = open_store(files)
    plan = make_plan(spec.suite, spec, parts_of(record))
    return gather(store, spec, plan, record)


def gather(store: Store, spec: RunSpec, plan: Plan, record: dict[str, Any]) -> RunResult:
    """Everything that the evidence says.  Raises EvidenceError for what is missing or corrupt."""
    with store.listed():
        return _gathered(store, spec, plan, record)


def _gathered(store: Store, spec: RunSpec, plan: Plan, record: dict[str, Any]) -> RunResult:
    model = record["model"]
    clean, seconds = clean_columns(store, plan, model)
    outcomes = [_outcome(store, plan, part, clean, model) for part in range(len(plan.cells))]
    fits = [job for job in plan.fit_jobs() if store.has(job)]
    seconds += sum(store.read(job).seconds for job in fits)
    unfitted = {job.label: _why(store, job) for job in plan.fit_jobs() if job not in fits}
    outliers: dict[str, dict[str, Scores]] = {}
    failures, diagnostics, pursuits = {}, None, []
    asked = spec.suite.detection.attackers.samples
    for job in plan.other_jobs():
        name = job.label or job.kind
        if not store.has(job):
            failures[name] = _why(store, job)
            continue
        piece = store.read(job)
        seconds += piece.seconds
        if job.kind == "diagnostics":
            correct = int((clean["label"] == clean["prediction"]).sum())
            _require_fitting(store, job, piece.facts, plan, correct, record)
            diagnostics = piece.facts
        elif job.kind == "pursuit":
            sizes = {name: _count(scores) for name, scores in outliers.items()}
            pursuits.append(pursuit_outcome(store, job, plan, asked, clean, sizes))
        else:
            outliers[name] = _scores(piece.columns)
    return RunResult(
        spec,
        plan,
        record,
        store.digest(plan.jobs(), record),
        clean,
        outcomes,
        [s for s in _separations(outcomes, clean, outliers, plan) if s.detector not in unfitted],
        diagnostics,
        failures,
        store.read_verification(),
        seconds + sum(o.seconds for o in outcomes),
        unfitted,
        pursuits,
        {job.label: _setting(store, job) for job in fits if spec.tuning and _has_choice(job)},
    )


def _count(scores: Mapping[str, Scores]) -> int:
    """Of how many images there are scores."""
    return len(next(iter(scores.values()), ()))


def _has_choice(fit: Job) -> bool:
    return len(find_detector(fit.label).settings) > 1


def _setting(store: Store, fit: Job) -> dict[str, float]:
    return setting_of(find_detector(fit.label), store.read_state(fit))


def _why(store: Store, job: Job) -> str:
    """Why a job has no evidence."""
    failure = store.failure(job)
    return failure.reason if failure else NOT_REACHED


def clean_columns(store: Store, plan: Plan, model: Model) -> tuple[dict[str, Any], float]:
    """The clean jobs' columns over all N samples, and their seconds; ``model``: the record's."""
    pieces = [
        _read(store, job, len(chunk), model)
        for job, chunk in zip(plan.clean_jobs(), plan.chunks, strict=True)
    ]
    # A run that an earlier version began may lack the later ones in some chunks.
    shared = [n for n in pieces[0].columns if all(n in piece.columns for piece in pieces)]
    columns = {n: np.concatenate([p.columns[n] for p in pieces]) for n in shared}
    return columns, sum(p.seconds for p in pieces)


def _outcome(
    store: Store, plan: Plan, part: int, clean: dict[str, Any], model: Model
) -> CellOutcome:
    outcome = CellOutcome.empty(plan.cells[part], len(clean["label"]), plan.layers)
    correct = clean["label"] == clean["prediction"]
    scores: dict[str, list[Scores]] = {}
    facts: list[dict[str, Any]] = []
    for index, chunk in enumerate(plan.chunks):
        job = plan.attack_job(part, index)
        if not store.has(job):
            _note_failure(outcome, store, job)
            continue
        rows = np.flatnonzero(correct[chunk.start : chunk.stop]) + chunk.start
        piece = _read(store, job, len(rows), model)
        _fill(outcome, rows, piece.columns)
        for name, values in _scores(piece.columns).items():
            scores.setdefault(name, []).append(values)
        outcome.evidence += store.files_of(job)
        outcome.seconds += piece.seconds
        facts.append(attack_facts(piece.facts))
    outcome.facts = merged_facts(facts)
    outcome.scores = {name: np.concatenate(parts) for name, parts in scores.items()}
    return outcome


def _read(store: Store, job: Job, due: int, model: Model) -> Piece:
    """A job's rows.  Raises EvidenceError unless there is one for each sample, of known classes and
    prototypes."""
    piece = store.read(job)
    try:
        require_known(piece, model)
        if (found := len(piece.columns["label"])) != due:
            raise ValueError(f"{found} rows for {due} samples")
    except ValueError as error:
        raise store.unusable(job, str(error)) from None
    return piece


def _require_fitting(
    store: Store, job: Job, told: Any, plan: Plan, correct: int, record: dict[str, Any]
) -> None:
    """Raises EvidenceError for diagnostics of other samples, of another ball, or of other losses
    than this run's."""
    due = min(plan.diagnosed, correct)
    fits = told["samples"] == due
    if fits and due:
        fits = told["threat"] == plan.threats[0].to_json() and max(counts(told)) <= due
        made = told["attack"]["steps"], told["noise"]["draws"], told["square"]["queries"]
        fits &= made == (STEPS, NOISE_DRAWS, SQUARE_QUERIES)
        losses = losses_of(record["model"]["classes"], bool(record["model"]["layers"]))
        fits &= set(told["gradients"]) == set(losses)
    if not fits:
        raise store.unusable(job, "it measures other samples, threats or losses than this run's")


def _note_failure(outcome: CellOutcome, store: Store, job: Job) -> None:
    """The first failure speaks for the cell; a chunk that was not reached is none of its own."""
    failure = store.failure(job)
    if outcome.status == "done":
        outcome.status, outcome.reason = "not_finished", NOT_REACHED
    if failure and outcome.reason == NOT_REACHED:
        outcome.status, outcome.reason = failure.status, failure.reason
        outcome.failure = failure.kind


def _fill(outcome: CellOutcome, rows: NDArray[np.int64], columns: dict[str, Any]) -> None:
    """Writes a job's columns into its samples' rows."""
    if len(rows) == 0:
        return
    outcome.attacked[rows] = True
    for name in outcome.rows.keys() & columns.keys():  # some are younger than the evidence
        outcome.rows[name][rows] = columns[name]


def _scores(columns: dict[str, Any]) -> dict[str, Scores]:
    return {n.removeprefix(SCORE): v for n, v in columns.items() if n.startswith(SCORE)}


def _separations(
    outcomes: list[CellOutcome],
    clean: dict[str, Any],
    outliers: dict[str, dict[str, Scores]],
    plan: Plan,
) -> list[Separation]:
    """What the detectors are asked: attacked or clean, outlier or not."""
    told = Clean(clean["label"] == clean["prediction"], _scores(clean))
    return [
        *of_attacks(told, outcomes),
        *of_worst_case(told, outcomes, plan.threats, plan.detected),
        *of_outliers(told, outliers),
    ]


def first_breaks(result: RunResult, part: int) -> Bools:
    """Samples whose first success under a threat model, in the suite's order, is this cell's."""
    meant = result.outcomes[: part + 1]
    found: Bools = first_successes(
        [outcome.cell.threats for outcome in meant],
        lambda place, threat: meant[place].success(threat),
    )
    return found


def to_be_kept(result: RunResult, part: int) -> Bools:
    """Samples whose adversarial image by this cell is stored."""
    if result.spec.keep == "all":
        return result.outcomes[part].fooled
    return first_breaks(result, part)
