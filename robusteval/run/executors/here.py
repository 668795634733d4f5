"""One job after the other, in this process."""

from collections.abc import Sequence

from robusteval.evidence.store import Store
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.run.executors.base import Watch
from robusteval.run.jobs import perform


class Here:
    """One job after the other, in this process."""

    def __init__(self, context: Context, store: Store) -> None:
        self.context, self.store = context, store

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Does the jobs in their order."""
        for job in jobs:
            if watch.wanted(job):
                watch.started(job)
                found = perform(
                    self.context,
                    self.store,
                    job,
                    watch.budget(job),
                    lambda share, job=job: watch.within(job, share),  # type: ignore[misc]
                )
                watch.finished(job, found)

    def close(self) -> None:
        """Nothing is left open."""
