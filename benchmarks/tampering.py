"""One honest run, and every way to falsify it that we know of: does ``verify`` find each?

    python -m benchmarks.tampering [--limit N] [--seed 0] [--family named record ...] [--workers 1]

Each alteration changes one leaf, column, file or bit of a copy.  All digests and names are made to
fit it and the report is made anew, as a forger would; then ``verify`` looks, and where only doing
jobs again can tell (``BY_AGAIN``), ``verify --again`` of every job.  The families ``damage`` and
``report`` leave digests as they were, and try ``run``, ``report`` and ``compare`` besides.

Holds where every alteration is refused in one line or found not to hold, but for what ``EXCEPTED``
names with its reason: what only the machine or the user of the run can know.  ``--limit`` takes a
seeded choice of N from each family; all 8,600 together take some hours of one core.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.forgery.families import FAMILIES, every
from benchmarks.forgery.helpers import try_all
from benchmarks.forgery.leaves import RUN, Alteration, change_json, put
from benchmarks.forgery.named import NAMED
from benchmarks.forgery.trial import ALL, Bench, Outcome, cli, honest_run, remembered, try_out


def promises(bench: Bench) -> list[str]:
    """What must hold for the rest to mean something, and doesn't: of an honest run, and of
    alterations that make all else fit."""
    plain, again = cli("verify", str(bench.run)), cli("verify", str(bench.run), "--again", str(ALL))
    wanted = {
        "an honest run holds": plain.exit_code == 0,
        "an honest run holds with --again": again.exit_code == 0,
        'what can\'t be proven is printed "as the run says"': "as the run says" in plain.stdout,
        "without --again, failures are said not to be looked at": "--again" in plain.stdout,
    }
    wanted |= {
        f"with all made to fit, {alteration.how} passes": outcome.verdict == due
        for alteration, due in FITTING.items()
        for outcome in [try_out(bench, alteration, bench.work / "fitting")]
    }
    return [promise for promise, kept in wanted.items() if not kept]


def _title(folder: Path) -> None:
    change_json(folder / RUN, partial(put, ("spec", "suite", "attacks", 0, "title"), "Least"))


# Alterations that only a digest which was not made to fit could give away.
FITTING = {
    Alteration(
        "fitting", "run.json:spec.suite.attacks.0.title", "another title", _title
    ): "excepted",
    Alteration("fitting", "run", "successes hidden", NAMED["successes hidden"]): "again",
}


def show(alterations: Sequence[Alteration], outcomes: Sequence[Outcome], most: int) -> bool:
    """A row for each family, the exceptions with their reasons, and what is wrong; whether nothing
    is."""
    print("| family | tried | refused or found | by `--again` | can't be proven | wrong |")
    print("|---|---:|---:|---:|---:|---:|")
    pairs = list(zip(alterations, outcomes, strict=True))
    for family in dict.fromkeys(a.family for a in alterations):
        counts = Counter(o.verdict for a, o in pairs if a.family == family)
        tried = counts.total() - counts["not altered"]
        held = counts["refused"] + counts["found"] + counts["the same"]
        wrong = tried - held - counts["again"] - counts["excepted"]
        print(
            f"| {family} | {tried} | {held} | {counts['again']} | {counts['excepted']} | {wrong} |"
        )
    _show_exceptions(pairs)
    bad = [(a, o) for a, o in pairs if not o.right]
    _show_wrong(bad, most)
    return not bad


def _show_exceptions(pairs: Sequence[tuple[Alteration, Outcome]]) -> None:
    """Each reason, with what was changed and how."""
    reasons: dict[str, list[Alteration]] = {}
    for alteration, outcome in pairs:
        if outcome.verdict == "excepted":
            reasons.setdefault(outcome.told, []).append(alteration)
    for reason, members in reasons.items():
        print(f"\n{reason}:")
        for place, ways in _by_place(members).items():
            print(f"  {place}: {ways}")


def _show_wrong(bad: Sequence[tuple[Alteration, Outcome]], most: int) -> None:
    """Each kind of wrong, with one of what was seen."""
    kinds: dict[tuple[str, str], list[tuple[Alteration, Outcome]]] = {}
    for alteration, outcome in bad:
        kinds.setdefault((outcome.verdict, alteration.family), []).append((alteration, outcome))
    for (verdict, family), members in kinds.items():
        print(f"\n{verdict}, {family}: {len(members)}")
        seen = {_alike(a.place): o.told for a, o in members}
        for place, ways in [*_by_place([a for a, _ in members]).items()][:most]:
            print(f"  {place}: {ways} – {seen[place]}")


def _by_place(alterations: Sequence[Alteration]) -> dict[str, str]:
    """How each place was changed, with places that differ in numbers alone taken together."""
    found: dict[str, dict[str, None]] = {}
    for alteration in alterations:
        found.setdefault(_alike(alteration.place), {})[alteration.how] = None
    return {place: "; ".join(ways) for place, ways in found.items()}


def _alike(place: str) -> str:
    cell = re.sub(
        r"(attack|outliers|clean)-.*?(\.parquet|\.safetensors|\.failed)", r"\1-*\2", place
    )
    return re.sub(r"\b\d+\b", "N", cell)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="so many of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", default=[*FAMILIES], choices=[*FAMILIES])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", type=int, default=40, help="so many of each kind of wrong")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked
    started = time.monotonic()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as work, remembered():
        bench = honest_run(Path(work))
        broken = promises(bench)
        alterations = every(bench.run, arguments.family, arguments.seed, arguments.limit)
        outcomes = try_all(bench, alterations, arguments.workers, _tell)
    print(f"{len(outcomes)} alterations in {time.monotonic() - started:.0f} s", file=sys.stderr)
    right = show(alterations, outcomes, arguments.show)
    for promise in broken:
        print(f"DOES NOT HOLD: {promise}")
    return 0 if right and not broken else 1


def _tell(alteration: Alteration, outcome: Outcome) -> None:
    """What is wrong, as it is found."""
    if not outcome.right:
        print(f"{outcome.verdict}: {alteration.told}: {outcome.told}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
