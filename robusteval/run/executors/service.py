"""One process's own copy of a run's model and data, with which it does job after job."""

from contextlib import ExitStack
from typing import Self

from robusteval.data.datasets import Dataset
from robusteval.evidence.files import Files
from robusteval.evidence.judge import success
from robusteval.evidence.record import open_store
from robusteval.evidence.store import Failure, Store
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Access, Context, open_context
from robusteval.plan.plan import Job, Plan
from robusteval.run.executors.messages import Message
from robusteval.run.jobs import Done, Within, perform
from robusteval.run.precision import precision


class Service:
    """Opens a run once; then a job is an order of three words, done in the run's precision.

    Used as a context manager: it sets the process's threads and puts them back.  ``model`` and
    ``data``: where Python gave them, so that no ``access`` leads to them.
    """

    def __init__(
        self,
        files: Files,
        access: Access,
        model: Adapter | None = None,
        data: Dataset | None = None,
    ) -> None:
        self.store, self.spec, self.record = open_store(files)
        self.access, self.model, self.data = access, model, data
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(precision(self.spec))
        self.context: Context = open_context(self.spec, self.access, self.model, self.data)
        jobs = [*self.context.plan.jobs(), *self.context.plan.probe_jobs()]
        self._jobs = {(job.kind, job.part, job.chunk): job for job in jobs}
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def job(self, message: Message) -> Job:
        """The plan's own job of that kind and place."""
        return self._jobs[message["kind"], message["part"], message["chunk"]]

    def do(self, job: Job, budget: float | None, within: Within) -> Done | Failure:
        """A job's evidence: what is there already, from whomever, or made now.

        Raises RobustevalError where the model or the data can't be used at all.
        """
        if self.store.has(job):
            return done_already(self.store, self.context.plan, job)
        return perform(self.context, self.store, job, budget, within)


def done_already(store: Store, plan: Plan, job: Job) -> Done:
    """What progress is told of a job that has its evidence."""
    if job.kind != "attack":
        return Done(0, 0)
    broken = success(store.read(job).columns, plan.cells[job.part].threats[0])
    return Done(len(plan.chunks[job.chunk]), len(broken) - int(broken.sum()))
