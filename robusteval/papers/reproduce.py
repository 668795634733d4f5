"""A paper's tables, made here: runs, rows, pages.

Every run is an ordinary one: what is finished is kept, and each can be verified.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from robusteval import api, stops
from robusteval.errors import PaperError, RobustevalError
from robusteval.papers import pages
from robusteval.papers.asked import Key, Scale, Wanted, at_scale, runs_of
from robusteval.papers.found import (
    FOUND,
    UNTRAINED,
    Row,
    as_csv,
    looked_up,
    read_rows,
    rows_of,
    with_earlier,
)
from robusteval.papers.paper import Cell, Paper, PaperTable, cells_of
from robusteval.plan.suite import Suite
from robusteval.storage import replace_file, require_writable

Evaluate = Callable[[str, Suite, api.Options], api.Report]
_ELSEWHERE = "choose another folder with --tables"
AskedRun = tuple[str, Suite, api.Options]  # a model's name, and what it is run with
Tables = list[tuple[PaperTable, list[Row]]]


@dataclass
class Reproduction:
    """One paper's tables at a scale; ``table``: one number of them, or one part;
    ``samples``: another number of them than the scale's.

    ``folder``: where tables go, each paper's in a folder of its name.  ``evaluate_one`` is
    ``api.evaluate``, or what watches it.  ``told`` hears of each table.
    """

    paper: Paper
    options: api.Options
    folder: Path
    scale: Scale = "small"
    table: str | None = None
    samples: int | None = None
    evaluate_one: Evaluate = lambda name, suite, options: api.evaluate(name, suite, options=options)
    told: Callable[[Path], None] = lambda place: None
    reports: dict[Key, api.Report | RobustevalError] = field(default_factory=dict)

    @property
    def tables(self) -> list[PaperTable]:
        """Those that are meant.  Raises UnknownNameError with near names."""
        return self.paper.chosen(self.table)

    def runs(self, tables: Sequence[PaperTable] | None = None) -> dict[Key, Wanted]:
        """The runs that tables take, of all that are meant or of some."""
        return runs_of(self.paper, self.tables if tables is None else tables, self.scale)

    def by_model(self) -> dict[str, list[Wanted]]:
        """The runs of all tables that are meant, by their model."""
        found: dict[str, list[Wanted]] = {}
        for wanted in self.runs().values():
            found.setdefault(wanted.key.entry, []).append(wanted)
        return found

    def untrained(self) -> list[str]:
        """Entries that there are, and that have no weights yet."""
        cells = [at_scale(self.paper, c, self.scale) for c in self._cells()]
        meant = [cell.meaning for cell in cells if not cell.meaning.not_run]
        named = [name for m in meant for name in (m.entry, m.source) if name]
        return [name for name in dict.fromkeys(named) if is_untrained(name)]

    def _cells(self) -> Iterator[Cell]:
        return (cell for table in self.tables for cell in cells_of(self.paper, table))

    def asked(self, wanted: Wanted) -> AskedRun | None:
        """A run's model, suite and options; None where a model has no weights.

        A transfer from a model without weights is left out, and stands in no other's way.
        """
        if _lacks(wanted.key.entry):
            return None
        made = tuple(pair for pair in wanted.transfers if not _lacks(pair[1]))
        more = self.paper.only_at_paper_scale if self.scale == "paper" else []
        suite = replace(wanted, transfers=made).suite_of([*self.paper.strongest, *more])
        samples = wanted.samples(self.scale, self.samples)
        options = replace(self.options, samples=samples, at_most=True)
        return (wanted.key.entry, suite, options) if suite.attacks else None

    def make(self) -> Tables:
        """Runs what is missing, table by table, and writes each as soon as it is whole; then the
        page of all that are in the folder.

        A run that can't be made doesn't hold up the others.  A number that stands in the folder
        and can't be made now stays.  Raises what ``earlier`` raises, before anything runs.
        """
        folder = self.folder / self.paper.name
        require_writable(folder, _ELSEWHERE)
        earlier = self.earlier()
        done: list[str] = []
        made: Tables = []
        with stops.saying(lambda: f"tables finished before: {len(done)}" if done else ""):
            for table in self.tables:
                for key, wanted in self.runs([table]).items():
                    self._run(key, wanted)
                now = rows_of(self.paper, table, self.reports, self.scale)
                rows = with_earlier(now, earlier.get(table.file, []))
                self.told(write_one(self.paper, table, rows, folder))
                done.append(table.name)
                made.append((table, rows))
        every = stored_tables(self.paper, self.folder, self.paper.tables)
        self.told(write_page(self.paper, every, folder))
        return made

    def earlier(self) -> dict[str, list[Row]]:
        """The rows that stand in the folder, of all of the paper's tables, by their files.

        Raises PaperError where they can't be read, or where a table that is meant has another
        scale's.
        """
        return _standing(self.paper, self.folder, {t.file: self.scale for t in self.tables})

    def _run(self, key: Key, wanted: Wanted) -> None:
        if key in self.reports or (asked := self.asked(wanted)) is None:
            return
        try:
            self.reports[key] = self.evaluate_one(*asked)
        except RobustevalError as error:
            self.reports[key] = error


def _standing(paper: Paper, folder: Path, scales: Mapping[str, str]) -> dict[str, list[Row]]:
    """The rows of all of a paper's tables in a folder, by their files.

    ``scales``: those of the files that are to be written.  Raises PaperError where rows can't be
    read, or where numbers of another scale would be written over.
    """
    found = {table.file: rows for table, rows in stored_tables(paper, folder, paper.tables)}
    for file, scale in scales.items():
        rows = found.get(file, [])
        if other := {row["scale"] for row in rows if row["status"] == FOUND} - {scale}:
            place = folder / paper.name / f"{file}.csv"
            raise PaperError(f"{place} has numbers at the scale {min(other)}: {_ELSEWHERE}")
    return found


def is_untrained(name: str) -> bool:
    """Whether an entry is there and could be trained."""
    return _lacks(name).get("status") == UNTRAINED


def _lacks(name: str) -> Row:
    """What an entry lacks to be run."""
    return looked_up(name)[1]


def write_one(paper: Paper, table: PaperTable, rows: Sequence[Row], folder: Path) -> Path:
    """A table as CSV and Markdown; the latter's place."""
    _write(folder / f"{table.file}.csv", as_csv(rows))
    return _write(folder / f"{table.file}.md", pages.markdown(paper, table, rows))


def write_page(paper: Paper, tables: Tables, folder: Path) -> Path:
    """The page of all tables."""
    return _write(folder / "index.html", pages.html(paper, tables))


def _write(place: Path, text: str) -> Path:
    replace_file(place, text.encode(), _ELSEWHERE)
    return place


def stored_tables(paper: Paper, folder: Path, tables: Sequence[PaperTable]) -> Tables:
    """What stands in a folder of earlier tables; those that were never made are left out."""
    found = [(t, read_rows(folder / paper.name / f"{t.file}.csv", paper, t)) for t in tables]
    return [(table, rows) for table, rows in found if rows]


def rebuild(
    paper: Paper, stored: Path, folder: Path, tables: Sequence[PaperTable]
) -> Iterator[Path]:
    """Pages of stored rows alone, and the page of all tables in the folder; runs nothing.

    The numbers are those that are stored.  What the paper leaves open and what differs are told
    anew, and a number whose question the paper's file has changed since is gone.  Raises
    PaperError where there are none, or where they can't be read.
    """
    found = [
        (table, today(paper, table, rows)) for table, rows in stored_tables(paper, stored, tables)
    ]
    if not found:
        raise PaperError(
            f"no tables of {paper.name} in {stored}: `robusteval reproduce {paper.name}` makes them"
        )
    require_writable(folder / paper.name, _ELSEWHERE)
    _standing(paper, folder, {table.file: rows[0]["scale"] for table, rows in found})
    for table, rows in found:
        yield write_one(paper, table, rows, folder / paper.name)
    yield write_page(paper, stored_tables(paper, folder, paper.tables), folder / paper.name)


def today(paper: Paper, table: PaperTable, stored: Sequence[Row]) -> list[Row]:
    """Stored rows of a table with what is known today of what they answer."""
    scale: Scale = "paper" if stored[0]["scale"] == "paper" else "small"
    return with_earlier(rows_of(paper, table, {}, scale), stored)


def counted(tables: Tables) -> Mapping[str, int]:
    """How many numbers of the paper were found, of how many."""
    rows = [row for _, some in tables for row in some if row["paper"]]
    return {"found": sum(row["status"] == FOUND for row in rows), "all": len(rows)}
