"""Every alteration that ``tampering`` tries, by family, from one honest run's folder."""

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.forgery.damage import damage, report
from benchmarks.forgery.files import files, images, pictures
from benchmarks.forgery.fitting import evidence_files, kinds_of_rows
from benchmarks.forgery.leaves import (
    RUN,
    VERIFICATION,
    Alteration,
    in_evidence,
    in_json,
    json_edits,
    read_json,
)
from benchmarks.forgery.named import named
from benchmarks.forgery.rows import (
    about_of,
    change_about,
    change_table,
    column_edits,
    read_table,
    table_edits,
)

Family = Callable[[Path, random.Random], Iterator[Alteration]]


def every(run: Path, families: Iterable[str], seed: int, limit: int | None) -> list[Alteration]:
    """The alterations of these families: all, or a seeded choice of ``limit`` from each but the
    named."""
    chosen: list[Alteration] = []
    for name in families:
        rng = random.Random(f"{seed}/{name}")
        found = list(FAMILIES[name](run, rng))
        if limit is not None and name != "named" and len(found) > limit:
            found = rng.sample(found, limit)
        chosen += found
    return chosen


def record(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Every leaf of run.json."""
    for place, how, edit in json_edits(read_json(run / RUN)):
        yield Alteration("record", f"{RUN}:{place}", how, partial(in_json, RUN, edit))


def columns(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Every column of every Parquet file; of a cell's chunks each edit meets one."""

    def edits(path: Path) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        table = read_table(path)
        for place, how, change in column_edits(table, kinds_of_rows(path)):
            yield place, how, partial(change_table, change=change)

    yield from _spread("columns", run, rng, edits)


def tables(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Rows, columns and metadata more or fewer than are due."""

    def edits(path: Path) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        for place, how, change in table_edits(read_table(path)):
            yield place, how, partial(change_table, change=change)

    yield from _spread("tables", run, rng, edits)


def told(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Every leaf of what a job tells of itself and of its chunk."""

    def edits(path: Path) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        for place, how, edit in json_edits(about_of(path)):
            yield f"#{place}", how, partial(change_about, edit=edit)

    yield from _spread("told", run, rng, edits)


def _spread(
    family: str,
    run: Path,
    rng: random.Random,
    edits: Callable[[Path], Iterator[tuple[str, str, Callable[[Path], object]]]],
) -> Iterator[Alteration]:
    """A cell's chunks are alike, so that each edit is tried on one of those that it fits."""
    cells: dict[str, list[Path]] = {}
    for path in evidence_files(run, "*.parquet"):
        cells.setdefault(path.stem.rpartition("-")[0] or path.stem, []).append(path)
    for paths in cells.values():
        fitting: dict[tuple[str, str], list[tuple[Path, Callable[[Path], object]]]] = {}
        for path in paths:
            for place, how, change in edits(path):
                fitting.setdefault((place, how), []).append((path, change))
        for (place, how), choices in fitting.items():
            path, change = rng.choice(choices)
            apply = partial(in_evidence, path.name, change)
            yield Alteration(family, f"{path.name}{place}", how, apply)


def verification(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Every number of the proof at the run's end."""
    name = f"evidence/{VERIFICATION}"
    for place, how, edit in json_edits(read_json(run / name)):
        yield Alteration(
            "verification", f"{VERIFICATION}:{place}", how, partial(in_json, name, edit)
        )
    whole: dict[str, Any] = {
        "all held": {"images": 26000, "held": 26000, "near_ties": 0, "failed": 0, "batch_size": 48},
        "consistent, fewer": {
            "images": 3,
            "held": 3,
            "near_ties": 0,
            "failed": 0,
            "batch_size": 48,
        },
        "empty": {},
        "a list": [],
        "null": None,
    }
    for how, content in whole.items():
        apply = partial(in_json, name, lambda _, content=content: content)
        yield Alteration("verification", VERIFICATION, how, apply)
    yield Alteration("verification", VERIFICATION, "deleted", lambda f: (f / name).unlink())


FAMILIES: dict[str, Family] = {
    "named": named,
    "record": record,
    "columns": columns,
    "tables": tables,
    "told": told,
    "images": images,
    "verification": verification,
    "pictures": pictures,
    "files": files,
    "damage": damage,
    "report": report,
}


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a run to be altered, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(run, folder / run.name, symlinks=True))
