"""Thousands of bad or odd inputs, by family: is each told in one line, early, with nothing lost?

    python -m benchmarks.bad_input [--count 6000] [--seed 0] [--family paths ...] [--workers 2]

Each input is tried in a process of its own (see ``benchmarks.trials``).  Prints a table of how
many were tried of each family and how many held, and the exceptions.  Exits 1 if there are any.
``--like TEXT`` tries only inputs whose description holds that text, ``--all`` prints every
exception, as it comes.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from benchmarks.families import (
    boards,
    calls,
    datasets,
    leaving,
    machines,
    numbers,
    own,
    paths,
    runs,
    tables,
)
from benchmarks.families.made import Made, make
from benchmarks.trials import Case, of, try_out

Generator = Callable[[Made, random.Random], Iterator[Case]]
FAMILIES: dict[str, tuple[Generator, ...]] = {
    "paths": (paths.paths, paths.weights_files, paths.run_files, paths.homes),
    "numbers": (
        numbers.on_the_command_line,
        numbers.of_lists,
        numbers.in_toml,
        numbers.in_neighbours,
        numbers.from_python,
    ),
    "toml": (tables.entry_texts, tables.suite_texts),
    "entries": (tables.entry_values, tables.entry_names),
    "data sets": (datasets.files,),
    "own data": (own.from_python, own.at_paths),
    "suites": (tables.suite_values, tables.suite_names, tables.attack_parameters),
    "architectures": (tables.architectures,),
    "models folder": (tables.neighbours,),
    "run.json": (runs.records, runs.record_texts, runs.neighbour_files),
    "evidence": (
        runs.evidence_bytes,
        runs.evidence_tables,
        runs.evidence_arrays,
        runs.evidence_json,
    ),
    "report": (runs.reports,),
    "caches": (runs.caches,),
    "machines": (machines.devices, machines.threads, machines.streams, machines.memory),
    "factories": (machines.factories,),
    "outliers": (machines.outliers,),
    "titles": (machines.titles,),
    "weights": (machines.weights,),
    "messages": (machines.messages,),
    "calls": (
        calls.images_and_labels,
        calls.threats,
        calls.modules,
        calls.api_calls,
        calls.metrics,
    ),
    "options": (calls.options,),
    "boards": (boards.cells, boards.files),
    "leaving": (leaving.pages, leaving.cells, leaving.others),
}
_END_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG
_SHOWN = 5  # exceptions of a family, unless all are asked for


@dataclass(frozen=True)
class Asked:
    """Which inputs: at most ``count`` of these families, chosen by ``seed``."""

    count: int
    seed: int
    families: tuple[str, ...]
    like: str = ""
    at_once: bool = False


@dataclass(frozen=True)
class Tried:
    """One input, and what did not hold; nothing where all did."""

    family: str
    told: str
    wrong: str


def all_of(family: str, made: Made, seed: int) -> list[Case]:
    """Every input of a family, in an order drawn by ``seed``."""
    rng = random.Random(f"{seed}/{family}")
    cases = of(family, chain.from_iterable(make(made, rng) for make in FAMILIES[family]))
    rng.shuffle(cases)
    return cases


def chosen(asked: Asked, made: Made) -> list[Case]:
    """As many of each family as there are, or as the count allows: small families give all."""
    found = {f: all_of(f, made, asked.seed) for f in asked.families}
    if asked.like:
        found = {f: [c for c in cases if asked.like in c.told] for f, cases in found.items()}
    left, cases = asked.count, list[Case]()
    for number, family in enumerate(sorted(found, key=lambda f: len(found[f]))):
        share = left // (len(found) - number)
        cases += found[family][:share]
        left -= min(share, len(found[family]))
    return cases


def try_all(asked: Asked, workers: int = 1) -> list[Tried]:
    """Tries them, in so many processes; takes some seconds to begin."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        made.mkdir()
        make(made)
        context = multiprocessing.get_context("spawn")
        shares = [(asked, folder, number, workers) for number in range(workers)]
        with context.Pool(workers) as pool:
            return [tried for share in pool.starmap(_share, shares, 1) for tried in share]


def _share(asked: Asked, folder: str, number: int, workers: int) -> list[Tried]:
    """One process's share of them; it ends with the process that began it."""
    ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    work = Path(folder) / f"work{number}"
    for name in ("", "cache", "home"):
        (work / name).mkdir()
        (work / name).chmod(0o777)
    _surroundings(work)
    found = []
    cases = chosen(asked, Made(Path(folder) / "made"))
    _warm()
    for case in cases[number::workers]:
        found.append(Tried(case.family, case.told, try_out(case, work)))
        if asked.at_once and found[-1].wrong:
            print(told(found[-1]), flush=True)
    return found


def told(one: Tried) -> str:
    """An exception, in two lines."""
    return f"{one.family}: {one.told}\n    {one.wrong}"


def _surroundings(work: Path) -> None:
    """The same for all, whoever calls."""
    work.parent.chmod(0o755)
    for name in [n for n in os.environ if n.startswith("ROBUSTEVAL_")]:
        del os.environ[name]
    os.environ |= {"XDG_CACHE_HOME": str(work / "cache"), "HOME": str(work / "home")}
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    os.chdir(work)


def _warm() -> None:
    """Loads what commands load, so that each input is quick.  No thread may be left running."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure
    import pandas
    import torch
    import torchattacks

    from robusteval import api, listing, terminal, zoo
    from robusteval.boards import publish as leaderboards

    del matplotlib, pandas, torchattacks, leaderboards, terminal, zoo
    torch.set_num_threads(1)
    api.estimate("ce_digits", "quick", options=api.Options(samples=4))
    listing.attacks(None)
    gc.collect()
    gc.freeze()


def show(tried: Sequence[Tried], most: int = _SHOWN) -> bool:
    """Prints the table and up to so many exceptions of a family; whether there are none."""
    count = Counter(one.family for one in tried)
    held = Counter(one.family for one in tried if not one.wrong)
    print("| family | tried | held |\n|---|---:|---:|")
    for family in count:
        print(f"| {family} | {count[family]:,} | {held[family]:,} |")
    print(f"| **all** | {count.total():,} | {held.total():,} |")
    for family in count:
        wrong = [one for one in tried if one.family == family and one.wrong]
        for one in wrong[:most]:
            print(told(one))
        if len(wrong) > most:
            print(f"{family}: and {len(wrong) - most} more")
    return count == held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--like", default="")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    families = tuple(arguments.family)
    asked = Asked(arguments.count, arguments.seed, families, arguments.like, arguments.all)
    began = time.perf_counter()
    tried = try_all(asked, arguments.workers)
    fine = show(tried, 0 if arguments.all else _SHOWN)
    print(f"{time.perf_counter() - began:.0f} s")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
