"""What was found for the cells of a paper: rows, which all that is shown is made of."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robusteval import api
from robusteval.errors import PaperError, RobustevalError, UnknownNameError, shown
from robusteval.inert import cell as inert_cell
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry
from robusteval.papers.asked import (
    SCALES,
    Key,
    Scale,
    at_scale,
    attack_name,
    is_transfer,
    key_of,
    settings_of,
    spec_of,
)
from robusteval.papers.differences import differences
from robusteval.papers.paper import Cell, Paper, PaperTable, cells_of
from robusteval.reading import read_file
from robusteval.report.rows import PERCENT, percent
from robusteval.storage import reason

PLACE = ("table", "part", "beside", "row", "column")
COLUMNS = (
    *PLACE,
    *("paper", "unit", "status", "why"),
    *("here", "here_low", "here_high", "strongest", "strongest_low", "strongest_high"),
    *("strongest_attack", "samples", "entry", "source", "suite", "attack", "norm", "eps"),
    *("at_any_distance", "assumed", "differs", "source_differs", "scale", "run"),
    *("weights_sha256", "source_sha256", "evidence_sha256"),
)
ASKED = ("entry", "source", "suite", "attack", "norm", "eps", "at_any_distance")
FOUND, NOT_RUN, UNTRAINED, NO_ENTRY, FAILED = "found", "not run", "untrained", "no entry", "failed"
IMPOSSIBLE, LATER = "impossible", "later"
STATUSES = (FOUND, NOT_RUN, UNTRAINED, NO_ENTRY, FAILED, IMPOSSIBLE, LATER)
_NEWER = ("source_differs",)  # columns that tables of 0.2 may lack
_MOST = 2**24  # bytes of a table of rows
Row = dict[str, str]
Reports = Mapping[Key, api.Report | RobustevalError]
LookedUp = Mapping[str, tuple[Entry | None, Row]]


def rows_of(paper: Paper, table: PaperTable, reports: Reports, scale: Scale) -> list[Row]:
    """A row for each cell of a table, in the paper's order, and for each beside it."""
    cells = [at_scale(paper, cell, scale) for cell in cells_of(paper, table)]
    return [_row(paper, cell, key_of(cell, cells), reports, scale) for cell in cells]


def _row(paper: Paper, cell: Cell, key: Key | None, reports: Reports, scale: Scale) -> Row:
    meaning, table = cell.meaning, cell.table
    attack = attack_name(cell) if meaning.attack and not meaning.not_run else ""
    row = dict.fromkeys(COLUMNS, "") | {
        **{"table": table.number, "part": table.part, "beside": cell.beside},
        **{"row": cell.row, "column": cell.column, "paper": cell.value, "unit": cell.unit},
        **{"assumed": meaning.assumed, "suite": cell.suite, "scale": scale},
        **{"entry": meaning.entry, "source": meaning.source, "attack": attack},
        **{"norm": meaning.norm or "", "eps": meaning.eps or ""},
        "at_any_distance": "yes" if meaning.any_distance else "",
    }
    named = [name for name in (meaning.entry, meaning.source) if name and not meaning.not_run]
    entries = {name: looked_up(name) for name in named}
    found = row | _what(cell, key, reports, entries) | _of_models(paper, cell, entries)
    return {name: inert_cell(value) for name, value in found.items()}


def _of_models(paper: Paper, cell: Cell, entries: LookedUp) -> Row:
    """Where a cell's model, and the one that its images are made on, differ from the paper's."""
    meaning = cell.meaning
    named = {"differs": (meaning.entry, meaning.model)}
    if is_transfer(cell):
        named["source_differs"] = (meaning.source, meaning.source_model)
    return {
        column: differences(entry, paper.models.get(model))
        for column, (name, model) in named.items()
        if name in entries and (entry := entries[name][0])
    }


def _what(cell: Cell, key: Key | None, reports: Reports, entries: LookedUp) -> Row:
    """The status and the numbers of a cell."""
    meaning = cell.meaning
    if meaning.not_run:
        status = IMPOSSIBLE if meaning.impossible else LATER
        return {"status": status, "why": meaning.not_run, "suite": "", "entry": "", "source": ""}
    if meaning.read == "setting":
        return {"status": FOUND, "here": _setting(cell)}
    for _, lacking in entries.values():
        if lacking:
            return lacking
    entry, _ = entries[meaning.entry]
    assert entry is not None, "it lacks nothing"
    told = {"weights_sha256": _sha(entry)}
    if is_transfer(cell):
        told["source_sha256"] = _sha(entries[meaning.source][0])
    return told | (_of_training(cell, entry) if key is None else _of_run(cell, reports.get(key)))


def _of_run(cell: Cell, report: api.Report | RobustevalError | None) -> Row:
    if report is None:
        return {"status": NOT_RUN, "why": "not run yet"}
    if isinstance(report, RobustevalError):
        return {"status": FAILED, "why": str(report)}
    return _of_report(cell, report.content)


def looked_up(name: str) -> tuple[Entry | None, Row]:
    """An entry, if there is one; and what it lacks to be run, with the command that makes it."""
    try:
        entry = find_entry(name)
    except UnknownNameError:
        return None, {"status": NO_ENTRY, "why": f"there is no entry {name} yet"}
    except RobustevalError as error:
        return None, {"status": FAILED, "why": str(error)}
    if entry.stored is None:
        why = f"no weights ({entry.lacking}): robusteval train {name}"
        return entry, {"status": UNTRAINED, "why": why}
    return entry, {}


def _sha(entry: Entry | None) -> str:
    return entry.stored.sha256 if entry and entry.stored else ""


def _setting(cell: Cell) -> str:
    """What the suite has."""
    value = settings_of(spec_of(cell))[cell.meaning.parameter]
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _of_training(cell: Cell, entry: Entry) -> Row:
    if (trained := entry.trained) is None:
        return {"status": NOT_RUN, "why": "its entry does not tell how it was trained"}
    if cell.meaning.read == "epochs":
        return {"status": FOUND, "here": str(trained.epochs)}
    is_whole = cell.meaning.read == "minutes"
    value = trained.seconds / 60 if is_whole else trained.seconds / trained.epochs
    return {"status": FOUND, "here": f"{value:.1f}"}


def _of_report(cell: Cell, report: Mapping[str, Any]) -> Row:
    about = {
        "run": report["run"],
        "samples": str(report["samples"]),
        "evidence_sha256": report["evidence"]["digest"],
    }
    if cell.meaning.read == "clean":
        return about | {"status": FOUND} | _rate("here", report["clean"]["accuracy"])
    if cell.meaning.read == "detection":
        return about | _of_detector(cell, report)
    name = attack_name(cell)
    found = next((a for a in report["attacks"] if a["name"] == name), None)
    if found is None:
        left = {out["name"]: out["reason"] for out in report["left_out"]}
        return about | {"status": FAILED, "why": left.get(name, "its run has no such attack")}
    rate = found["unbounded"]["accuracy"] if cell.meaning.any_distance else found["robust_accuracy"]
    if rate is None:
        return about | {"status": FAILED, "why": found["reason"] or "it did not finish"}
    told = {"status": FOUND, "attack": found["name"], **_rate("here", rate)}
    return about | told | ({} if cell.meaning.any_distance else _strongest(report))


def _strongest(report: Mapping[str, Any]) -> Row:
    """What all attacks of the run together left, and the one that left least."""
    (worst,) = report["worst_case"]
    done = [a for a in report["attacks"] if a["robust_accuracy"]]
    first = min(done, key=lambda attack: attack["robust_accuracy"]["value"])
    return _rate("strongest", worst["robust_accuracy"]) | {"strongest_attack": first["name"]}


def _of_detector(cell: Cell, report: Mapping[str, Any]) -> Row:
    """A metric of a detector: on outliers, or on all attacked images against all clean ones."""
    meaning = cell.meaning
    if meaning.against:
        meant = [r for r in report["outliers"] if r["against"] == meaning.against]
    else:
        meant = [r for r in report["attack_detection"] if r["reading"] == "paper"]
    row = next((r for r in meant if r["detector"] == meaning.detector), None)
    if row is None or row["status"] != "done":
        return {"status": FAILED, "why": row["reason"] if row else "its run has no such detector"}
    return {"status": FOUND, "attack": meaning.attack, **_rate("here", row[meaning.metric])}


def _rate(name: str, rate: Mapping[str, Any] | None) -> Row:
    if rate is None:
        return {}
    values = (rate[end] for end in ("value", "low", "high"))
    return dict(zip(_rate_columns(name), map(percent, values), strict=True))


def with_earlier(rows: Iterable[Row], earlier: Iterable[Row]) -> list[Row]:
    """Rows, where one that can't be made here, isn't, or failed, is as it was found before.

    An earlier number counts if it answers the same question, of the same weights and the same
    source's where there are some.  What the paper leaves open and what differs are told as they are
    known today.
    """
    found = {_question(row): row for row in earlier if row["status"] in (FOUND, FAILED)}
    return [_kept(row, found.get(_question(row))) for row in rows]


def _question(row: Row) -> tuple[str, ...]:
    """What a row answers: its cell at a scale, and what is read there."""
    return tuple(row[name] for name in (*PLACE, "paper", "scale", *ASKED))


def _kept(row: Row, earlier: Row | None) -> Row:
    if earlier is None or row["status"] not in (UNTRAINED, NO_ENTRY, NOT_RUN, FAILED):
        return row
    if earlier["status"] == FAILED and row["status"] != NOT_RUN:
        return row  # today's reason is the better one
    if any(row[name] not in ("", earlier[name]) for name in ("weights_sha256", "source_sha256")):
        return row
    today = {name: row[name] or earlier[name] for name in ("differs", "source_differs")}
    return earlier | today | {"assumed": row["assumed"]}


def as_csv(rows: Iterable[Row]) -> str:
    """Rows as they are stored."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_rows(path: Path, paper: Paper, table: PaperTable) -> list[Row]:
    """The stored rows of a table; none if there is no file.

    Raises PaperError for another file, and for rows that aren't those of the paper's table.
    """
    try:
        content = read_file(path, _MOST).decode("utf-8")
        header, *lines = csv.reader(io.StringIO(content, newline=""), strict=True)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise PaperError(f"{path} can't be read ({reason(error)}): restore it") from None
    known = [name for name in COLUMNS if name in header or name not in _NEWER]
    if header != known or any(len(line) != len(header) for line in lines):
        raise PaperError(f"{path} is not a table of `robusteval reproduce`: restore it")
    blank = dict.fromkeys(COLUMNS, "")
    rows = [blank | dict(zip(header, line, strict=True)) for line in lines]
    _require_same(path, rows, [*cells_of(paper, table)])
    for number, row in enumerate(rows, 2):
        if lacking := _unfit(row):
            raise PaperError(
                f"{path}: {lacking} of row {number} is {shown(row[lacking])}: restore it"
            )
    return rows


def _require_same(path: Path, rows: Sequence[Row], cells: Sequence[Cell]) -> None:
    """Raises PaperError where a stored row isn't the table's, or has another paper's number."""
    stood = [(r["beside"], r["row"], r["column"], r["paper"], r["unit"]) for r in rows]
    due = [(c.beside, c.row, c.column, c.value, c.unit) for c in cells]
    if stood != [tuple(map(inert_cell, one)) for one in due]:
        raise PaperError(
            f"{path}: its rows are not those of the paper's table: remove it, and make it anew"
        )


def _unfit(row: Row) -> str:
    """The column of a stored row that holds what no row can; "" where all are fine."""
    is_found = row["status"] == FOUND
    if row["status"] not in STATUSES:
        return "status"
    if row["scale"] not in SCALES:
        return "scale"
    if row["samples"] and not re.fullmatch("[1-9][0-9]{0,8}", row["samples"]):
        return "samples"
    if is_found and not row["here"]:
        return "here"
    here, strongest = (_rate_columns(name) for name in ("here", "strongest"))
    is_rate = (is_found and row["evidence_sha256"]) or any(row[name] for name in here[1:])
    shares = [*here * bool(is_rate), *strongest * any(row[name] for name in strongest)]
    return next((name for name in shares if not _is_share(row[name])), "")


def _rate_columns(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def _is_share(text: str) -> bool:
    """Whether it is a number from 0 to 100."""
    return re.fullmatch(PERCENT, text) is not None and float(text) <= 100
