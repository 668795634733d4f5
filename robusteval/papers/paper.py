"""A paper as data: the numbers of its tables, and what each row and column is.  Imports no torch.

A paper is a folder with a ``paper.toml`` and a CSV file for each table, with the columns ``row``,
``column``, ``value`` and ``unit``.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from robusteval.catalogue import near_names
from robusteval.errors import PaperError, UnknownNameError, shown
from robusteval.reading import named, named_path, read_toml
from robusteval.schema import STRICT, Eps, checked, plain_name, require_plain
from robusteval.storage import reason
from robusteval.types import Norm

Read = Literal["clean", "attack", "detection", "setting", "epochs", "minutes", "seconds_an_epoch"]
_FILE = "paper.toml"
_HOME = Path(__file__).resolve().parent
_COLUMNS = ["row", "column", "value", "unit"]
_REASONS = ("assumed", "impossible", "later")  # of which a cell may have several
# What a cell needs, by what is read.
_NEEDS = {
    "clean": ("entry",),
    "attack": ("entry", "attack", "norm", "eps"),
    "detection": ("entry", "detector", "metric", "norm", "eps"),
    "setting": ("attack", "parameter"),
    **dict.fromkeys(("epochs", "minutes", "seconds_an_epoch"), ("entry",)),
}


class _Table(BaseModel):
    model_config = STRICT


class Meaning(_Table):
    """What a row, a column, or all cells of a table are; a cell is all three together.

    - ``entry``: the model; ``source``: one that the attack runs on, and its images are counted on
      ``entry``; ``model``, ``source_model``: which of the paper's models these stand for, by its
      name in the paper's ``models``, where that isn't the entry's own.
    - ``read``: what is read of it.  An ``attack``, by its name in the suite, at ``norm`` and
      ``eps``, or at ``any_distance``, if it knows no ε.  A ``metric`` of a ``detector``, on the
      outliers ``against`` or else on the attack's images.  A ``parameter`` of the attack.
    - ``assumed``: what the paper leaves open, and how it is read here.
    - ``impossible``, ``later``: why there is no number here, for good or for now.
    """

    entry: str = ""
    source: str = ""
    model: str = ""
    source_model: str = ""
    read: Read | None = None
    attack: str = ""
    norm: Norm | None = None
    eps: Eps | None = None
    any_distance: bool = False
    detector: str = ""
    against: str = ""
    metric: str = ""
    parameter: str = ""
    assumed: str = ""
    impossible: str = ""
    later: str = ""

    @property
    def not_run(self) -> str:
        """Why it has no number, if it has none."""
        return self.impossible or self.later


Meanings = dict[str, Meaning]


class Block(_Table):
    """Cells in a table's rows and columns; in a ``beside`` what isn't given is the table's own.

    ``cells``: by row and column, what a single cell is otherwise.
    """

    title: str
    suite: str = ""
    all: Meaning = Meaning()
    rows: Meanings = {}
    columns: Meanings = {}
    cells: dict[str, Meanings] = {}


class PaperTable(Block):
    """One table, or a part of it.  ``beside``: what stands in for models or data that can't be had,
    under its own title, and without the paper's numbers."""

    number: str
    part: str = ""
    data: str
    notes: list[str] = []
    beside: list[Block] = []

    @property
    def file(self) -> str:
        """Such as ``3_cifar_10``: the name of its files, without an ending."""
        return re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")

    @property
    def name(self) -> str:
        """Such as ``3/CIFAR-10``."""
        return f"{self.number}/{self.part}" if self.part else self.number

    @property
    def heading(self) -> str:
        """Such as ``Table 3, CIFAR-10``."""
        first = f"Table {self.number}" if self.number[:1].isdigit() else self.number.capitalize()
        return f"{first}, {self.part}" if self.part else first

    def whole(self, block: Block) -> Block:
        """A block beside, with what it leaves to the table."""
        given = {name: getattr(block, name) for name in block.model_fields_set}
        own = {name: getattr(self, name) for name in ("suite", "all", "rows", "columns")}
        return Block.model_construct(**{**dict(Block(title="")), **own, **given})


class PaperModel(_Table):
    """What the paper tells of a model of its own, as far as one here differs; no word of what it
    leaves open."""

    backbone: str = ""
    epochs: int | None = Field(default=None, ge=1)
    training: str = ""
    augmentation: str = ""
    note: str = ""


class Assumed(_Table):
    """What the paper leaves open of attacks of its suites, on some entries or on all."""

    attacks: list[str] = Field(min_length=1)
    entries: list[str] = []
    text: str = Field(min_length=1)

    def is_of(self, meaning: Meaning) -> bool:
        """Whether a cell reads what such an attack leaves of such an entry."""
        is_meant = not self.entries or meaning.entry in self.entries
        return meaning.read == "attack" and meaning.attack in self.attacks and is_meant


class Headline(_Table):
    """A cell that tells what the paper claims; ``under``: which attack, where the column isn't."""

    table: str
    row: str
    column: str
    under: str = ""


class Paper(_Table):
    """A paper: whose it is, its tables, and how they are made here.

    ``strongest``: attacks of its suites that run beside those that a cell asks for;
    ``only_at_paper_scale``: those that run beside them there, and take too long elsewhere.
    ``networks``: entries of the paper's own networks, by the entries that stand for them at a
    small scale.
    ``models``: the paper's models, by the entries that stand for them, or by a name that a row or
    column gives.
    ``assumed``: what it leaves open of an attack, in every cell that reads what that attack leaves.
    ``headlines``: the cells that a summary of the paper tells.
    """

    name: Annotated[str, AfterValidator(plain_name)]
    title: str
    authors: str = ""
    year: int | None = None
    strongest: list[str] = []
    only_at_paper_scale: list[str] = []
    notes: list[str] = []
    networks: dict[str, str] = {}
    models: dict[str, PaperModel] = {}
    assumed: list[Assumed] = []
    headlines: list[Headline] = []
    tables: list[PaperTable] = Field(min_length=1)
    path: Path = Field(default=Path(), exclude=True)

    _all_is_plain = model_validator(mode="before")(require_plain)

    @property
    def folder(self) -> Path:
        """Where its file and its numbers lie."""
        return self.path.parent

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [table.file for table in self.tables]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tables: {', '.join(sorted(doubled))} stands twice")
        return self

    def chosen(self, number: str | None) -> list[PaperTable]:
        """Its tables, those of one number (``3``), or one part (``3/MNIST``).

        Raises UnknownNameError with near names.
        """
        if number is None:
            return self.tables
        meant = [t for t in self.tables if number.lower() in (t.number.lower(), t.name.lower())]
        if not meant:
            known = dict.fromkeys(
                [*(t.number for t in self.tables), *(t.name for t in self.tables)]
            )
            raise UnknownNameError(
                f"{self.name} has no table {shown(number)}: {near_names(number, known)}"
            )
        return meant


@dataclass(frozen=True)
class Cell:
    """One cell: where it stands, the paper's number as it prints it ("" in a block beside), and
    what it is."""

    table: PaperTable
    beside: str
    row: str
    column: str
    value: str
    unit: str
    suite: str
    meaning: Meaning


def paper_names() -> list[str]:
    """The papers that come with the project."""
    return sorted(path.parent.name for path in _HOME.glob(f"*/{_FILE}"))


def read_paper(name_or_path: str | os.PathLike[str]) -> Paper:
    """A paper by its name, or by the path of its ``paper.toml``.

    Raises UnknownNameError with near names, or PaperError with the file, the field and the mend.
    """
    name, known = named(name_or_path, "paper", PaperError), paper_names()
    if name.lower().endswith(".toml") or os.sep in name:
        path = named_path(name, "paper's file", PaperError)
    elif name in known:
        path = _HOME / name / _FILE
    else:
        raise UnknownNameError(f"unknown paper {shown(name)}: {near_names(name, known)}")
    content = read_toml(path, "paper's file", PaperError)
    paper = checked(Paper, content, str(path), PaperError)
    if paper.name in known and path.parent.resolve() != _HOME / paper.name:
        raise PaperError(f"{path}: name: {paper.name} is a paper of this project: choose another")
    paper = paper.model_copy(update={"path": path})
    cells = [cell for table in paper.tables for cell in cells_of(paper, table)]  # each is whole
    _require_meant(paper, cells)
    stood = {(cell.table.name, cell.row, cell.column) for cell in cells}
    for one in paper.headlines:
        if (one.table, one.row, one.column) not in stood:
            raise PaperError(f"{path}: headlines: {one.table}, {one.row} × {one.column} is no cell")
    return paper


def _require_meant(paper: Paper, cells: Sequence[Cell]) -> None:
    """Raises PaperError where a cell's model isn't told of, or where one is, or an attack, that no
    cell means."""
    meanings = [cell.meaning for cell in cells]
    meant = {name for m in meanings for name in (m.model, m.source_model)}
    own = {name for m in meanings for name in (m.entry, m.source)}
    if unknown := sorted(meant - own - {*paper.models}):
        raise PaperError(f"{paper.path}: model {shown(unknown[0])}: add it to models")
    if unmeant := [name for name in paper.models if name not in meant]:
        raise PaperError(f"{paper.path}: models: no cell means {shown(unmeant[0])}: take it out")
    for one in paper.assumed:
        used = [m for m in meanings if one.is_of(m)]
        idle = {*one.attacks} - {m.attack for m in used} | {*one.entries} - {m.entry for m in used}
        if idle:
            raise PaperError(
                f"{paper.path}: assumed: no cell is of {shown(min(idle))}: take it out"
            )


def cells_of(paper: Paper, table: PaperTable) -> list[Cell]:
    """The cells of a table, in the paper's order, and those beside it.

    Raises PaperError where the numbers can't be read, or a cell isn't whole.
    """
    numbers = _numbers(paper.folder / f"{table.file}.csv")
    where = f"{paper.path}: {table.name}"
    rows, columns = ({number[axis]: None for number in numbers} for axis in ("row", "column"))
    for block in (table, *table.beside):
        _require_known(block.rows, rows, f"{where}: row")
        _require_known(block.columns, columns, f"{where}: column")
        for row, own in block.cells.items():
            _require_known([row], rows, f"{where}: cells: row")
            _require_known(own, columns, f"{where}: cells: column")
    found = [*_block(table, table, "", numbers, where)]
    for block in table.beside:
        whole = table.whole(block)
        meant = [n for n in numbers if n["row"] in whole.rows and n["column"] in whole.columns]
        plain = [number | {"value": ""} for number in meant]
        found += _block(table, whole, block.title, plain, f"{where}, {block.title}")
    return [replace(c, meaning=_with_assumed(c.meaning, paper.assumed)) for c in found]


def _block(
    table: PaperTable, block: Block, beside: str, numbers: Iterable[Mapping[str, str]], where: str
) -> Iterator[Cell]:
    for number in numbers:
        at = f"{where}: {number['row']} × {number['column']}"
        meaning = _together(block, number["row"], number["column"], at)
        _require_whole(meaning, block.suite, at)
        yield Cell(table, beside, suite=block.suite, meaning=meaning, **number)


def _together(block: Block, row: str, column: str, where: str) -> Meaning:
    """All cells' meaning, over it the row's and the column's, and over these the cell's own."""
    axes = [meanings.get(name) for meanings, name in ((block.rows, row), (block.columns, column))]
    if None in axes and not block.all.not_run and not any(axis and axis.not_run for axis in axes):
        lacking = "row" if axes[0] is None else "column"
        raise PaperError(f"{where}: its {lacking} isn't mapped: add it to the table's {lacking}s")
    own = block.cells.get(row, {}).get(column)
    given = [one.model_dump(exclude_unset=True) for one in (block.all, *axes, own) if one]
    content: dict[str, Any] = {}
    for one in given:
        content |= {name: value for name, value in one.items() if name not in _REASONS}
    for name in _REASONS:
        told = dict.fromkeys(one[name] for one in given if one.get(name))
        content[name] = "; ".join(told)
    if doubled := _contradictions(*axes):
        raise PaperError(f"{where}: row and column both give {doubled[0]}: leave one out")
    for model, entry in (("model", "entry"), ("source_model", "source")):
        content[model] = content.get(model) or content.get(entry, "")
    return Meaning(**content)


def _with_assumed(meaning: Meaning, assumed: Iterable[Assumed]) -> Meaning:
    """After what the cell tells itself, what the paper leaves open of its attack."""
    texts = [one.text for one in assumed if one.is_of(meaning)]
    told = dict.fromkeys([meaning.assumed] * bool(meaning.assumed) + texts)
    return meaning.model_copy(update={"assumed": "; ".join(told)})


def _contradictions(*axes: Meaning | None) -> list[str]:
    first, second = (axis.model_dump(exclude_unset=True) if axis else {} for axis in axes)
    return [n for n in first if n in second and first[n] != second[n] and n not in _REASONS]


def _require_whole(meaning: Meaning, suite: str, where: str) -> None:
    if meaning.not_run:
        return
    if meaning.read is None:
        raise PaperError(f"{where}: read is missing: say what is read")
    needs = [name for name in _NEEDS[meaning.read] if not getattr(meaning, name)]
    if meaning.read == "detection" and not (meaning.against or meaning.attack):
        needs.append("against")
    if needs or not suite:
        raise PaperError(f"{where}: {[*needs, 'suite'][0]} is missing: give it")


def _require_known(given: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise PaperError(f"{where} {shown(name)} has no number: {near_names(name, known)}")


def _numbers(path: Path) -> Sequence[dict[str, str]]:
    try:
        text = path.read_text("utf-8")
        header, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise PaperError(f"table {path} can't be read ({reason(error)}): restore it") from None
    if header != _COLUMNS:
        raise PaperError(f"{path}: its header isn't {','.join(_COLUMNS)}: restore it")
    for place, line in enumerate(lines, 2):
        if len(line) != len(header) or not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", line[2]):
            raise PaperError(f"{path}: line {place} holds no number in its third cell: mend it")
    numbers = [dict(zip(header, line, strict=True)) for line in lines]
    stood = Counter((number["row"], number["column"]) for number in numbers)
    for (row, column), times in stood.items():
        if times > 1:
            raise PaperError(f"{path}: {row} × {column} stands {times} times: leave one")
    return numbers
