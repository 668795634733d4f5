"""What handing out a million jobs costs the process that does it, whoever does the jobs.

    python -m benchmarks.scheduler [--jobs 1000000] [--workers 1000] [--mean 60] [--deaths 0.001]

The run's own loop and Ray's executor, with a cluster that is only imagined: workers whose jobs take
exponential times around a mean by a clock that jumps, and die at some.  Prints the seconds of
processor time that all of it took, for each job too, the memory that it had at most, and how busy
the imagined workers would have been, had the loop itself taken no time.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from robusteval.plan.plan import Job


class Imagined:
    """Ray, as far as the executor asks it: answers come at times drawn at random."""

    class Died(Exception):
        pass

    def __init__(
        self, workers: int, mean: float, deaths: float, done: Callable[[Job], None]
    ) -> None:
        self.exceptions = SimpleNamespace(RayError=self.Died)
        self.rng, self.mean, self.deaths, self.done = random.Random(0), mean, deaths, done
        self.workers, self.now, self.busy = workers, 0.0, 0.0
        self.counter = itertools.count()
        self.answers: list[tuple[float, int]] = []  # when, and which
        self.of: dict[int, dict[str, Any]] = {}

    def new(self) -> "Imagined":
        """An actor; they are all alike."""
        return self

    @property
    def do(self) -> "Imagined":
        return self

    def remote(self, message: dict[str, Any]) -> int:
        """An answer that will come."""
        seconds, answer = self.rng.expovariate(1 / self.mean), next(self.counter)
        self.busy += seconds
        heapq.heappush(self.answers, (self.now + seconds, answer))
        self.of[answer] = message
        return answer

    def wait(self, answers: list[int], num_returns: int = 1, timeout: float = 0) -> tuple[Any, Any]:
        """The next answer, and the clock jumps to it; with no time to wait, those of that moment."""
        if not timeout:
            return [], answers
        self.now, first = heapq.heappop(self.answers)
        return [first], [answer for answer in answers if answer != first]

    def get(self, answer: int) -> dict[str, Any]:
        message = self.of.pop(answer)
        if self.rng.random() < self.deaths:
            raise self.Died
        self.done(Job(message["kind"], message["part"], message["chunk"]))
        return {"samples": 1, "robust": 0}

    def kill(self, actor: object) -> None: ...

    def leave(self) -> None: ...
