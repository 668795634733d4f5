"""What of the papers' tables stands in ``leaderboards/reproductions``, and what it says.

    python -m benchmarks.papers

A number of a paper is *covered* where the same attack on the same data set is stored, or a suite
has the setting, *partial* where the paper leaves one of its settings open, or where it is a length
or a time of training, *impossible* where its data or model can't be had here, and else *missing*.
What stands beside a table, on other data or of another model, is counted by itself: it answers no
number of the paper.

An *item* is a table, figure, equation, attack, baseline, metric, network or data set of a paper.
``robusteval/papers/*/items.csv`` has a row for each, with these columns:

- ``kind``, ``item``, ``place``: what it is, and where it stands in the paper.
- ``status``: a number's four; ``nothing to run`` of drawings and theorems; ``counted`` of what has
  numbers in a table, whose status comes from these.  Partial is also what the paper leaves open.
  Lengths, rates and weights of trainings don't count, and a network's size counts once, as its own
  item.
- ``here``: where it is, several separated by "; ", each a kind and a name: ``entry``, ``suite``,
  ``attack`` (SUITE/NAME), ``recipe``, ``option`` (RECIPE.NAME), ``table`` of that paper,
  ``dataset``, ``detector``, ``backbone``, ``code`` (a dotted name), ``doc`` (a file).  A table may
  go on with its columns: ``table:3/MNIST with black-box *``, or ``without``.
- ``lacking``: what is not there or differs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from benchmarks import stored as csv_files
from robusteval.papers.found import FOUND, Row, read_rows
from robusteval.papers.paper import (
    Cell,
    Headline,
    Paper,
    PaperTable,
    cells_of,
    paper_names,
    read_paper,
)

STORED = Path(__file__).resolve().parent.parent / "leaderboards" / "reproductions"
KINDS = ("covered", "partial", "missing", "impossible")
NOT_YET = "not run yet"
NOTHING, COUNTED = "nothing to run", "counted"
STATUSES = (*KINDS, NOTHING)  # of items


@dataclass(frozen=True)
class Item:
    """A row of ``items.csv``."""

    kind: str
    item: str
    place: str
    status: str
    here: str
    lacking: str

    @property
    def pointers(self) -> list[tuple[str, str]]:
        """What ``here`` points at: kinds and names."""
        parts = (pointer.partition(":") for pointer in self.here.split("; ") if pointer)
        return [(kind, name) for kind, _, name in parts]


@dataclass(frozen=True)
class Part:
    """A table of a paper, and the pattern that its columns match, or that they don't."""

    table: PaperTable
    pattern: str = "*"
    matches: bool = True

    def has(self, column: str) -> bool:
        """Whether a column belongs to it."""
        return fnmatchcase(column, self.pattern) is self.matches


@cache
def paper_named(name: str) -> Paper:
    """A paper, which is read once."""
    return read_paper(name)


def rows_of(paper: Paper, table: PaperTable, stored: Path = STORED) -> list[Row]:
    """The stored rows of a table; none where it was never made."""
    return read_rows(stored / paper.name / f"{table.file}.csv", paper, table)


def counts(paper: Paper, part: Part, stored: Path = STORED) -> Counter[str]:
    """How many of a table's numbers are of each kind, and how many stand ``beside`` it."""
    rows = rows_of(paper, part.table, stored)
    if not rows:
        cells = [c for c in cells_of(paper, part.table) if c.value and part.has(c.column)]
        return Counter("impossible" if c.meaning.impossible else "missing" for c in cells)
    rows = [row for row in rows if part.has(row["column"])]
    found = Counter(_kind(row) for row in rows if row["paper"])
    found["beside"] = sum(bool(row["beside"]) and row["status"] == FOUND for row in rows)
    return found


def _kind(row: Row) -> str:
    if row["status"] == FOUND:
        is_of_training = row["entry"] and not row["here_low"]  # no share: epochs, or a time
        return "partial" if row["assumed"] or is_of_training else "covered"
    return "impossible" if row["status"] == "impossible" else "missing"


def overview(stored: Path = STORED) -> Iterator[str]:
    """The counts of each table, of each paper, and of all."""
    yield f"| paper | table | numbers | {' | '.join(KINDS)} | beside |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    every: Counter[str] = Counter()
    for paper in map(paper_named, paper_names()):
        of_paper: Counter[str] = Counter()
        for table in paper.tables:
            here = counts(paper, Part(table), stored)
            of_paper += here
            yield _line(paper.name, table.name, here)
        every += of_paper
        yield _line(f"**{paper.name}**", "all", of_paper)
    yield _line("**all**", "", every)


def _line(paper: str, table: str, here: Counter[str]) -> str:
    total = sum(here[kind] for kind in KINDS)
    told = [paper, table, str(total), *(str(here[kind]) for kind in (*KINDS, "beside"))]
    return f"| {' | '.join(told)} |"


def items_of(name: str) -> list[Item]:
    """A paper's items, in its order."""
    return csv_files.read(paper_named(name).folder / "items.csv", Item)


def part_named(paper: Paper, name: str) -> Part:
    """What a pointer to a table names, such as ``3/MNIST with black-box *``.

    Raises LookupError where the paper has no such table.
    """
    tables = {table.name: table for table in paper.tables}
    for word in (" with ", " without "):
        table, found, pattern = name.partition(word)
        if found:
            return Part(tables[table], pattern, matches=word == " with ")
    return Part(tables[name])


def status_of(paper: Paper, item: Item, stored: Path = STORED) -> str:
    """The status of an item, of one with numbers by these.

    Covered: all that can be had are; partial: some number is there; missing: none is.
    """
    if item.status != COUNTED:
        return item.status
    parts = [part_named(paper, name) for kind, name in item.pointers if kind == "table"]
    found = sum((counts(paper, part, stored) for part in parts), Counter[str]())
    if found["covered"] and not found["partial"] + found["missing"]:
        return "covered"
    if found["covered"] + found["partial"]:
        return "partial"
    return "missing" if found["missing"] else "impossible"


def item_overview(stored: Path = STORED) -> Iterator[str]:
    """How many items of each paper, and of all, have each status."""
    yield f"| paper | items | {' | '.join(STATUSES)} |"
    yield "|---|" + "---:|" * (1 + len(STATUSES))
    every: Counter[str] = Counter()
    for name in paper_names():
        here = Counter(status_of(paper_named(name), item, stored) for item in items_of(name))
        every += here
        yield _item_line(name, here)
    yield _item_line("**all**", every)


def _item_line(paper: str, here: Counter[str]) -> str:
    told = [paper, str(here.total()), *(str(here[status]) for status in STATUSES)]
    return f"| {' | '.join(told)} |"


def summary(name: str, stored: Path = STORED) -> Iterator[str]:
    """A paragraph: what a paper claims, what the same attack leaves here, what the strongest leave,
    and how the models differ from the paper's."""
    paper = paper_named(name)
    whose = f"{paper.authors}, *{paper.title}* ({paper.year})"
    sentences = [f"{whose}, prints {_printed(paper)}."]
    differs: dict[str, str] = {}
    for headline in paper.headlines:
        (table,) = paper.chosen(headline.table)
        row = _row(rows_of(paper, table, stored), headline)
        clean = _clean(paper, table, headline.row, rows_of(paper, table, stored))
        is_told = any(clean in sentence for sentence in sentences)
        sentences.append(_claim(paper, table, headline, row, "" if is_told else clean))
        if row and row["differs"]:
            differs[row["entry"]] = row["differs"]
    sentences += [f"`{entry}` differs: {told}." for entry, told in differs.items()]
    yield " ".join(sentences)


def _printed(paper: Paper) -> str:
    numbers = [c.table for table in paper.tables for c in cells_of(paper, table) if c.value]
    in_text = sum(table.number == "text" for table in numbers)
    more = f" and {in_text} in its text" if in_text else ""
    return f"{len(numbers) - in_text} numbers in tables{more}"


def _row(rows: Sequence[Row], headline: Headline) -> Row | None:
    meant = [r for r in rows if (r["row"], r["column"]) == (headline.row, headline.column)]
    return next((row for row in meant if row["paper"]), None)


def _clean(paper: Paper, table: PaperTable, name: str, rows: Sequence[Row]) -> str:
    """The clean accuracy of a row of the table, the paper's and ours; empty where one lacks."""
    cells = [c for c in cells_of(paper, table) if c.row == name and c.meaning.read == "clean"]
    cell = next((cell for cell in cells if cell.value), None)
    if cell is None:
        return ""
    found = _row(rows, Headline(table=table.name, row=name, column=cell.column))
    if found is None or found["status"] != FOUND:
        return ""
    return f" Clean accuracy is {_percent(cell):g} % there and {_rate(found, 'here')} here."


def _percent(cell: Cell) -> float:
    return 100 * float(cell.value) if cell.unit == "fraction" else float(cell.value)


def _claim(paper: Paper, table: PaperTable, headline: Headline, row: Row | None, clean: str) -> str:
    cell = next(
        cell
        for cell in cells_of(paper, table)
        if (cell.row, cell.column) == (headline.row, headline.column)
    )
    value = _percent(cell)
    under = headline.under or headline.column
    told = f"It claims {value:g} % under {under} ({table.heading}, “{headline.row}”)"
    if row is None or row["status"] != FOUND:
        return f"{told}: {NOT_YET}."
    return (
        f"{told}: here the same attack leaves {_rate(row, 'here')} of `{row['entry']}`, the "
        f"strongest together {_rate(row, 'strongest')}, of {row['samples']} samples.{clean}"
    )


def _rate(row: Row, name: str) -> str:
    low, high = (float(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{float(row[name]):.1f} % [{low:.1f}, {high:.1f}]"


def main() -> None:
    for line in overview():
        print(line)
    print()
    for line in item_overview():
        print(line)
    for name in paper_names():
        print()
        for line in summary(name):
            print(line)


if __name__ == "__main__":
    main()
