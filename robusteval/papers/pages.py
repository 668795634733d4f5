"""A paper's tables as Markdown and as a page, from stored rows alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from robusteval import inert
from robusteval.papers.found import FOUND, Row
from robusteval.papers.paper import Paper, PaperTable

LEGEND = (
    "Each cell: the paper's number → the same attack here → what the strongest attacks here leave "
    "together at the same norm and ε. Accuracies are in percent, with 95 % intervals. A dash: at "
    "any distance no attack is the strongest."
)


@dataclass
class Grid:
    """A table in the paper's rows and columns, or what stands beside it."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], "Shown"] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)  # of rows or of columns, by name
    models_in_rows: bool = False  # whether the entries are rows'


@dataclass(frozen=True)
class Shown:
    """One cell: the paper's number, what was found and the strongest, and its notes' numbers."""

    paper: str
    here: str
    here_interval: str
    strongest: str
    strongest_interval: str
    notes: tuple[int, ...]
    is_found: bool

    def as_text(self) -> str:
        """In one line."""
        here = f"{self.here} {self.here_interval}".strip()
        strongest = f"{self.strongest} {self.strongest_interval}".strip()
        marks = "".join(f" ({note})" for note in self.notes)
        return " → ".join(part for part in (self.paper, here, strongest) if part) + marks


@dataclass
class Notes:
    """What cells tell in a sentence: each once, numbered as it is met."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> int:
        """Its number, from 1."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


@dataclass(frozen=True)
class Page:
    """All that is shown of a table."""

    table: PaperTable
    grids: tuple[Grid, ...]
    notes: tuple[str, ...]
    models: tuple[tuple[str, str], ...]  # entries and where they differ from the paper
    sources: tuple[tuple[str, str], ...]  # the same of those that only images are made on
    samples: str


def page_of(table: PaperTable, rows: Sequence[Row]) -> Page:
    """A table's page; ``rows`` as they are stored."""
    notes = Notes()
    blocks = dict.fromkeys(row["beside"] for row in rows)
    grids = [_grid(block, [r for r in rows if r["beside"] == block], notes) for block in blocks]
    found = [row for row in rows if row["status"] == FOUND and row["differs"]]
    told = dict.fromkeys((row["entry"], row["differs"]) for row in found)
    made = dict.fromkeys((r["source"], r["source_differs"]) for r in found if r["source_differs"])
    samples = _samples(rows)
    sources = tuple(one for one in made if one not in told)
    return Page(table, tuple(grids), tuple(notes.texts), tuple(told), sources, samples)


def _samples(rows: Iterable[Row]) -> str:
    """How many, such as ``200, of attacks at any distance 100``; "" where none were counted."""
    counts: dict[str, set[int]] = {"": set(), "yes": set()}
    for row in rows:
        if row["samples"]:
            counts[row["at_any_distance"]].add(int(row["samples"]))
    within, free = (" or ".join(map(str, sorted(one))) for one in counts.values())
    if within and free and within != free:
        return f"{within}, of attacks at any distance {free}"
    return within or free


def _grid(title: str, rows: Sequence[Row], notes: Notes) -> Grid:
    grid = Grid(title, _names(rows, "row"), _names(rows, "column"))
    for row in rows:
        grid.cells[row["row"], row["column"]] = _shown(row, notes)
    for axis in ("row", "column"):
        one = {name: _entry([r for r in rows if r[axis] == name]) for name in _names(rows, axis)}
        told = [entry for entry in one.values() if entry]
        if told and None not in one.values() and (not grid.entries or len({*told}) > 1):
            grid.entries = {name: entry or "" for name, entry in one.items()}
            grid.models_in_rows = axis == "row"
    return grid


def _entry(rows: Iterable[Row]) -> str | None:
    """The entry of all rows that have one; None of several."""
    named = {row["entry"] for row in rows if row["entry"]}
    return None if len(named) > 1 else next(iter(named), "")


def _names(rows: Iterable[Row], axis: str) -> list[str]:
    return list(dict.fromkeys(row[axis] for row in rows))


def _shown(row: Row, notes: Notes) -> Shown:
    is_found = row["status"] == FOUND
    texts = [row["assumed"]] * bool(row["assumed"]) if is_found else [row["why"]]
    return Shown(
        paper=_paper(row),
        here=_short(row, "here") if is_found else "not run",
        here_interval=_interval(row, "here"),
        strongest=_short(row, "strongest") or "–" * bool(is_found and row["at_any_distance"]),
        strongest_interval=_interval(row, "strongest"),
        notes=tuple(notes.number(text) for text in texts),
        is_found=is_found,
    )


def _paper(row: Row) -> str:
    """The paper's number, of a share in percent."""
    is_share = row["unit"] == "fraction" and row["paper"]
    return f"{100 * float(row['paper']):g}" if is_share else row["paper"]


def _short(row: Row, name: str) -> str:
    """A share with one decimal, as intervals have them; anything else as it is stored."""
    return f"{float(row[name]):.1f}" if row[f"{name}_low"] else row[name]


def _interval(row: Row, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"[{float(low):.1f}, {float(high):.1f}]" if low and high else ""


def markdown(paper: Paper, table: PaperTable, rows: Sequence[Row]) -> str:
    """A table as Markdown."""
    page = page_of(table, rows)
    return _environment().get_template("table.md").render(paper=paper, page=page, legend=LEGEND)


def html(paper: Paper, tables: Sequence[tuple[PaperTable, Sequence[Row]]]) -> str:
    """One self-contained page of all tables that have rows: no network, no script."""
    pages = [page_of(table, rows) for table, rows in tables]
    return _environment().get_template("paper.html").render(paper=paper, pages=pages, legend=LEGEND)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("robusteval.papers"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"seen": inert.line, "markdown": inert.markdown}
    environment.filters.update(filters)
    return environment
