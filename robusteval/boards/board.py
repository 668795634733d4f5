"""Leaderboards: one CSV per data set and threat model, firmest model first.

A board is sealed: its first row holds the SHA-256 of all rows, so that one that was lost, altered
or added by hand shows.  The seal keeps no secret: whoever means to can write it anew.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from robusteval.boards.scrutiny import (
    Known,
    model_of,
    no_percents,
    uncountable,
    wrong_numbers,
    wrong_origin,
)
from robusteval.errors import EvidenceError, ThreatError
from robusteval.models.entry import Entry
from robusteval.report import rows as tables
from robusteval.report.rows import Row
from robusteval.types import ThreatModel, parse_eps

RANK = ("rank",)
SEAL = "board_sha256"
_EPS = re.compile(r"[0-9]{1,40}(/[0-9]{1,40}|(\.[0-9]{1,40})?(e[+-][0-9]{1,2})?)")
_NAMED = 3  # models in one line
# What a run's rows have in common on all of its boards.
_OF_THE_RUN = (
    *("method", "training", "dataset", "clean", "samples", "suite", "seed", "versions"),
    *("entry_sha256", "weights_sha256", "evidence_sha256", tables.SURROGATE),
)


def file_name(row: Row) -> str:
    """Such as ``cifar10_Linf_8_255.csv``.  Raises ThreatError for a row without a threat."""
    if not _EPS.fullmatch(row["eps"]):
        raise ThreatError(f"ε {ascii(row['eps'])[:60]} is not a number as rows have them")
    threat = ThreatModel(row["norm"], parse_eps(row["eps"]))  # type: ignore[arg-type]
    return f"{row['dataset']}_{threat.norm}_{threat.eps_text.replace('/', '_')}.csv"


def read_board(path: Path) -> list[Row]:
    """A leaderboard's rows; none if there is no file.  Raises EvidenceError for another table."""
    return tables.read_rows(path, RANK, (SEAL,))


def as_csv(rows: Sequence[Row]) -> str:
    """A leaderboard, with its seal."""
    sealed = [{**row, SEAL: "" if i else seal(rows)} for i, row in enumerate(rows)]
    return tables.as_csv(sealed, RANK, (SEAL,))


def seal(rows: Sequence[Row]) -> str:
    """SHA-256 of the board as CSV, without the column of the seal."""
    plain = [{name: cell for name, cell in row.items() if name != SEAL} for row in rows]
    return hashlib.sha256(tables.as_csv(plain, RANK).encode()).hexdigest()


def unsealed(rows: Sequence[Row]) -> Iterable[str]:
    """Where the seal is missing, or was made of other rows."""
    if not rows:
        return
    if any(SEAL not in row for row in rows):
        yield f"it has no column {SEAL}: the next `leaderboard add` writes it"
    elif [row[SEAL] for row in rows] != [seal(rows), *[""] * (len(rows) - 1)]:
        yield f"its rows are not those that {SEAL} was made of: restore it"


def require_sound(path: Path, rows: Sequence[Row]) -> None:
    """Raises EvidenceError for a board that no row can be added to: its rows can't be ranked, or
    aren't those that its seal was made of.  One of an earlier version has no seal yet."""
    for row in rows:
        if wrong := [*uncountable(row), *no_percents(row, ("clean",))]:
            raise EvidenceError(
                f"{path}: the row of {model_of(row)} holds what is not a number ({wrong[0]}): "
                "restore it"
            )
    is_older = rows and all(SEAL not in row for row in rows)
    if not is_older and (broken := [*unsealed(rows)]):
        raise EvidenceError(
            f"{path}: {broken[0]}, or, if it was changed on purpose, take that column out"
        )


def merged(rows: Sequence[Row], new: Row) -> list[Row]:
    """With the row of the same model replaced, ranked by worst case, then by clean accuracy.

    ``rows`` as ``require_sound`` lets them pass.  Raises EvidenceError where the new row's run has
    fewer samples than the old one's.
    """
    for old in rows:
        if old["model"] == new["model"] and int(old["samples"]) > int(new["samples"]):
            raise EvidenceError(
                f"{new['model']} is on {file_name(new)} with {old['samples']} samples, the run "
                f"has {new['samples']}: run as many"
            )
    kept = [row for row in rows if row["model"] != new["model"]]
    ordered = sorted([*kept, new], key=lambda r: (-_share(r), -float(r["clean"]), r["model"]))
    return [{**row, "rank": str(place)} for place, row in zip(ranks(ordered), ordered, strict=True)]


def ranks(rows: Sequence[Row]) -> list[int]:
    """Places from 1; equal worst cases share one."""
    places: dict[float, int] = {}
    for place, share in enumerate(sorted(map(_share, rows), reverse=True), 1):
        places.setdefault(share, place)
    return [places[_share(row)] for row in rows]


def _share(row: Row) -> float:
    return int(row["robust_samples"]) / int(row["samples"])


def problems(name: str, rows: Sequence[Row], entries: Mapping[str, Entry]) -> list[str]:
    """What is wrong with the rows of the leaderboard of that file name, one line each.

    Numbers must follow from their counts, ranks from the numbers, and each model must be in the
    registry as it was when it was run.  What the evidence says only the run can show.
    """
    known = Known(entries)
    of_rows = [f"{model_of(row)}: {one}" for row in rows for one in _row_problems(row, name, known)]
    return [*_misplaced(rows), *of_rows]


def _row_problems(row: Row, name: str, known: Known) -> Iterable[str]:
    if no_counts := [*uncountable(row)]:
        yield from no_counts
        return
    yield from wrong_numbers(row)
    yield from _wrong_place(row, name)
    yield from wrong_origin(row)
    yield from known.differences(row)


def _misplaced(rows: Sequence[Row]) -> Iterable[str]:
    """Ranks that aren't those of the numbers, and models that stand more than once."""
    if not any(True for row in rows for _ in uncountable(row)):  # else that is told with the row
        expected = ranks(rows)
        if [int(row["rank"]) for row in rows] != expected or expected != sorted(expected):
            yield "ranks don't follow from the worst cases"
    times = Counter(model_of(row) for row in rows)
    if doubled := sorted(model for model, count in times.items() if count > 1):
        more = f" and {len(doubled) - _NAMED} more" if len(doubled) > _NAMED else ""
        yield f"{', '.join(doubled[:_NAMED])}{more}: twice"


def _wrong_place(row: Row, name: str) -> Iterable[str]:
    """Where a row doesn't belong."""
    try:
        belongs = file_name(row)
        if belongs != name:
            yield f"belongs on {belongs}"
        elif ThreatModel(row["norm"], parse_eps(row["eps"])).eps_text != row["eps"]:  # type: ignore[arg-type]
            yield f"its eps is {row['eps']}, written otherwise than rows have it"
    except ThreatError as error:
        yield str(error)
    if row["status"] != "complete":
        yield "its run is not complete"


def disagreements(boards: Mapping[str, Sequence[Row]]) -> Iterable[tuple[str, str]]:
    """(file name, what differs) where rows of one run say different things of it."""
    first: dict[tuple[str, str], tuple[str, Row]] = {}
    for name, rows in boards.items():
        for row in rows:
            other, told = first.setdefault((row["model"], row["run"]), (name, row))
            if differ := [c for c in _OF_THE_RUN if row.get(c, "") != told.get(c, "")]:
                yield (
                    name,
                    f"{model_of(row)}: its {', '.join(differ)} differ from its run's on {other}",
                )
