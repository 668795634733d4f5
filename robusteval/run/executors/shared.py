"""One job after the other in this process, of those that no other process does."""

import time
from collections.abc import Callable, Sequence

from robusteval.evidence.claims import Claims
from robusteval.evidence.store import EVIDENCE, Failure, Store, failure_name, rows_name
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.run.executors.attempts import ATTEMPTS, give_up
from robusteval.run.executors.base import Watch
from robusteval.run.executors.here import Here
from robusteval.run.executors.service import done_already
from robusteval.run.jobs import Done
from robusteval.run.shard import Shard

PAUSE = 1.0  # seconds between two looks at what others have done


class Shared(Here):
    """Takes each job by a claim, and tells of those that others did.

    A shard begins at its own jobs, then helps with the others'.  Where others have all that is
    left, it waits for what becomes of it.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        claims: Claims,
        shard: Shard | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(context, store)
        self.claims, self.shard, self.sleep = claims, shard, sleep
        self.looked: float | None = None  # when evidence and claims were looked at
        self.told: set[Job] = set()  # of which jobs of others it told
        plan = context.plan
        self.places = {job: n for n, job in enumerate([*plan.jobs(), *plan.probe_jobs()])}

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Does those jobs that no other process does, until there is none left."""
        left, waited = self._in_order(jobs), False
        self.looked = None
        while left := self._without_settled(left, watch):
            if not self._do_one(left, watch):
                waited = True
                watch.waiting(len(left))
                self.sleep(PAUSE)
        if waited:
            watch.waiting(0)

    def _in_order(self, jobs: Sequence[Job]) -> dict[Job, None]:
        """Others' jobs from their end, where they come to last."""
        if self.shard is None:
            return dict.fromkeys(jobs)
        own = [job for job in jobs if self.shard.owns(self.places[job])]
        return dict.fromkeys([*own, *reversed(jobs)])

    def _without_settled(self, left: dict[Job, None], watch: Watch) -> dict[Job, None]:
        """Those without what others have done, or what makes no sense any more, by a look at all
        evidence and claims once in a while."""
        now = self.claims.clock()
        if self.looked is not None and now - self.looked < PAUSE:
            return left
        self.looked = now
        self.claims.look()
        there = {f"{EVIDENCE}/{name}" for name in self.store.names()}
        for job in left:
            names = {rows_name(job), failure_name(job)}
            if job.kind == "probe" or names & there:
                self._tell_if_settled(job, watch)
        return {job: None for job in left if job not in self.told and watch.wanted(job)}

    def _tell_if_settled(self, job: Job, watch: Watch) -> bool:
        if found := self._settled(job):
            self.told.add(job)
            watch.finished(job, found)
        return found is not None

    def _do_one(self, left: dict[Job, None], watch: Watch) -> bool:
        """Does the first job that nobody has.  False where others have all."""
        for job in left:
            if number := self.claims.take(job.stem):
                del left[job]
                try:
                    self._do(job, number, watch)
                finally:
                    self.claims.release(job.stem)
                return True
        return False

    def _do(self, job: Job, number: int, watch: Watch) -> None:
        if self._tell_if_settled(job, watch):  # since the last look
            return
        if number > ATTEMPTS:
            how, where = "or was stopped", "what they said"
            watch.finished(job, give_up(self.store, job, how, where))
        else:
            super().run([job], watch)

    def _settled(self, job: Job) -> Done | Failure | None:
        """What has become of a job, if it is done or has failed."""
        if self.store.has(job):
            return done_already(self.store, self.context.plan, job)
        if job.kind == "probe" and all(map(self.store.has, self.context.plan.diagnostics_jobs())):
            return Done(0, 0)
        return self.store.failure(job)

    def close(self) -> None:
        """Leaves the jobs to others."""
        self.claims.leave()
