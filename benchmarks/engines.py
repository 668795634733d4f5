"""Who does a run's jobs how fast: one process, worker processes, Ray workers.

    python -m benchmarks.engines [--model mpat_at_digits] [--workers 4] [--rounds 3]
    python -m benchmarks.engines --jobs 2000 20000

Speed: chunks of one long attack a second once all workers have begun, one-thread workers against
one one-thread process, in pairs; holds where Ray's are at least 0.85 × min(workers, cores) times as
fast.  Beside it the seconds from the run's begin to its first finished job, less that job's own:
the start of the engine, with the imports and the model of each worker.

``--jobs``: of so many jobs that do next to nothing, seconds a job beyond one process's.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from robusteval import api
from robusteval.evidence.files import Local
from robusteval.evidence.record import write_record
from robusteval.evidence.store import Store
from robusteval.hardware import cores
from robusteval.run.crew import crew_of, parse_workers
from robusteval.run.prepare import prepare
from robusteval.run.progress import Silent
from robusteval.run.provenance import record_of
from robusteval.run.runner import Run, Settings
from robusteval.run.subject import Asked

SHARE = 0.85  # of what as many processes could do at best
_HEAD = """
name = "engines"
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


@dataclass
class Clocked(Silent):
    """When each job of an attack was finished."""

    at: list[float] = field(default_factory=list)

    def job(self, name: str, found: str) -> None:
        if not name.startswith("clean"):
            self.at.append(time.perf_counter())


@dataclass(frozen=True)
class Seen:
    """Seconds until the first attack job was finished, jobs a second after all had begun."""

    first: float
    rate: float
    seconds: float
    jobs: int


def seen_with(workers: int | str, model: str, suite: Path, options: api.Options) -> Seen:
    """A run by these workers."""
    crew, clock = crew_of(parse_workers(workers), None, None), Clocked()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Asked(model), str(suite), options)
        record = record_of(prepared, options)
        write_record(Local(Path(folder)), record)
        store = Store(Local(Path(folder)), prepared.spec.digest)
        begun = time.perf_counter()
        Run(prepared.context, store, record, Settings(crew, clock)).execute()
    settled = crew.count or 1  # each worker has begun by then
    after = clock.at[settled - 1 :]
    rate = (len(after) - 1) / (after[-1] - after[0])
    return Seen(clock.at[0] - begun, rate, clock.at[-1] - begun, len(clock.at))


def compare(model: str, count: int, rounds: int, folder: Path) -> bool:
    """Prints a row for each engine; whether Ray's workers are as fast as they should be."""
    suite = folder / "long.toml"
    suite.write_text(_HEAD + _LONG)
    options = api.Options(batch_size=10, threads=1)
    engines: list[int | str] = [1, count, f"ray:{count}"]
    seen: dict[int | str, list[Seen]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            seen[engine].append(seen_with(engine, model, suite, options))
    alone = median(s.rate for s in seen[1])
    print(f"{cores()} cores, {seen[1][0].jobs} chunks of 10 images, {rounds} rounds, medians")
    print("| workers | first chunk after, s | chunks a second | times one process |")
    print("|---|---:|---:|---:|")
    for engine in engines:
        first, rate = (median(getattr(s, name) for s in seen[engine]) for name in ("first", "rate"))
        print(f"| {engine} | {first:.1f} | {rate:.2f} | {rate / alone:.2f} |")
    ratio = median(s.rate for s in seen[f"ray:{count}"]) / alone
    wanted = SHARE * min(count, cores())
    print(f"Ray: {ratio:.2f} times one process, wanted {wanted:.2f}: {ratio >= wanted}")
    return ratio >= wanted


def overhead(jobs: int, count: int, folder: Path) -> None:
    """Prints seconds a job, of jobs that do next to nothing."""
    cells = max(1, round(jobs / 360))
    suite = folder / f"short{jobs}.toml"
    suite.write_text(_HEAD + "".join(_SHORT.format(i=i) for i in range(cells)))
    options = api.Options(batch_size=1, threads=1)
    print("| workers | jobs | seconds | ms a job |")
    print("|---|---:|---:|---:|")
    for engine in (1, count, f"ray:{count}"):
        seen = seen_with(engine, "ce_digits", suite, options)
        busy = seen.seconds - seen.first
        print(f"| {engine} | {seen.jobs} | {busy:.1f} | {1000 * busy / seen.jobs:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mpat_at_digits")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="*", default=())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for jobs in arguments.jobs:
            overhead(jobs, arguments.workers, folder)
        if arguments.jobs:
            return 0
        return 0 if compare(arguments.model, arguments.workers, arguments.rounds, folder) else 1


if __name__ == "__main__":
    sys.exit(main())
