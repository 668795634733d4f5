"""What threads should do while they wait: alone, and beside another process with two threads.

    python -m benchmarks.threads [--rounds 1] [--threads 2] [--only PASSIVE]

Three workloads run by each setting of OpenMP's runtime, alone and beside a process that computes
all the time: ``adaptive`` on a CIFAR-10 model, AutoAttack on `pcl_digits`, and on that most attacks
of ``full`` with its diagnostics and detection.  Prints seconds (the least of all rounds) and, in
brackets, the processor's.  Settings take turns in each round, which takes some eight minutes on
two cores.  Exits 1 where settings with the same threads give other evidence.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.blocks import AUTOATTACK, FGSM
from robusteval.spinning import DECISIVE


@dataclass(frozen=True)
class Workload:
    """A run; by this script's own suite where none is named."""

    name: str
    model: str
    samples: int
    suite: str
    only: tuple[str, ...] = ()


SUITE = (
    """
name = "threads"
description = "What is timed."
"""
    + FGSM
    + """
[[attacks]]
name = "adaptive"
title = "Adaptive (ours)"
library = "robusteval"
attack = "adaptive"
norms = ["Linf"]
parameters = { passes_per_sample = 150 }
"""
    + AUTOATTACK
)
SMALL_STEPS = (
    *("gaussian_noise", "fgsm", "bim", "mim", "pgd10", "pgd20", "joint_pc", "prototype_margin"),
    *("adaptive", "smallest", "pgd_l2", "cw", "deepfool"),
)
WORKLOADS = (
    Workload("adaptive", "mpat_at_cifar10", 24, "", ("adaptive",)),
    Workload("AutoAttack", "pcl_digits", 120, "", ("autoattack",)),
    Workload("pcl_digits, full", "pcl_digits", 12, "full", SMALL_STEPS),
)


@dataclass(frozen=True)
class Setting:
    """What is said to OpenMP, and how many threads fewer than there are."""

    name: str
    environment: dict[str, str]
    fewer: int = 0


SETTINGS = (
    Setting("as it is", {}),
    Setting("OMP_WAIT_POLICY=PASSIVE", {"OMP_WAIT_POLICY": "PASSIVE"}),
    Setting("GOMP_SPINCOUNT=1000", {"GOMP_SPINCOUNT": "1000"}),
    Setting("GOMP_SPINCOUNT=30000", {"GOMP_SPINCOUNT": "30000"}),
    Setting("a thread less", {}, 1),
)


@dataclass(frozen=True)
class Seen:
    """What a workload took: seconds by the clock and of the processor, and what it found."""

    seconds: float
    computed: float
    evidence: str


def timed(workload: Workload, threads: int, out: Path) -> Seen:
    """One workload in this process; the model's first passes are not timed."""
    from robusteval import api
    from robusteval.evidence.files import Local
    from robusteval.evidence.results import load_result

    out.mkdir(parents=True, exist_ok=True)
    own = out / "threads.toml"
    own.write_text(SUITE, encoding="utf-8")
    options = api.Options(
        samples=workload.samples,
        only=workload.only,
        threads=threads,
        out=out / workload.name.split(",")[0],
    )
    warm = replace(options, samples=2, only=("fgsm",), out=out / "warm")
    api.evaluate(workload.model, own, options=warm)
    began, before = time.perf_counter(), time.process_time()
    report = api.evaluate(workload.model, workload.suite or own, options=options)
    seconds, computed = time.perf_counter() - began, time.process_time() - before
    return Seen(seconds, computed, load_result(Local(report.folder)).evidence_digest)


def do_all(threads: int) -> None:
    """Every workload in this process; a line of JSON for each."""
    with tempfile.TemporaryDirectory() as out:
        for workload in WORKLOADS:
            print(json.dumps(timed(workload, threads, Path(out)).__dict__), flush=True)


def compute(threads: int) -> None:
    """The other process: multiplies matrices until its input ends."""
    import select

    import torch

    torch.set_num_threads(threads)
    matrix = torch.rand(384, 384)
    print("at work", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(50):
            matrix @ matrix


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.threads", *map(str, arguments)]


def _environment(setting: Setting) -> dict[str, str]:
    told = {name: value for name, value in os.environ.items() if name not in DECISIVE}
    told.pop("OMP_NUM_THREADS", None)
    return {**told, **setting.environment}


def measured(setting: Setting, threads: int) -> list[Seen]:
    """Every workload by one setting, in a new process."""
    done = subprocess.run(
        _command("--do-all", "--threads", max(1, threads - setting.fewer)),
        env=_environment(setting),
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return [Seen(**json.loads(line)) for line in lines]


@contextmanager
def beside(threads: int, is_busy: bool) -> Iterator[None]:
    """Within it another process computes, by the runtime's own setting."""
    if not is_busy:
        yield
        return
    process = subprocess.Popen(
        _command("--compute", "--threads", threads),
        env=_environment(SETTINGS[0]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.communicate()


def compare(
    settings: Sequence[Setting], threads: int, rounds: int
) -> dict[tuple[str, bool], list[list[Seen]]]:
    """By setting, and whether something computes beside: the workloads of each round."""
    found: dict[tuple[str, bool], list[list[Seen]]] = {}
    for _ in range(rounds):
        for is_busy in (False, True):
            for setting in settings:
                with beside(threads, is_busy):
                    seen = measured(setting, threads)
                found.setdefault((setting.name, is_busy), []).append(seen)
                print(f"{setting.name}{', beside' if is_busy else ''}: done", file=sys.stderr)
    return found


def row(name: str, rounds: list[list[Seen]]) -> str:
    """A setting's line of the table: the least seconds of each workload."""
    least = [min(seen, key=lambda s: s.seconds) for seen in zip(*rounds, strict=True)]
    cells = [f"{best.seconds:.1f} ({best.computed:.1f})" for best in least]
    return f"| {name} | {' | '.join(cells)} |"


def differing(
    settings: Sequence[Setting], found: dict[tuple[str, bool], list[list[Seen]]]
) -> list[str]:
    """Workloads whose evidence isn't the same by all settings with the same threads."""
    same = [s.name for s in settings if not s.fewer]
    every = [seen for (name, _), rounds in found.items() if name in same for seen in rounds]
    by_workload = zip(*every, strict=True)
    return [
        workload.name
        for workload, seen in zip(WORKLOADS, by_workload, strict=False)
        if len({one.evidence for one in seen}) > 1
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="a part of the names of settings")
    parser.add_argument("--do-all", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do_all:
        do_all(arguments.threads)
        return 0
    if arguments.compute:
        compute(arguments.threads)
        return 0
    settings = [s for s in SETTINGS if s is SETTINGS[0] or arguments.only in s.name]
    found = compare(settings, arguments.threads, arguments.rounds)
    for is_busy, place in ((False, "alone"), (True, "beside another process")):
        print(f"| {place} | {' | '.join(workload.name for workload in WORKLOADS)} |")
        print(f"|---|{'---:|' * len(WORKLOADS)}")
        for setting in settings:
            print(row(setting.name, found[setting.name, is_busy]))
    differ = differing(settings, found)
    print(f"equal evidence: {not differ}{f', but for {differ}' if differ else ''}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
