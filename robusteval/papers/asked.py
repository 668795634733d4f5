"""Which runs the cells of a paper take.

A run is one model under one suite at one ε, with all attacks that any of the paper's tables asks
for there, and the strongest beside them.  So tables share runs, whichever is asked for first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from robusteval.attacks.registry import find
from robusteval.catalogue import near_names
from robusteval.data.entry import MADE_TITLES
from robusteval.data.known import DATASETS
from robusteval.detection.metrics import METRICS
from robusteval.errors import PaperError, UnknownNameError, shown
from robusteval.papers.paper import Cell, Meaning, Paper, PaperTable, cells_of
from robusteval.plan.suite import AttackSpec, Detection, Suite, read_suite
from robusteval.types import Norm

Scale = Literal["small", "paper"]
SCALES: tuple[Scale, ...] = ("small", "paper")
SAMPLES, FEWER = 200, 100  # at the small scale; the latter of attacks at any distance
T = TypeVar("T")
_OF_RUNS = ("clean", "attack", "detection")


class Key(NamedTuple):
    """What a run is told apart by."""

    entry: str
    suite: str
    norm: Norm
    eps: str
    any_distance: bool

    def __str__(self) -> str:
        return f"{self.entry}, {Path(self.suite).stem}, {self.norm} {self.eps}"


@cache
def suite_named(name: str) -> Suite:
    """A suite, which is read once."""
    return read_suite(name)


@dataclass(frozen=True)
class Wanted:
    """A run: attacks by name, static transfers as attack and source, and whether detectors run."""

    key: Key
    attacks: tuple[str, ...] = ()
    transfers: tuple[tuple[str, str], ...] = ()
    detects: bool = False

    def with_cell(self, cell: Cell) -> "Wanted":
        """The same with what a cell asks for, too."""
        meaning = cell.meaning
        detects = self.detects or meaning.read == "detection"
        if meaning.read == "clean" or not meaning.attack:
            return replace(self, detects=detects)
        if is_transfer(cell):
            added = (meaning.attack, meaning.source)
            return replace(self, transfers=_once([*self.transfers, added]))
        return replace(self, attacks=_once([*self.attacks, meaning.attack]), detects=detects)

    def samples(self, scale: Scale, most: int | None = None) -> int | None:
        """How many, or ``most``; None for the whole test set."""
        if most is not None or scale == "paper":
            return most
        return FEWER if self.key.any_distance else SAMPLES

    def suite_of(self, strongest: Sequence[str]) -> Suite:
        """The suite with this run's attacks alone, at its ε."""
        whole, key = suite_named(self.key.suite), self.key
        meant = {*self.attacks, *(() if key.any_distance else strongest)}
        here = {a.name: _in(a, key.norm) for a in whole.attacks if key.norm in a.norms}
        plain = [attack for name, attack in here.items() if name in meant]
        made = [here[name].made_on(source) for name, source in self.transfers]
        named = {attack.name for attack in plain}
        detected = [name for name in whole.detection.attacks if name in named]
        detection = whole.detection.model_copy(update={"attacks": detected})
        content: dict[str, Any] = {
            "threats": {key.norm: [key.eps]},
            "attacks": [*plain, *made],
            "transferred": [],
            "detection": detection if self.detects else Detection(),
        }
        return whole.model_copy(update=content)


def require_askable(paper: Paper) -> None:
    """Raises PaperError where a suite lacks what a cell asks of it, or all suites one of the
    attacks that run beside."""
    cells = [cell for table in paper.tables for cell in cells_of(paper, table)]
    asking = [cell for cell in cells if cell.suite and not cell.meaning.not_run]
    for cell in asking:
        at = f"{paper.path}: {cell.table.name}: {cell.row} × {cell.column}"
        try:
            lacking = _lacking(cell)
        except UnknownNameError as error:
            raise PaperError(f"{at}: {error}") from None
        if lacking:
            raise PaperError(f"{at}: {lacking}")
    known = {a.name: None for cell in asking for a in suite_named(cell.suite).attacks}
    for field in ("strongest", "only_at_paper_scale") if known else ():
        for name in getattr(paper, field):
            if name not in known:
                raise PaperError(f"{paper.path}: {field}: {shown(name)}: {near_names(name, known)}")


def _lacking(cell: Cell) -> str:
    """What its suite can't give of what a cell asks, or ""; UnknownNameError of an attack."""
    suite, meaning = suite_named(cell.suite), cell.meaning
    attack = spec_of(cell) if meaning.attack else None
    if attack and meaning.read == "setting" and meaning.parameter not in settings_of(attack):
        known = ", ".join(settings_of(attack))
        return f"{attack.name} has no {shown(meaning.parameter)}: give one of {known}"
    if attack and meaning.read in _OF_RUNS and meaning.norm not in attack.norms:
        return f"{attack.name} of suite {suite.name} is not in {meaning.norm}: give another norm"
    if attack and meaning.any_distance and find(attack.library, attack.attack).knows_eps:
        return f"{attack.name} knows ε, and counts at no other distance: take any_distance out"
    return _lacking_detection(suite, meaning) if meaning.read == "detection" else ""


def _lacking_detection(suite: Suite, meaning: Meaning) -> str:
    """The same of what a detector is asked."""
    there = suite.detection
    asked: list[tuple[str, str, Iterable[str]]] = [
        ("detector", meaning.detector, there.detectors),
        ("metric", meaning.metric, METRICS),
    ]
    if meaning.against:
        asked.append(("outlier set", meaning.against, [*DATASETS, *MADE_TITLES]))
    else:
        asked.append(("detected attack", meaning.attack, there.attacks))
    for what, name, known in asked:
        if name not in known:
            return f"suite {suite.name} has no {what} {shown(name)}: {near_names(name, known)}"
    return ""


def spec_of(cell: Cell) -> AttackSpec:
    """The cell's attack, as its suite has it.  Raises UnknownNameError with near names."""
    (attack,) = suite_named(cell.suite).only([cell.meaning.attack]).attacks
    return attack


def settings_of(attack: AttackSpec) -> dict[str, Any]:
    """What a suite sets of an attack; one without steps takes one."""
    return {"steps": 1, **attack.parameters, **attack.times_eps}


def at_scale(paper: Paper, cell: Cell, scale: Scale) -> Cell:
    """The cell with the paper's own networks, where the paper's scale is asked for."""
    if scale == "small":
        return cell
    meaning = cell.meaning
    named = {name: getattr(meaning, name) for name in ("entry", "source")}
    own = {name: paper.networks.get(entry, entry) for name, entry in named.items()}
    return replace(cell, meaning=meaning.model_copy(update=own))


def key_of(cell: Cell, others: Iterable[Cell]) -> Key | None:
    """The run that a cell is read from; None where none is.

    Clean accuracy is read from that of the first attack on the same model in the same block.
    """
    meaning = cell.meaning
    if meaning.not_run or meaning.read not in _OF_RUNS:
        return None
    if meaning.read == "clean":
        beside = (c for c in others if _same_model(c, cell) and c.meaning.read == "attack")
        attacks = [c for c in beside if not c.meaning.not_run and not c.meaning.any_distance]
        meaning = attacks[0].meaning if attacks else meaning
    if meaning.norm is None or meaning.eps is None:
        return None
    return Key(meaning.entry, cell.suite, meaning.norm, meaning.eps, meaning.any_distance)


def runs_of(paper: Paper, tables: Sequence[PaperTable], scale: Scale) -> dict[Key, Wanted]:
    """The runs that some tables take, each with what all tables of the paper ask of it."""
    every = [[at_scale(paper, c, scale) for c in cells_of(paper, t)] for t in paper.tables]
    wanted: dict[Key, Wanted] = {}
    meant: dict[Key, None] = {}
    for table, cells in zip(paper.tables, every, strict=True):
        for cell in cells:
            if (key := key_of(cell, cells)) is None:
                continue
            wanted[key] = wanted.get(key, Wanted(key)).with_cell(cell)
            if table in tables:
                meant[key] = None
    return {key: wanted[key] for key in meant}


def attack_name(cell: Cell) -> str:
    """What the cell's attack is called in its run."""
    meaning = cell.meaning
    if not is_transfer(cell):
        return meaning.attack
    return spec_of(cell).made_on(meaning.source).name


def is_transfer(cell: Cell) -> bool:
    """Whether the attack runs on another model than the one it is counted on."""
    return bool(cell.meaning.source) and cell.meaning.source != cell.meaning.entry


def _same_model(one: Cell, other: Cell) -> bool:
    return (one.beside, one.meaning.entry) == (other.beside, other.meaning.entry)


def _in(attack: AttackSpec, norm: Norm) -> AttackSpec:
    return attack.model_copy(update={"norms": [norm]})


def _once(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
