"""Jobs that wait for a worker, and the one rule for giving up: a job whose worker died is done
again by another, twice."""

from collections import deque
from collections.abc import Sequence

from robusteval.errors import AttackError
from robusteval.evidence.store import Failure, Store
from robusteval.plan.plan import Job, Plan
from robusteval.run.executors.base import Watch
from robusteval.run.executors.service import done_already

ATTEMPTS = 3


class Waiting:
    """Jobs in their order, for workers that may die over them; ``watch`` is told what ends so."""

    def __init__(self, jobs: Sequence[Job], watch: Watch, store: Store, plan: Plan) -> None:
        self.jobs, self.watch, self.store, self.plan = deque(jobs), watch, store, plan
        self.deaths: dict[Job, int] = {}

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def next(self) -> Job | None:
        """The next one that still makes sense, if there is one."""
        while self.jobs:
            if self.watch.wanted(job := self.jobs.popleft()):
                return job
        return None

    def returned(self, job: Job) -> bool:
        """A job whose worker died: it was done all the same, or waits again; False where it is to
        be given up."""
        if self.store.has(job):
            self.watch.finished(job, done_already(self.store, self.plan, job))
            return True
        self.deaths[job] = self.deaths.get(job, 0) + 1
        if self.deaths[job] >= ATTEMPTS:
            return False
        self.jobs.appendleft(job)
        return True

    def give_up(self, job: Job, how: str, where: str) -> None:
        """See ``give_up``."""
        self.watch.finished(job, give_up(self.store, job, how, where))


def give_up(store: Store, job: Job, how: str, where: str) -> Failure:
    """The failure of a job that nobody survived; ``how`` they died, and ``where`` more is said.

    Raises AttackError for a job without which there is no run.
    """
    failure = Failure("error", f"its worker died {how}, {ATTEMPTS} times")
    if job.kind in ("clean", "outliers"):
        raise AttackError(f"{job.stem}: {failure.reason}: see {where}")
    store.fail(job, failure)
    return failure
