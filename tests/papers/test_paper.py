"""Papers as data: all numbers are there, each is mapped, and what is wrong is told in one line."""

import csv
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from robusteval.errors import PaperError, UnknownNameError
from robusteval.models.entry_tables import Claim
from robusteval.models.registry import find_entry
from robusteval.papers import paper as papers
from robusteval.papers.asked import at_scale, runs_of
from robusteval.papers.paper import Cell, cells_of, paper_names, read_paper
from robusteval.plan.suite import read_suite

PAPER = """
name = "small"
title = "A small paper"
strongest = ["pgd10"]

[[tables]]
number = "1"
title = "Accuracy"
data = "digits"
suite = "quick"
all = { read = "attack", norm = "Linf", eps = "0.15" }
[tables.rows]
Ours = { entry = "pcl_digits" }
Cited = { impossible = "cited only" }
[tables.columns]
Clean = { read = "clean" }
FGSM = { attack = "fgsm" }
"""
_ACCURACIES = ("clean", "attack")
NUMBERS = "row,column,value,unit\nOurs,Clean,99,%\nOurs,FGSM,80.5,%\nCited,Clean,98,%\n"


def laid(folder: Path, text: str = PAPER, numbers: str = NUMBERS) -> Path:
    (folder / "paper.toml").write_text(text, "utf-8")
    (folder / "1.csv").write_text(numbers, "utf-8")
    return folder / "paper.toml"


def cells(name: str) -> list[Cell]:
    paper = read_paper(name)
    return [cell for table in paper.tables for cell in cells_of(paper, table)]


def suites(name: str) -> set[str]:
    return {cell.suite for cell in cells(name) if cell.suite}


def test_all_numbers_of_the_four_papers_are_there() -> None:
    counts = {name: sum(bool(cell.value) for cell in cells(name)) for name in paper_names()}
    assert counts == {"drp": 54, "mpat": 221, "pcl": 654, "scpl": 389}


def test_each_file_of_numbers_belongs_to_a_table() -> None:
    for name in paper_names():
        paper = read_paper(name)
        files = {p.stem for p in paper.folder.glob("*.csv")}
        assert files - {"items"} == {t.file for t in paper.tables}


def test_numbers_are_those_of_the_entries_claims() -> None:
    """Typed twice, by different hands: the papers' tables, and what entries claim of them."""
    compared = 0
    for name in paper_names():
        for cell in cells(name):
            for claim in _claims(name, cell):
                assert _percent(cell) == claim.accuracy, (name, cell.table.name, cell.row, claim)
                compared += 1
    assert compared >= 200


def _claims(paper: str, cell: Cell) -> Iterator[Claim]:
    """What the cell's entry claims of this very cell."""
    meaning = cell.meaning
    if not cell.value or meaning.not_run or meaning.source or meaning.read not in _ACCURACIES:
        return
    try:
        entry = find_entry(meaning.entry)
    except UnknownNameError:
        return
    short = {"mpat": "multi-prototype"}.get(paper, paper.upper())
    own = entry.paper is not None and entry.paper.title == read_paper(paper).title
    attack = meaning.attack if meaning.read == "attack" else "clean"
    eps = "" if attack == "clean" or meaning.any_distance else meaning.eps
    for claim in entry.claims:
        whose, _, place = claim.source.rpartition("Table ")
        is_papers = own if not whose else whose in (f"{short}, ", f"{short} paper, ")
        is_table = place.split(",")[0] == cell.table.number
        if is_papers and is_table and claim.attack == attack and (claim.eps or eps) == eps:
            yield claim


def _percent(cell: Cell) -> float:
    return float(cell.value) * (100 if cell.unit == "fraction" else 1)


@pytest.mark.parametrize("name", ["drp", "mpat", "pcl", "scpl"])
def test_each_cell_is_in_its_suite(name: str) -> None:
    norms = {suite: {a.name: a.norms for a in read_suite(suite).attacks} for suite in suites(name)}
    for cell in cells(name):
        meaning = cell.meaning
        if meaning.attack and not meaning.not_run:
            assert meaning.read == "setting" or meaning.norm in norms[cell.suite][meaning.attack]
    paper = read_paper(name)
    for wanted in runs_of(paper, paper.tables, "small").values():
        assert wanted.suite_of(paper.strongest).norms == [wanted.key.norm]


def test_tables_share_runs() -> None:
    """PCL's Tables 3 and 4 ask for one run of a model at one ε, with the attacks of both."""
    paper = read_paper("pcl")
    third, fourth = (runs_of(paper, paper.chosen(n), "small") for n in ("3/CIFAR-10", "4/CIFAR-10"))
    (key,) = [k for k in fourth if k.entry == "pcl_cifar10"]
    assert third[key] == fourth[key]
    assert {"bim", "joint_bim"} <= {*third[key].attacks}


def test_the_papers_networks_at_its_scale() -> None:
    paper = read_paper("drp")
    named = {key.entry for key in runs_of(paper, paper.chosen("2"), "paper")}
    assert "drp_cifar10_resnet18" in named
    assert "drp_cifar10" not in named


@pytest.mark.parametrize("name", paper_names())
def test_no_two_models_are_one_at_the_papers_scale(name: str) -> None:
    """Each stands for itself, on a network of the kind that its paper names."""
    networks = read_paper(name).networks
    assert len({*networks.values()}) == len(networks)
    for small, large in networks.items():
        one, other = find_entry(small), find_entry(large)
        assert other.training is not None
        assert one.training is not None
        assert one.training.recipe == other.training.recipe
        assert one.head.similarity == other.head.similarity
        assert one.training.options.get("fit") == other.training.options.get("fit")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('number = "1"\n', "", "tables.0.number is missing"),
        ('eps = "0.15"', 'eps = "wide"', "tables.0.all.eps"),
        ('norm = "Linf"', 'norm = "L7"', "tables.0.all.norm must be"),
        ('attack = "fgsm"', 'atack = "fgsm"', "unknown field tables.0.columns.FGSM.atack"),
        ("Cited = {", "Sited = {", "row 'Sited' has no number: did you mean Cited?"),
        ('FGSM = { attack = "fgsm" }', "", "its column isn't mapped"),
        ('read = "attack", ', "", "read is missing"),
        ('suite = "quick"', "", "suite is missing"),
        ('attack = "fgsm"', 'entry = "ce_digits"', "row and column both give entry"),
        ('attack = "fgsm"', 'read = "detection"', "detector is missing"),
        ('name = "small"', 'name = "Small!"', "name: takes a-z"),
        ('entry = "pcl_digits"', 'entry = "pcl_digits", model = "big"', "model 'big': add it"),
        ("strongest", "models = { bg = { epochs = 5 } }\nstrongest", "no cell means 'bg'"),
        (
            "strongest",
            "models = { pcl_digits = { epochs = 0 } }\nstrongest",
            "models.pcl_digits.epo",
        ),
        (
            "strongest",
            'assumed = [{ attacks = ["fgms"], text = "no step" }]\nstrongest',
            "assumed: no cell is of 'fgms'",
        ),
        (
            "strongest",
            'assumed = [{ attacks = ["fgsm"], entries = ["pcl", "pcl_digits"],'
            ' text = "no step" }]\nstrongest',
            "assumed: no cell is of 'pcl'",
        ),
        ('name = "small"', 'name = "drp"', "drp is a paper of this project"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert read_paper(laid(tmp_path)).name == "small"
    with pytest.raises(PaperError, match=re.escape(said)) as told:
        read_paper(laid(tmp_path, PAPER.replace(old, new, 1)))
    assert "\n" not in str(told.value)
    assert "paper.toml" in str(told.value)


def test_a_single_cell_can_be_otherwise(tmp_path: Path) -> None:
    """Its own meaning goes over its row's and its column's; a name that isn't there is told."""
    own = 'cells.Ours.FGSM = { attack = "pgd10", assumed = "as cited" }\n[tables.rows]'
    paper = read_paper(laid(tmp_path, PAPER.replace("[tables.rows]", own)))
    read = {c.column: c.meaning for c in cells_of(paper, paper.tables[0]) if c.row == "Ours"}
    assert (read["FGSM"].attack, read["FGSM"].assumed) == ("pgd10", "as cited")
    assert (read["FGSM"].entry, read["FGSM"].norm) == ("pcl_digits", "Linf")
    assert read["Clean"].read == "clean"
    for wrong, said in ((".Ours.FGM", "cells: column 'FGM'"), (".Our.FGSM", "cells: row 'Our'")):
        other = own.replace(".Ours.FGSM", wrong)
        with pytest.raises(PaperError, match=f"{said} has no number"):
            read_paper(laid(tmp_path, PAPER.replace("[tables.rows]", other)))


def test_what_an_attack_leaves_open_is_told_in_each_of_its_cells(tmp_path: Path) -> None:
    """After the cell's own word, and once."""
    told = 'assumed = [{ attacks = ["fgsm"], text = "no step" }]\nstrongest'
    own = 'cells.Ours.FGSM = { assumed = "as cited" }\n[tables.rows]'
    text = PAPER.replace("strongest", told, 1).replace("[tables.rows]", own)
    paper = read_paper(laid(tmp_path, text))
    cells = cells_of(paper, paper.tables[0])
    read = {(c.row, c.column): c.meaning.assumed for c in cells}
    assert {at: said for at, said in read.items() if said} == {
        ("Ours", "FGSM"): "as cited; no step"
    }
    plain = read_paper(laid(tmp_path, PAPER.replace("strongest", told, 1)))
    said = [c.meaning.assumed for c in cells_of(plain, plain.tables[0]) if c.column == "FGSM"]
    assert "no step" in said


def test_a_source_stands_for_the_papers_model_at_its_scale_too(tmp_path: Path) -> None:
    told = (
        "models = { ce_digits = { epochs = 9 } }\nnetworks = { ce_digits = 'ce_mnist' }\nstrongest"
    )
    text = PAPER.replace("strongest", told, 1).replace('"fgsm" }', '"fgsm", source = "ce_digits" }')
    paper = read_paper(laid(tmp_path, text))
    (cell,) = [
        at_scale(paper, cell, "paper")
        for cell in cells_of(paper, paper.tables[0])
        if (cell.row, cell.column) == ("Ours", "FGSM")
    ]
    assert (cell.meaning.source, cell.meaning.source_model) == ("ce_mnist", "ce_digits")


def test_what_is_left_open_of_some_models_alone(tmp_path: Path) -> None:
    """Of a model trained by cross-entropy, an attack on its loss leaves nothing open."""
    told = (
        'assumed = [{ attacks = ["fgsm"], entries = ["pcl_digits"], text = "its loss" }]\nstrongest'
    )
    paper = read_paper(laid(tmp_path, PAPER.replace("strongest", told, 1)))
    read = {(c.beside, c.row): c.meaning for c in cells_of(paper, paper.tables[0])}
    assert {m.entry for m in read.values() if m.assumed} == {"pcl_digits"}
    scpl = read_paper("scpl")
    cells = [c for table in scpl.chosen("1/MNIST") for c in cells_of(scpl, table)]
    loss = {c.row for c in cells if "loss function used to train" in c.meaning.assumed}
    # LeNet's loss is the cross-entropy that is attacked.
    assert loss == {"DCE", "ATL", "ANL", "Ours"}


def test_what_stands_beside_has_the_tables_rows_if_it_gives_none(tmp_path: Path) -> None:
    beside = """
[[tables.beside]]
title = "at a smaller ε"
all = { read = "attack", norm = "Linf", eps = "0.05" }
"""
    paper = read_paper(laid(tmp_path, PAPER + beside))
    found = [c for c in cells_of(paper, paper.tables[0]) if c.beside]
    assert {(c.row, c.column) for c in found} == {
        ("Ours", "Clean"),
        ("Ours", "FGSM"),
        ("Cited", "Clean"),
    }
    assert {(c.meaning.eps, c.value) for c in found} == {("0.05", "")}


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("row,column\nOurs,Clean\n", "its header isn't row,column,value,unit"),
        (NUMBERS.replace("80.5", "80,5"), "line 3 holds no number"),
        (NUMBERS.replace("99", "="), "line 2 holds no number"),
        (NUMBERS + NUMBERS.splitlines()[1] + "\n", "stands 2 times"),
        ("", "can't be read"),
    ],
)
def test_numbers_that_are_none(tmp_path: Path, numbers: str, said: str) -> None:
    with pytest.raises(PaperError, match=said):
        read_paper(laid(tmp_path, numbers=numbers))


def test_names_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean pcl"):
        read_paper("pcll")
    with pytest.raises(UnknownNameError, match="has no table '3/MNISt-2'"):
        read_paper("pcl").chosen("3/MNISt-2")
    with pytest.raises(PaperError, match=r"no/paper\.toml"):
        read_paper("no/paper.toml")


def test_no_number_has_changed_since_it_was_read_beside_its_paper() -> None:
    """Each file was read twice, number by number, against the text.  Whoever changes one reads that
    one again, and writes its sha256sum into the list."""
    home = Path(papers.__file__).parent
    lines = (Path(__file__).parent / "numbers.sha256").read_text("utf-8").splitlines()
    read = dict(reversed(line.split("  ")) for line in lines)
    there = {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in paper_names()
        for table in read_paper(name).tables
        for path in [home / name / f"{table.file}.csv"]
    }
    assert read == there


def test_a_second_reading_of_one_table() -> None:
    """SCPL's Table 1 on MNIST as the paper's text has it, line by line."""
    text = """
    LeNet 99.39 11.9 1.66 76.98 26.31 99.01
    DCE 99.02 11.75 0.72 73.12 25.70 98.43
    """
    path = Path(papers.__file__).parent / "scpl" / "1_mnist.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    for line in text.split("\n")[1:-1]:
        name, *values = line.split()
        assert [float(r["value"]) for r in rows if r["row"] == name] == [*map(float, values)]


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    """Its name is its own too: tables go to a folder of that name."""
    place = shutil.copytree(read_paper("drp").folder, tmp_path / "mine") / "paper.toml"
    with pytest.raises(PaperError, match="drp is a paper of this project: choose another"):
        read_paper(place)
    place.write_text(place.read_text("utf-8").replace('name = "drp"', 'name = "mine"'), "utf-8")
    assert read_paper(place).tables == read_paper("drp").tables
