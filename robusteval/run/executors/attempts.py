"""One rule for giving up: a job whose worker died is done again by another, twice."""

from robusteval.errors import AttackError
from robusteval.evidence.store import Failure, Store
from robusteval.plan.plan import Job

ATTEMPTS = 3


class Attempts:
    """Counts who died over which job."""

    def __init__(self) -> None:
        self.deaths: dict[Job, int] = {}

    def again(self, job: Job) -> bool:
        """Whether it is tried again after one more death."""
        self.deaths[job] = self.deaths.get(job, 0) + 1
        return self.deaths[job] < ATTEMPTS


def give_up(store: Store, job: Job, how: str, where: str) -> Failure:
    """The failure of a job that nobody survived; ``how`` they died, and ``where`` more is said.

    Raises AttackError for a job without which there is no run.
    """
    failure = Failure("error", f"its worker died {how}, {ATTEMPTS} times")
    if job.kind in ("clean", "outliers"):
        raise AttackError(f"{job.stem}: {failure.reason}: see {where}")
    store.fail(job, failure)
    return failure
