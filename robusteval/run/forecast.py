"""How long a run still takes: about, from the passes of its jobs and the speeds seen so far."""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from typing import Any

from robusteval.plan.plan import Job, Plan
from robusteval.run.costs import Costs, Passes
from robusteval.run.progress import Standing

_BACKWARD = 2.0  # a backward pass takes about as long as so many forward passes
_TOLD = 0.05  # the share of a job from which its pace says something
_ENOUGH = 0.02  # the share of all attacks' work from which theirs says something of others
_ENDING = 2.0  # seconds: the report
_NAMED = 4  # jobs at work that are told by name
_FEW, _MOMENT = 32, 0.3  # workers, seconds


@dataclass
class _Seen:
    """Seconds spent on so much work."""

    seconds: float = 0.0
    work: float = 0.0


@dataclass
class _Due:
    """What is still to be done of a group of jobs."""

    work: float = 0.0
    jobs: int = 0

    def add(self, work: float, jobs: int) -> None:
        self.work += work
        self.jobs += jobs


class Forecast:
    """Learns from finished jobs how long the others take.

    An attack's own finished chunks tell best, since broken samples stop early; then other attacks;
    clean predictions don't, since a worker's start is among their seconds, nor do attacks of a few
    passes.  There is no forecast until a share of all attacks' work was seen.
    """

    def __init__(
        self,
        costs: Costs,
        there: Collection[Job],
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs = costs.jobs()
        self.work = {job: _work(costs.of(job).values()) for job in self.jobs}
        self.end = _work([costs.conclusion])
        self.count_of = Counter(job.kind for job in self.jobs)
        self.done: set[Job] = set()
        self.due: dict[Any, _Due] = {}
        for job in self.jobs:
            self.due.setdefault(_group(job), _Due()).add(self.work[job], 1)
        self.plan, self.workers, self.clock = costs.plan, workers, clock
        self.budget = costs.spec.budget.seconds if costs.spec.budget else None
        self.begun = clock()
        self.known: tuple[float, float | None] = (-math.inf, None)  # when it was, and what
        self.running: dict[Job, tuple[float, float]] = {}  # when it began, its share done
        self.seen: dict[Any, _Seen] = {}
        for job in there:
            self._settle(job)
        self.attacks = sum(due.work for group, due in self.due.items() if group[0] == "attack")

    def started(self, job: Job) -> None:
        """A job is at work."""
        self.running[job] = (self.clock(), 0.0)

    def within(self, job: Job, share: float) -> None:
        """A share of it is done."""
        if job in self.running:
            self.running[job] = (self.running[job][0], share)

    def finished(self, job: Job) -> None:
        """It is done, or failed."""
        self._settle(job)
        if job in self.running and job in self.work:
            seen = self.seen.setdefault(_group(job), _Seen())
            seen.seconds += self.clock() - self.running[job][0]
            seen.work += self.work[job]
        self.running.pop(job, None)

    def _settle(self, job: Job) -> None:
        """It is due no more."""
        if job in self.work and job not in self.done:
            self.done.add(job)
            self.due[_group(job)].add(-self.work[job], -1)

    def standing(self) -> Standing:
        """How far the run is now."""
        running = tuple(name_of(job, self.plan) for job in islice(self.running, _NAMED))
        if (more := len(self.running) - _NAMED) > 0:
            running += (f"{more:,} more",)
        so_far = self.clock() - self.begun
        done = len(self.jobs) - sum(due.jobs for due in self.due.values())
        return Standing(done, len(self.jobs), so_far, self._lately(), running, self.budget)

    def _lately(self) -> float | None:
        """What is left; with many workers that of a moment ago, since each of them is asked."""
        now = self.clock()
        if len(self.running) <= _FEW or now - self.known[0] >= _MOMENT:
            self.known = (now, self._left())
        return self.known[1]

    def _left(self) -> float | None:
        """By groups: there may be a million jobs, and this is asked after each."""
        seen = self._seen_now()
        due = {group: due.work for group, due in self.due.items() if due.jobs}
        attacks = [s for group, s in seen.items() if group[0] == "attack"]
        unknown = any(group[0] == "attack" and group not in seen for group in due)
        if unknown and sum(s.work for s in attacks) < _ENOUGH * self.attacks:
            return None
        usual = _pace(attacks or list(seen.values()))
        paces = {group: (group in seen and _pace([seen[group]])) or usual for group in due}
        if any(pace is None for pace in paces.values()):
            return None
        total = sum(work * (paces[group] or 0.0) for group, work in due.items())
        for job, (began, _) in self.running.items():
            if job in self.work and job not in self.done:
                still = self.work[job] * (paces[_group(job)] or 0.0)
                total -= min(still, self.clock() - began)
        return total / self.workers + self.end * (usual or 0.0) + _ENDING

    def _seen_now(self) -> dict[Any, _Seen]:
        """What was seen, running jobs among it."""
        seen = {group: _Seen(s.seconds, s.work) for group, s in self.seen.items()}
        for job, (began, share) in self.running.items():
            if share >= _TOLD and job in self.work:
                of_group = seen.setdefault(_group(job), _Seen())
                of_group.seconds += self.clock() - began
                of_group.work += share * self.work[job]
        return seen


def _group(job: Job) -> tuple[str, int]:
    return (job.kind, job.part if job.kind == "attack" else 0)


def _work(passes: Collection[Passes]) -> float:
    """In forward passes of one image; a little even where there are none."""
    return 1.0 + sum(p.forward + _BACKWARD * p.backward for p in passes)


def _pace(seen: list[_Seen]) -> float | None:
    """Seconds for a unit of work."""
    work = sum(s.work for s in seen)
    return sum(s.seconds for s in seen) / work if work else None


PARTS = {
    "fit": "fits of detectors",
    "clean": "clean predictions",
    "outliers": "outliers",
    "pursuit": "attacks on detectors",
    "probe": "diagnostics",
    "diagnostics": "diagnostics",
}


def name_of(job: Job, plan: Plan) -> str:
    """A job's, for people."""
    of_several = f", chunk {job.chunk + 1} of {len(plan.chunks)}" if len(plan.chunks) > 1 else ""
    if job.kind == "attack":
        cell = plan.cells[job.part]
        return f"{cell.spec.title}, {', '.join(t.title for t in cell.threats)}{of_several}"
    if job.kind == "clean":
        return f"{PARTS[job.kind]}{of_several}"
    if job.kind == "fit":
        return f"fit of {job.label}"
    return f"{PARTS[job.kind]}: {job.label}" if job.label else PARTS[job.kind]
