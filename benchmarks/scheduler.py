"""What handing out a million jobs costs the process that does it, whoever does the jobs.

    python -m benchmarks.scheduler [--jobs 1000000] [--workers 1000] [--mean 60] [--deaths 0.001]

The run's own loop and Ray's executor, with a cluster that is only imagined: workers whose jobs take
exponential times around a mean by a clock that jumps, and die at some.  Prints the seconds of
processor time that all of it took, for each job too, the memory that it had at most, and how busy
the imagined workers would have been, had the loop itself taken no time.
"""

import argparse
import heapq
import random
import resource
import sys
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from robusteval.evidence.store import Failure
from robusteval.models.adapter import Parts
from robusteval.plan.plan import Job, make_plan
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import read_suite
from robusteval.run.crew import Crew
from robusteval.run.executors.ray_cluster import RayWorkers
from robusteval.run.runner import Run, Settings


class Lost(Exception):  # noqa: N818 - what Ray raises for a worker that is gone
    """A worker died."""


class Cluster:
    """Ray, as far as the executor asks it: answers come at times drawn at random."""

    exceptions = SimpleNamespace(RayError=Lost)
    cloudpickle = SimpleNamespace(dumps=lambda given: b"")

    def __init__(self, mean: float, deaths: float, done: Callable[[Job], None]) -> None:
        self.ray = self  # joined already
        self.rng, self.mean, self.deaths, self.done = random.Random(0), mean, deaths, done
        self.now = self.busy = 0.0
        self.answers: list[tuple[float, int]] = []  # when, and which
        self.orders: dict[int, dict[str, Any]] = {}
        self.count = 0

    def put(self, given: bytes) -> bytes:
        return given

    def remote(self, *given: Any, **settings: Any) -> Any:
        """A class becomes one of actors; all are this one object."""
        return lambda kind: SimpleNamespace(remote=lambda *order: SimpleNamespace(do=_Do(self)))

    def begin(self, order: dict[str, Any]) -> int:
        """An answer that will come."""
        seconds, self.count = self.rng.expovariate(1 / self.mean), self.count + 1
        self.busy += seconds
        heapq.heappush(self.answers, (self.now + seconds, self.count))
        self.orders[self.count] = order
        return self.count

    def wait(self, awaited: list[int], num_returns: int = 1, timeout: float = 0) -> Any:
        """The next answer, to which the clock jumps."""
        if not timeout:
            return [], awaited
        self.now, first = heapq.heappop(self.answers)
        return [first], [answer for answer in awaited if answer != first]

    def get(self, answer: int) -> dict[str, Any]:
        order = self.orders.pop(answer)
        if self.rng.random() < self.deaths:
            raise Lost
        self.done(Job(order["kind"], order["part"], order["chunk"]))
        return {"samples": 1, "robust": 0}

    def kill(self, actor: Any) -> None:
        """It is dead."""

    def leave(self) -> None:
        """There is nothing to leave."""


class _Do:
    """An actor's method."""

    def __init__(self, cluster: Cluster) -> None:
        self.remote = cluster.begin


class Imagined:
    """A store: which jobs have evidence, and which have failed."""

    files = SimpleNamespace(from_anywhere=lambda: None)

    def __init__(self) -> None:
        self.there: set[Job] = set()
        self.failed: dict[Job, Failure] = {}

    def has(self, job: Job) -> bool:
        return job in self.there

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        return [job for job in jobs if job not in self.there]

    def failure(self, job: Job) -> Failure | None:
        return self.failed.get(job)

    def fail(self, job: Job, failure: Failure) -> None:
        self.failed[job] = failure


class Scheduled(Run):
    """A run without models and data: its loop alone."""

    def _look_at_clean(self) -> None:
        """There are no predictions to look at."""


def context_of(jobs: int) -> Any:
    """A run of ``quick`` with about so many jobs, of one sample each."""
    suite = read_suite("quick")
    cells = sum(len(attack.norms) for attack in suite.attacks)
    samples = max(1, jobs // (cells + 1))
    spec = RunSpec(
        model="imagined",
        model_digest="",
        dataset="digits",
        data_digest="",
        suite=suite,
        threats=[("Linf", "0.1"), ("L2", "1")],
        samples=samples,
        seed=0,
        batch_size=1,
        threads=1,
    )
    plan = make_plan(suite, spec, Parts(layers=1, features=True))
    model = SimpleNamespace(classes=10)
    access = SimpleNamespace(entry="imagined", data="", data_dir=None, allow_code=False)
    return SimpleNamespace(plan=plan, spec=spec, data=range(samples), model=model, access=access)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--mean", type=float, default=60.0)
    parser.add_argument("--deaths", type=float, default=0.001)
    asked = parser.parse_args()
    before, begun = _memory(), time.process_time()
    context, store = context_of(asked.jobs), Imagined()
    made = time.process_time() - begun
    cluster = Cluster(asked.mean, asked.deaths, store.there.add)
    crew = Crew(asked.workers, is_ray=True)
    workers: Any = RayWorkers(context, store, crew, cluster)  # type: ignore[arg-type]
    Scheduled(context, store, {}, Settings(crew)).take_part(workers)  # type: ignore[arg-type]
    seconds, done = time.process_time() - begun, len(store.there)
    print(f"{done:,} jobs done, {len(store.failed)} failed, by {asked.workers:,} workers")
    print(f"plan {made:.1f} s, all {seconds:.1f} s: {1e6 * seconds / done:.0f} µs a job")
    memory, hours = _memory() - before, cluster.now / 3600
    print(f"memory {memory / 2**20:.0f} MiB: {memory / done:.0f} bytes a job")
    print(f"workers busy {cluster.busy / asked.workers / cluster.now:.1%} of {hours:.1f} h")
    return 0


def _memory() -> int:
    """At most so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
