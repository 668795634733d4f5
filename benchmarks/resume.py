"""A run killed with SIGKILL at random moments, each time started again.

    python -m benchmarks.resume [--kills 20] [--model pcl_digits] [--suite full] [--seed 0]

Prints what each kill left, and at the end whether the report equals the uninterrupted run's in
all but times, and whether any finished job was done twice.  Exits 1 if not.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def command(arguments: argparse.Namespace, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "robusteval", "run", "--model", arguments.model),
        *("--suite", arguments.suite, "--threads", "1", "--workers", str(arguments.workers)),
        *("--out", str(out)),
    ]


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """A report but for what a clock or a calendar told."""
    made = {k: v for k, v in report["provenance"].items() if k != "date"}
    attacks = [{k: v for k, v in a.items() if k != "seconds"} for a in report["attacks"]]
    kept = {k: v for k, v in report.items() if k != "seconds"}
    return {**kept, "attacks": attacks, "provenance": made}


def report_of(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/report.json")
    return without_times(json.loads(path.read_text("utf-8")))


def jobs_done(out: Path) -> dict[str, int]:
    """Each finished job's file and when it was written."""
    return {p.name: p.stat().st_mtime_ns for p in out.glob("*/evidence/*.parquet")}


def kill_after(seconds: float, arguments: argparse.Namespace, out: Path) -> bool:
    """Whether the process was killed before it came to its end."""
    process = subprocess.Popen(
        command(arguments, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="pcl_digits")
    parser.add_argument("--suite", default="full")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    work = Path(tempfile.mkdtemp())
    whole, broken = work / "whole", work / "broken"
    started = time.perf_counter()
    subprocess.run(command(arguments, whole), check=True, capture_output=True)
    uninterrupted = time.perf_counter() - started
    print(f"uninterrupted: {uninterrupted:.1f} s, {len(jobs_done(whole))} jobs")

    kills, finished, twice, spent = 0, 0, 0, 0.0
    before: dict[str, int] = {}
    while kills < arguments.kills:
        pause = rng.uniform(min(4, 0.5 * uninterrupted), 4 + 0.75 * uninterrupted)
        started = time.perf_counter()
        killed = kill_after(pause, arguments, broken)
        spent += time.perf_counter() - started
        now = jobs_done(broken)
        twice += sum(now.get(name) != written for name, written in before.items())
        if not killed:  # it was faster than its kill: begin another run, so that all kills hit one
            print(f"finished after {kills} kills; a new run takes the rest")
            same = report_of(broken) == report_of(whole)
            if not same:
                print("reports differ")
                return 1
            finished += 1
            broken, before = work / f"broken{finished}", {}
            continue
        kills += 1
        before = now
        print(f"kill {kills:2d} after {pause:5.1f} s: {len(now)} jobs kept")
    subprocess.run(command(arguments, broken), check=True, capture_output=True)
    same = report_of(broken) == report_of(whole)
    print(f"report equal to the uninterrupted run's in all but times: {same}")
    print(f"finished jobs done twice: {twice}")
    return 0 if same and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
