"""Who does a run's jobs how fast: one process, worker processes, Ray workers.

    python -m benchmarks.workers [speed] [jobs] [--workers 4] [--rounds 3] [--jobs 2000 20000]
                                 [--model mpat_at_digits] [--out benchmarks/results/workers.csv]
    python -m benchmarks.workers evidence [--model pcl_digits] [--suite full] [--samples all]

``speed``: chunks of one long attack a second once all workers have begun, one-thread workers
against one one-thread process, in turns.  Holds where Ray's are at least 0.85 × min(workers, cores)
times as fast.  Beside it the seconds from the run's begin to its first finished job: the start of
the engine, with the imports and the model of each worker.

``jobs``: of so many jobs that do next to nothing, milliseconds of the whole run for each, once the
first is done.

``evidence``: the same run by 1, 2 and 4 processes, by two Ray workers, and with its jobs in
reverse.  Holds where their evidence is equal.

Speed and jobs are measured where nothing is named; with ``--out`` their figures replace those in
the file.  Exits 1 where something doesn't hold.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import stored
from robusteval import api
from robusteval.evidence.files import Local
from robusteval.evidence.record import write_record
from robusteval.evidence.results import load_result
from robusteval.evidence.store import Store
from robusteval.hardware import cores, hardware_name
from robusteval.plan.plan import Job
from robusteval.run.crew import RAY, crew_of, parse_workers
from robusteval.run.executors.base import Executor, Watch
from robusteval.run.executors.here import Here
from robusteval.run.prepare import prepare
from robusteval.run.progress import Silent
from robusteval.run.provenance import record_of
from robusteval.run.runner import Run, Settings
from robusteval.run.subject import Asked

SHARE = 0.85  # of what as many processes could do at best
QUIET = 0.5  # a load above it is told
FIRST, TIMES, MS = "first chunk after, s", "chunks a second, times one process", "ms a job"
_HEAD = """
name = "workers"
[detection]
detectors = []
[diagnostics]
samples = 0
"""
_LONG = """
[[attacks]]
name = "pgd"
title = "PGD"
library = "torchattacks"
attack = "PGD"
norms = ["Linf"]
parameters = { steps = 300, random_start = false }
"""
_SHORT = """
[[attacks]]
name = "noise{i}"
title = "Noise {i}"
library = "robusteval"
attack = "gaussian_noise"
norms = ["Linf"]
"""
Engine = int | str  # as ``--workers`` takes it
COMPARED: tuple[tuple[Engine, bool], ...] = (  # and whether jobs are done in reverse
    *((1, False), (2, False), (4, False), (f"{RAY}:2", False)),
    (1, True),
)


@dataclass(frozen=True)
class Result:
    """A figure of an engine, with so many jobs: the median of so many rounds.

    ``beside``: what else the machine did.
    """

    workers: str
    jobs: int
    figure: str
    value: float
    rounds: int
    hardware: str
    beside: str


@dataclass
class Clocked(Silent):
    """When each job of an attack was finished."""

    at: list[float] = field(default_factory=list)

    def job(self, name: str, found: str) -> None:
        if not name.startswith("clean"):
            self.at.append(time.perf_counter())


@dataclass(frozen=True)
class Seen:
    """When a run began and each of its attacks' jobs was finished, by so many workers."""

    begun: float
    at: list[float]
    workers: int

    @property
    def jobs(self) -> int:
        return len(self.at)

    @property
    def first(self) -> float:
        """Seconds until the first was finished."""
        return self.at[0] - self.begun

    @property
    def rate(self) -> float:
        """Jobs a second, once each worker has begun."""
        after = self.at[self.workers - 1 :]
        return (len(after) - 1) / (after[-1] - after[0])


class Reversed(Here):
    """Last job first."""

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        super().run(list(reversed(jobs)), watch)


def engines(count: int) -> list[Engine]:
    """One process, so many, so many Ray workers."""
    return [1, count, f"{RAY}:{count}"]


def run_with(
    workers: Engine, model: str, suite: str, options: api.Options, in_reverse: bool = False
) -> Seen:
    """A run below ``options.out`` by these workers."""
    crew, clock = crew_of(parse_workers(workers), None, None), Clocked()
    prepared = prepare(Asked(model), suite, options)
    folder = options.out / prepared.spec.name
    folder.mkdir(parents=True)
    record = record_of(prepared, options)
    write_record(Local(folder), record)
    store = Store(Local(folder), prepared.spec.digest)
    own: Executor | None = Reversed(prepared.context, store) if in_reverse else None
    begun = time.perf_counter()
    Run(prepared.context, store, record, Settings(crew, clock)).execute(own)
    return Seen(begun, clock.at, crew.count or 1)


def seen_with(workers: Engine, model: str, suite: str, batch_size: int) -> Seen:
    """The same, of one-thread workers, in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        out, text = Path(place), Path(place) / "suite.toml"
        text.write_text(_HEAD + suite, encoding="utf-8")
        options = api.Options(batch_size=batch_size, threads=1, out=out / "runs")
        return run_with(workers, model, str(text), options)


def speed(model: str, count: int, rounds: int) -> list[Result]:
    """How fast each engine is, and how soon it begins."""
    result = partial(Result, rounds=rounds, hardware=hardware_name(), beside=_beside())
    seen: dict[Engine, list[Seen]] = {engine: [] for engine in engines(count)}
    for _ in range(rounds):
        for engine, those in seen.items():
            those.append(seen_with(engine, model, _LONG, 10))
    alone, found = median(s.rate for s in seen[1]), []
    for engine, those in seen.items():
        first, rate = median(s.first for s in those), median(s.rate for s in those)
        print(f"{engine}: first chunk after {first:.1f} s, {rate:.2f} chunks a second", flush=True)
        for figure, value in ((FIRST, round(first, 1)), (TIMES, round(rate / alone, 2))):
            found.append(result(str(engine), those[0].jobs, figure, value))
    return found


def overhead(jobs: int, count: int) -> list[Result]:
    """What a job takes that does next to nothing."""
    result = partial(Result, rounds=1, hardware=hardware_name(), beside=_beside())
    cells, found = max(1, round(jobs / 360)), []
    suite = "".join(_SHORT.format(i=i) for i in range(cells))
    for engine in engines(count):
        seen = seen_with(engine, "ce_digits", suite, 1)
        milliseconds = 1000 * (seen.at[-1] - seen.at[0]) / (seen.jobs - 1)
        print(f"{engine}: {seen.jobs} jobs, {milliseconds:.2f} ms each", flush=True)
        found.append(result(str(engine), seen.jobs, MS, round(milliseconds, 2)))
    return found


_SINCE = time.monotonic()  # a load average remembers a minute: from then on this one's own is in it


def _beside() -> str:
    """What else is at work, as far as a load average tells."""
    load, own = os.getloadavg()[0], time.monotonic() - _SINCE > 1
    if load > QUIET and not own:
        print(f"the machine is at work (load {load:.1f}): times will be too long", file=sys.stderr)
    return f"load {load:.1f} at the begin" + (", this benchmark's own among it" if own else "")


def holds(results: Sequence[Result]) -> bool:
    """Whether Ray's workers are as fast as they should be."""
    told = []
    for result in results:
        kind, _, count = result.workers.partition(":")
        if kind == RAY and result.figure == TIMES:
            wanted = SHARE * min(int(count), cores())
            told.append(result.value >= wanted)
            print(f"Ray: {result.value:.2f} times one process, wanted {wanted:.2f}: {told[-1]}")
    return all(told)


def table(results: Sequence[Result]) -> Iterator[str]:
    """A row for each engine, and what it was measured on."""
    figures = list(dict.fromkeys((r.figure, r.jobs) for r in results))
    heads = [f"{f} of {jobs:,}" if f == MS else f for f, jobs in figures]
    yield f"| one-thread workers | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    value = {(r.workers, r.figure, r.jobs): r.value for r in results}
    for workers in dict.fromkeys(r.workers for r in results):
        cells = (value.get((workers, *figure)) for figure in figures)
        shown = ("–" if cell is None else str(cell) for cell in cells)
        yield f"| {_name(workers)} | {' | '.join(shown)} |"
    yield ""
    by_setting = stored.grouped(results, "rounds", "hardware", "beside")
    for (rounds, hardware, beside), those in by_setting.items():
        said = " and ".join(dict.fromkeys(_told(r) for r in those))
        number = "one round" if rounds == 1 else f"medians of {rounds} rounds"
        yield f"- {said}: {number}, {hardware}, {beside}."


def _name(workers: str) -> str:
    if workers.startswith(RAY):
        return f"`{workers}`"
    return "one process" if workers == "1" else f"{workers} processes"


def _told(result: Result) -> str:
    kind = "jobs that do next to nothing" if result.figure == MS else "chunks"
    return f"{result.jobs:,} {kind}"


def is_evidence_equal(model: str, suite: str, samples: int | None, batch_size: int) -> bool:
    """Whether the engines, and the jobs' order, change nothing."""
    digests = set()
    for engine, in_reverse in COMPARED:
        with tempfile.TemporaryDirectory() as place:
            out = Path(place)
            options = api.Options(samples=samples, batch_size=batch_size, threads=1, out=out)
            started = time.perf_counter()
            run_with(engine, model, suite, options, in_reverse)
            seconds = time.perf_counter() - started
            (folder,) = out.iterdir()
            evidence = load_result(Local(folder)).evidence_digest
            images = sum(p.stat().st_size for p in folder.glob("evidence/attack*.safetensors"))
        digests.add((evidence, images))
        name = f"{engine}, in reverse" if in_reverse else engine
        print(f"{name!s:14} {seconds:6.1f} s  evidence {evidence[:16]}", flush=True)
    print(f"equal evidence: {len(digests) == 1}")
    return len(digests) == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="speed, jobs or evidence; by default the first two")
    parser.add_argument("--model", help="by default mpat_at_digits; for evidence pcl_digits")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--suite", default="full")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--batch-size", type=int, default=90)
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    asked = parser.parse_args()
    what = asked.what or ["speed", "jobs"]
    if unknown := set(what) - {"speed", "jobs", "evidence"}:
        parser.error(f"{', '.join(sorted(unknown))}: choose from speed, jobs and evidence")
    results = []
    if "speed" in what:
        results += speed(asked.model or "mpat_at_digits", asked.workers, asked.rounds)
    for jobs in asked.jobs if "jobs" in what else ():
        results += overhead(jobs, asked.workers)
    if results and asked.out:
        stored.write(asked.out, results)
    held = holds(results)
    if "evidence" in what:
        model, samples = asked.model or "pcl_digits", asked.samples
        held &= is_evidence_equal(model, asked.suite, samples, asked.batch_size)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
