"""Carries a plan out: what is missing is done, what is there is kept; the proof comes last."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robusteval.ambient import plain_state
from robusteval.errors import EvidenceError
from robusteval.evidence.judge import success
from robusteval.evidence.kept import counted_images, float32_tally, image_balance
from robusteval.evidence.pictures import write_examples
from robusteval.evidence.results import RunResult, clean_columns, gather, to_be_kept
from robusteval.evidence.store import Failure, Kept, Store
from robusteval.hardware import most_threads
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.plan.spec import RunSpec
from robusteval.run.executors.base import Executor
from robusteval.run.executors.here import Here
from robusteval.run.executors.processes import Processes
from robusteval.run.jobs import Done
from robusteval.run.progress import Progress, Silent

# Of a run's spec, its record, labels (N,) and clean predictions (N,): what makes all that follows
# doubtful, or nothing.
Doubt = Callable[[RunSpec, dict[str, Any], NDArray[np.int64], NDArray[np.int64]], str]


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; none of it bears on the outcome.

    ``doubted``: asked once, when clean predictions are there, before the first attack.
    """

    workers: int = 1
    progress: Progress = field(default_factory=Silent)
    doubted: Doubt = lambda *_: ""


@contextmanager
def precision(spec: RunSpec) -> Iterator[None]:
    """Within it: the spec's threads, and a plain state of the process, with float32 without TF32,
    which is the verdict's.

    No more threads than this machine bears: the spec may come from a larger one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(spec.threads, most_threads())))
    try:
        with plain_state():
            yield
    finally:
        torch.set_num_threads(before)


class Run:
    """One run's state while it goes on."""

    def __init__(
        self, context: Context, store: Store, record: dict[str, Any], settings: Settings
    ) -> None:
        self.context, self.store, self.record, self.settings = context, store, record, settings
        self.tallies = [_Tally() for _ in context.plan.cells]

    def execute(self, executor: Executor | None = None) -> RunResult:
        """Does every job without evidence.  A failed attack spoils its own cell, no other."""
        plan, store = self.context.plan, self.store
        with store.lock(), precision(self.context.spec):
            store.forget_failures(self._settled())
            executor = executor or self._executor()
            try:
                for stage in (
                    plan.fit_jobs(),
                    plan.clean_jobs(),
                    plan.attack_jobs(),
                    plan.other_jobs(),
                ):
                    missing = [job for job in stage if not store.has(job)]
                    if stage and stage[0].kind == "attack":
                        self._tell_what_is_there(stage)
                    executor.run(missing, self)
                    if stage and stage[0].kind == "clean":
                        self._look_at_clean()
            finally:
                executor.close()
            return self._conclude()

    def _settled(self) -> list[Job]:
        """Fits whose failure stands: where there are scores already, theirs are left out of all."""
        plan = self.context.plan
        return plan.fit_jobs() if any(map(self.store.has, plan.clean_jobs())) else []

    def _executor(self) -> Executor:
        if self.settings.workers > 1:
            return Processes(self.context, self.store, self.settings.workers)
        return Here(self.context, self.store)

    def _conclude(self) -> RunResult:
        """Drops images that prove nothing new, predicts the rest again, picks pictures."""
        self.store.forget_conclusions()
        result = self._gather()
        prune(self.context, self.store, result)
        balance = image_balance(self.context.plan, self.store, result)
        if lacking := [stem for stem, (gone, _) in balance.items() if gone]:
            raise EvidenceError(
                f"{lacking[0]}.safetensors lacks images: delete {lacking[0]}.parquet and run the "
                "same command again: all other evidence is kept"
            )
        batches = counted_images(self.context, self.store)
        tally = float32_tally(self.context, batches, result.tie)
        self.store.write_verification(tally.to_json())
        write_examples(self.context, self.store, result)
        result = self._gather()
        if result.complete:  # else it may say why
            (self.store.folder / "workers.log").unlink(missing_ok=True)
        return result

    def _gather(self) -> RunResult:
        return gather(self.store, self.context.spec, self.context.plan, self.record)

    # What executors ask and tell

    def wanted(self, job: Job) -> bool:
        """Not if another chunk of its cell has failed: the cell has no number any more; nor a fit
        whose failure stands."""
        if job.kind == "fit":
            return self.store.failure(job) is None
        return job.kind != "attack" or not self.tallies[job.part].failed

    def budget(self, job: Job) -> float | None:
        """What is left of its attack's time limit."""
        limit = self.context.spec.time_limit
        if job.kind != "attack" or limit is None:
            return None
        return limit - self.tallies[job.part].seconds

    def within(self, job: Job, share: float) -> None:
        """A part of a chunk is done."""
        if job.kind == "attack":
            self._start(job.part)
            done = self.tallies[job.part].samples + share * len(self.context.plan.chunks[job.chunk])
            self.settings.progress.within(self.context.plan.cells[job.part], done)

    def finished(self, job: Job, found: Done | Failure) -> None:
        """A job is done, or failed."""
        if job.kind == "fit" and isinstance(found, Failure):
            self.settings.progress.doubt(f"{job.label} is left out: its fit failed: {found.reason}")
        if job.kind != "attack":
            return
        self._start(job.part)
        tally, cell = self.tallies[job.part], self.context.plan.cells[job.part]
        if isinstance(found, Failure):
            tally.failed = True
            self.settings.progress.finish(cell, found.status)
            return
        tally.samples += found.samples
        tally.robust += found.robust
        if self.context.spec.time_limit is not None:
            tally.seconds += self.store.read(job).seconds
        self.settings.progress.advance(cell, tally.samples, tally.robust, tally.samples)
        if tally.samples == len(self.context.data):
            self.settings.progress.finish(cell, "done")

    def _start(self, part: int) -> None:
        if not self.tallies[part].shown:
            self.tallies[part].shown = True
            cell = self.context.plan.cells[part]
            self.settings.progress.start(cell, len(self.context.data))

    def _look_at_clean(self) -> None:
        """Tells at once, before hours of attacks, where the clean accuracy is no likely one."""
        clean, _ = clean_columns(self.store, self.context.plan, self.record["model"])
        spec, labels, predictions = self.context.spec, clean["label"], clean["prediction"]
        if doubt := self.settings.doubted(spec, self.record, labels, predictions):
            self.settings.progress.doubt(f"{spec.model}: {doubt}")

    def _tell_what_is_there(self, jobs: Sequence[Job]) -> None:
        """Cells that are done or begun show up at once."""
        for job in jobs:
            if self.store.has(job):
                columns = self.store.read(job).columns
                broken = success(columns, self.context.plan.cells[job.part].threats[0])
                size = len(self.context.plan.chunks[job.chunk])
                self.finished(job, Done(size, len(broken) - int(broken.sum())))


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
