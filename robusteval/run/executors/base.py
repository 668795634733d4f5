"""What whoever does jobs is asked, and whom it tells."""

from collections.abc import Sequence
from typing import Protocol

from robusteval.evidence.store import Failure
from robusteval.plan.plan import Job
from robusteval.run.jobs import Done


class Watch(Protocol):
    """Asked before a job, told during and after it."""

    def wanted(self, job: Job) -> bool:
        """Whether the job still makes sense."""

    def budget(self, job: Job) -> float | None:
        """How many seconds it may take."""

    def started(self, job: Job) -> None:
        """Told that somebody does it now."""

    def within(self, job: Job, share: float) -> None:
        """Told how much of it is done."""

    def finished(self, job: Job, found: Done | Failure) -> None:
        """Told what became of it."""

    def waiting(self, jobs: int) -> None:
        """Told that all that is left, so many jobs, is at work elsewhere; 0 when that is over."""


class Executor(Protocol):
    """Does jobs, in any order; ``count`` of them at a time."""

    count: int

    def run(self, jobs: Sequence[Job], watch: Watch) -> None: ...

    def close(self) -> None: ...
