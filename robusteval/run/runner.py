"""Carries a plan out: what is missing is done, what is there is kept; the proof comes last."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval import stops
from robusteval.errors import EvidenceError
from robusteval.evidence import claims
from robusteval.evidence.claims import Claims
from robusteval.evidence.kept import KeptImages, counted_images, float32_tally, image_balance
from robusteval.evidence.pictures import write_examples
from robusteval.evidence.results import RunResult, clean_columns, gather, to_be_kept
from robusteval.evidence.store import Failure, Kept, Store
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.plan.spec import RunSpec
from robusteval.run.costs import Costs
from robusteval.run.crew import Crew
from robusteval.run.diagnosing import forget_probes
from robusteval.run.executors.base import Executor
from robusteval.run.executors.here import Here
from robusteval.run.executors.processes import Processes, forget_log
from robusteval.run.executors.ray_cluster import RayWorkers
from robusteval.run.executors.service import done_already
from robusteval.run.executors.shared import Shared
from robusteval.run.forecast import PARTS, Forecast, name_of
from robusteval.run.jobs import Done
from robusteval.run.precision import precision
from robusteval.run.progress import Progress, Silent, watcher

# Of a run's spec, its record, labels (N,) and clean predictions (N,): what makes all that follows
# doubtful, or nothing.
Doubt = Callable[[RunSpec, dict[str, Any], NDArray[np.int64], NDArray[np.int64]], str]


_OTHERS = (
    "other processes are at work on this run, or were killed: this one does what none of them has, "
    "and then waits for theirs"
)
_PAUSE = 0.3  # seconds between two words on how far a run is


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; none of it bears on the outcome.

    ``doubted``: asked once, when clean predictions are there, before the first attack.
    """

    crew: Crew = field(default_factory=Crew)
    progress: Progress = field(default_factory=Silent)
    doubted: Doubt = lambda *_: ""


class Run:
    """One run's state while it goes on."""

    def __init__(
        self, context: Context, store: Store, record: dict[str, Any], settings: Settings
    ) -> None:
        self.context, self.store, self.record, self.settings = context, store, record, settings
        self.told = watcher(settings.progress)
        self.tallies = [_Tally() for _ in context.plan.cells]
        self.shares: dict[Job, float] = {}  # of jobs that are no attacks
        self.told_at = 0.0  # when the whole run's standing was told

    def execute(self, executor: Executor | None = None) -> RunResult:
        """Does every job without evidence.  A failed attack spoils its own cell, no other."""
        with self.store.lock(), precision(self.context.spec):
            self.store.forget_failures(self._settled())
            self._carry_out(executor or self._executor())
            with self.store.listed(), stops.saying(self._kept):
                return self._conclude()

    def take_part(self, executor: Executor) -> None:
        """Does what is missing beside other processes, whose failures stand: all jobs have their
        evidence then, or a failure, but for those that one makes needless.  The conclusion is left
        to ``execute``."""
        with precision(self.context.spec):
            self._carry_out(executor)

    def _carry_out(self, executor: Executor) -> None:
        with closing(executor):
            self.forecast = self._forecast(executor.count)
            with stops.saying(self._kept):
                for stage in self._stages():
                    self._do(stage, executor)

    def _stages(self) -> Iterator[list[Job]]:
        """Jobs in the order in which they build on each other."""
        plan = self.context.plan
        yield plan.fit_jobs()
        yield plan.clean_jobs()
        yield plan.attack_jobs()
        yield [*plan.outlier_jobs(), *self._probes()]
        yield plan.pursuit_jobs()
        yield plan.diagnostics_jobs()

    def _do(self, stage: list[Job], executor: Executor) -> None:
        missing = self._missing(stage)
        if stage and stage[0].kind == "attack":
            self._tell_what_is_there(stage)
        if missing:
            self._tell_standing()
            executor.run(missing, self)
        if stage and stage[0].kind == "clean":
            self._look_at_clean()

    def _kept(self) -> str:
        """What a run keeps that is stopped now."""
        now, model = self.forecast.standing(), self.context.spec.model
        if not now.done:
            return f"none of {now.jobs} jobs of {model} was finished, so nothing is kept"
        done = f"{now.done} of {now.jobs} jobs of {model} are done and kept"
        return f"{done}; the same command does the rest"

    def _missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those without evidence; others may have made some since the run went on."""
        missing = self.store.missing(jobs)
        for job in set(jobs) - set(missing):
            self.forecast.finished(job)
            if job.kind != "attack":
                self.shares[job] = 1.0
        return missing

    def _forecast(self, workers: int) -> Forecast:
        context = self.context
        costs = Costs(context.plan, context.spec, context.model.classes)
        with self.store.listed():
            there = set(context.plan.counted_done(self.store.has))
        self.shares = {job: 1.0 for job in there if job.kind != "attack"}
        self.done_of = dict.fromkeys(PARTS, 0.0)
        for job in self.shares:
            self.done_of[job.kind] += 1.0
        return Forecast(costs, there, workers)

    def _probes(self) -> list[Job]:
        """The parts of diagnostics that are still to be made."""
        plan = self.context.plan
        return plan.probe_jobs() if self.store.missing(plan.diagnostics_jobs()) else []

    def _settled(self) -> list[Job]:
        """Fits whose failure stands: where there are scores already, theirs are left out of all."""
        plan = self.context.plan
        clean = plan.clean_jobs()
        return plan.fit_jobs() if len(self.store.missing(clean)) < len(clean) else []

    def _executor(self) -> Executor:
        crew = self.settings.crew
        if claims.are_there(self.store.files):
            self.told.doubt(_OTHERS)
            return Shared(self.context, self.store, Claims(self.store.files).arrive())
        if crew.is_ray:
            return RayWorkers(self.context, self.store, crew)
        if (crew.count or 1) > 1:
            return Processes(self.context, self.store, crew.count or 1)
        return Here(self.context, self.store)

    def _conclude(self) -> RunResult:
        """Drops images that prove nothing new, predicts the rest again, picks pictures."""
        self.store.forget_conclusions()
        forget_probes(self.context, self.store)
        result = self._gather()
        prune(self.context, self.store, result)
        balance = image_balance(self.context.plan, self.store, result)
        for job in self.context.plan.attack_jobs():
            if balance[job.stem][0]:
                raise EvidenceError(
                    f"{job.stem}.safetensors lacks images: delete {self.store.rows_file(job)} and "
                    "run the same command again: all other evidence is kept"
                )
        tally = float32_tally(self.context, self._counted(), result.tie)
        self.store.write_verification(tally.to_json())
        write_examples(self.context, self.store, result)
        result = self._gather()
        claims.clear(self.store.files)
        if result.complete:  # else it may say why
            forget_log(self.store)
        return result

    def _counted(self) -> Iterator[KeptImages]:
        """The stored images, and a word on how far they are."""
        name, jobs = "stored images predicted again", len(self.context.plan.attack_jobs())
        self.told.part(name, 0, jobs)
        for batch in counted_images(self.context, self.store):
            yield batch
            place = batch.job.part * len(self.context.plan.chunks) + batch.job.chunk
            self.told.part(name, place + 0.5, jobs)
        self.told.part(name, jobs, jobs)

    def _gather(self) -> RunResult:
        return gather(self.store, self.context.spec, self.context.plan, self.record)

    # What executors ask and tell

    def wanted(self, job: Job) -> bool:
        """Not if another chunk of its cell, or another probe, has failed: the whole has no number
        any more; nor a fit whose failure stands."""
        if job.kind in ("fit", "probe", "diagnostics"):
            return self.store.failure(job) is None
        return job.kind != "attack" or not self.tallies[job.part].failed

    def budget(self, job: Job) -> float | None:
        """What is left of its attack's time limit."""
        limit = self.context.spec.time_limit
        if job.kind != "attack" or limit is None:
            return None
        return limit - self.tallies[job.part].seconds

    def started(self, job: Job) -> None:
        """A job is at work."""
        self.forecast.started(job)
        self._tell_part(job, 0.0)
        self._tell_standing()

    def within(self, job: Job, share: float) -> None:
        """A part of a job is done."""
        self.forecast.within(job, share)
        if job.kind == "attack":
            self._start(job.part)
            done = self.tallies[job.part].samples + share * len(self.context.plan.chunks[job.chunk])
            self.told.within(self.context.plan.cells[job.part], done)
        elif not self._told_lately():
            self._tell_part(job, share)
        if not self._told_lately():
            self._tell_standing()

    def _told_lately(self) -> bool:
        """Passes of small models follow each other faster than anybody reads."""
        return time.monotonic() - self.told_at < _PAUSE

    def _tell_standing(self) -> None:
        self.told_at = time.monotonic()
        self.told.standing(self.forecast.standing())

    def finished(self, job: Job, found: Done | Failure) -> None:
        """A job is done, or failed."""
        self.forecast.finished(job)
        self._tell_standing()
        if isinstance(found, Failure) and job.kind == "fit":
            self.told.doubt(f"{job.label} is left out: its fit failed: {found.reason}")
        if job.kind == "attack":
            self._count(job, found)
        else:
            self._tell_part(job, 1.0)
        if job.kind != "diagnostics":
            self.told.job(name_of(job, self.context.plan), self._found(job, found))

    def waiting(self, jobs: int) -> None:
        """Other processes do all that is left of a kind."""
        self.told.part("jobs of other processes", 0 if jobs else 1, 0 if jobs else 1)

    def _count(self, job: Job, found: Done | Failure) -> None:
        """An attack's job among those of its cell."""
        self._start(job.part)
        tally, cell = self.tallies[job.part], self.context.plan.cells[job.part]
        if isinstance(found, Failure):
            tally.failed = True
            self.told.finish(cell, found.status)
            return
        tally.samples += found.samples
        tally.robust += found.robust
        if self.context.spec.time_limit is not None:
            tally.seconds += self.store.read(job).seconds
        self.told.advance(cell, tally.samples, tally.robust, tally.samples)
        if tally.samples == len(self.context.data):
            self.told.finish(cell, "done")

    def _found(self, job: Job, found: Done | Failure) -> str:
        """What a job adds to what is known, in words."""
        if isinstance(found, Failure):
            return f"{found.status.replace('_', ' ')}: {found.reason}"
        if job.kind != "attack":
            return "done"
        tally = self.tallies[job.part]
        return f"{100 * tally.robust / max(tally.samples, 1):.1f} % robust"

    def _tell_part(self, job: Job, share: float) -> None:
        """How far all jobs of a kind are, of one that is no attack."""
        if job.kind in ("attack", "diagnostics"):
            return
        self.done_of[job.kind] += share - self.shares.get(job, 0.0)
        self.shares[job] = share
        self.told.part(PARTS[job.kind], self.done_of[job.kind], self.forecast.count_of[job.kind])

    def _start(self, part: int) -> None:
        if not self.tallies[part].shown:
            self.tallies[part].shown = True
            cell = self.context.plan.cells[part]
            self.told.start(cell, len(self.context.data))

    def _look_at_clean(self) -> None:
        """Tells at once, before hours of attacks, where the clean accuracy is no likely one."""
        clean, _ = clean_columns(self.store, self.context.plan, self.record["model"])
        spec, labels, predictions = self.context.spec, clean["label"], clean["prediction"]
        if doubt := self.settings.doubted(spec, self.record, labels, predictions):
            self.told.doubt(f"{spec.model}: {doubt}")

    def _tell_what_is_there(self, jobs: Sequence[Job]) -> None:
        """Cells that are done or begun show up at once."""
        missing = set(self.store.missing(jobs))
        for job in jobs:
            if job not in missing:
                self._count(job, done_already(self.store, self.context.plan, job))


@dataclass
class _Tally:
    """How far a cell is."""

    samples: int = 0
    robust: int = 0
    seconds: float = 0.0
    failed: bool = False
    shown: bool = False


def prune(context: Context, store: Store, result: RunResult) -> None:
    """Leaves the images that prove something new.

    Jobs that ran before an earlier attack's keep more than that, so order would show.
    """
    for job in context.plan.attack_jobs():
        if not store.has(job):
            continue
        kept = store.read_images(job)
        chosen = np.isin(kept.rows, np.flatnonzero(to_be_kept(result, job.part)))
        if not chosen.all():
            store.write_images(job, Kept(kept.rows[chosen], kept.images[chosen]))
