"""The papers' items: each has a status, and all that a row points at is there."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytest

from benchmarks import papers, tables
from benchmarks.papers import COUNTED, NOTHING, STATUSES, Item, Part, items_of, status_of
from robusteval.data.known import DATASETS
from robusteval.detection.registry import find as find_detector
from robusteval.errors import RobustevalError
from robusteval.models.backbones import BACKBONES
from robusteval.models.registry import find_entry
from robusteval.papers.paper import Paper, paper_names, read_paper
from robusteval.plan.suite import read_suite
from robusteval.training import train  # noqa: F401 - it registers every recipe
from robusteval.training.recipe import RECIPES
from tests.helpers.documents import ROOT

KINDS = {
    *("table", "number", "figure", "diagram", "equation", "theory", "algorithm", "attack"),
    *("baseline", "metric", "backbone", "data"),
}
EVERY = [(name, item) for name in paper_names() for item in items_of(name)]
every = pytest.mark.parametrize(
    ("paper", "item"), EVERY, ids=[f"{name}-{item.kind}-{item.item}" for name, item in EVERY]
)
ITEM = Item("equation", "loss", "eq. 1", "covered", "recipe:drp", "")


def the_code(name: str) -> Any:
    """A module's function, class or method, by its dotted name."""
    module, _, rest = name.rpartition(".")
    assert name.startswith("robusteval."), name
    try:
        return getattr(import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(the_code(module), rest)


def the_attack(name: str) -> Any:
    suite, _, attack = name.partition("/")
    return read_suite(suite).only([attack])


def the_option(name: str) -> Any:
    recipe, _, option = name.partition(".")
    return RECIPES.get(recipe).defaults[option]


def the_document(name: str) -> Any:
    assert (ROOT / name).is_file(), name


LOOKED_UP: dict[str, Callable[[str], Any]] = {
    "entry": find_entry,
    "suite": read_suite,
    "attack": the_attack,
    "recipe": RECIPES.get,
    "option": the_option,
    "dataset": DATASETS.get,
    "detector": find_detector,
    "backbone": BACKBONES.get,
    "code": the_code,
    "doc": the_document,
}


def the_table(paper: Paper, name: str) -> Part:
    """A part of a table that has some column of it."""
    part = papers.part_named(paper, name)
    columns = {cell.column for cell in papers.cells_of(paper, part.table)}
    assert any(map(part.has, columns)), name
    return part


def wrong(paper: str, item: Item) -> list[str]:
    """What is wrong with a row."""
    said = []
    if item.kind not in KINDS:
        said.append(f"no kind {item.kind}")
    if item.status not in (*STATUSES, COUNTED):
        said.append(f"no status {item.status}")
    if (item.status == NOTHING) != (item.kind in ("diagram", "theory")):
        said.append("nothing to run is of drawings and theorems")
    if bool(item.lacking) == (item.status in ("covered", COUNTED)):
        said.append("what lacks is told of all but covered and counted ones")
    if item.status == "covered" and not item.here:
        said.append("covered by nothing")
    if (item.status == COUNTED) != any(kind == "table" for kind, _ in item.pointers):
        said.append("what points at tables is counted")
    if not item.item or not item.place:
        said.append("it has no name or no place")
    if item.kind == "baseline" and item.status == "covered" and not trained(item):
        said.append("a covered baseline was never trained")
    return [*said, *(f"{kind}:{name}" for kind, name in item.pointers if lost(paper, kind, name))]


def trained(item: Item) -> bool:
    """Whether a row names entries, and all of them were trained."""
    names = [name for kind, name in item.pointers if kind == "entry"]
    return bool(names) and all(find_entry(name).trained for name in names)


def lost(paper: str, kind: str, name: str) -> bool:
    """Whether a pointer leads nowhere."""
    try:
        if kind == "table":
            the_table(papers.paper_named(paper), name)
        else:
            LOOKED_UP[kind](name)
    except (RobustevalError, LookupError, AttributeError, ImportError, AssertionError, ValueError):
        return True
    return False


@every
def test_each_row_is_whole_and_points_at_what_is_there(paper: str, item: Item) -> None:
    assert wrong(paper, item) == []


@pytest.mark.parametrize("name", paper_names())
def test_no_item_stands_twice(name: str) -> None:
    found = Counter((item.kind, item.item) for item in items_of(name))
    assert [item for item, times in found.items() if times > 1] == []


@pytest.mark.parametrize("name", paper_names())
def test_each_table_of_numbers_is_an_item(name: str) -> None:
    """Whole, or in parts that share none of its columns and leave none out."""
    paper = papers.paper_named(name)
    pointers = [pointer for item in items_of(name) for pointer in item.pointers]
    parts = [papers.part_named(paper, table) for kind, table in pointers if kind == "table"]
    for table in paper.tables:
        for column in {cell.column for cell in papers.cells_of(paper, table)}:
            assert sum(part.table is table and part.has(column) for part in parts) == 1


@pytest.mark.parametrize(
    "pointer",
    [
        *("entry:drp_cifar", "suite:drq", "attack:drp/pgd21", "recipe:drq", "option:drp.metrik"),
        *("dataset:cifar11", "detector:rho", "backbone:lenet6", "doc:docs/no.md", "table:9"),
        *("table:2 with PGD 30", "code:robusteval.training.drp.no", "code:robusteval.no.no"),
        *("code:os.path.join", "paper:drp", "drp"),
    ],
)
def test_a_pointer_that_leads_nowhere_is_found(pointer: str) -> None:
    item = replace(ITEM, here=f"recipe:drp; {pointer}")
    assert wrong("drp", ITEM) == []
    assert any(pointer in said for said in wrong("drp", item))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "equasion"}, "no kind"),
        ({"status": "done"}, "no status"),
        ({"lacking": "a root"}, "what lacks"),
        ({"status": "partial"}, "what lacks"),
        ({"here": ""}, "covered by nothing"),
        ({"here": "table:2"}, "is counted"),
        ({"status": COUNTED}, "is counted"),
        ({"status": NOTHING, "lacking": "a drawing"}, "drawings and theorems"),
        ({"kind": "theory"}, "drawings and theorems"),
        ({"place": ""}, "no place"),
        ({"kind": "baseline"}, "never trained"),
        ({"kind": "baseline", "here": "entry:drp_cifar10_resnet18"}, "never trained"),
    ],
)
def test_a_row_that_is_wrong_is_found(changed: dict[str, str], said: str) -> None:
    assert any(said in one for one in wrong("drp", replace(ITEM, **changed)))


def test_a_table_is_what_its_numbers_are(tmp_path: Path) -> None:
    """With nothing stored, and by the columns that a row names."""
    drp, pcl = read_paper("drp"), read_paper("pcl")
    table = replace(ITEM, kind="table", status=COUNTED, here="table:3")
    assert status_of(drp, table, tmp_path) == "impossible"
    assert status_of(drp, replace(table, here="table:3; table:2"), tmp_path) == "missing"
    assert status_of(drp, ITEM, tmp_path) == "covered"
    black, white = (
        papers.counts(pcl, papers.part_named(pcl, f"3/MNIST {word} black-box *"), tmp_path)
        for word in ("with", "without")
    )
    assert (black.total(), white.total()) == (20, 24)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"covered": 2, "impossible": 3, "beside": 4}, "covered"),
        ({"covered": 2, "partial": 1}, "partial"),
        ({"covered": 2, "missing": 1}, "partial"),
        ({"partial": 2}, "partial"),
        ({"missing": 1, "impossible": 2}, "missing"),
        ({"impossible": 2, "beside": 2}, "impossible"),
    ],
)
def test_the_status_of_some_numbers(
    found: dict[str, int], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "counts", lambda *told: Counter(found))
    item = replace(ITEM, kind="table", status=COUNTED, here="table:2")
    assert status_of(read_paper("drp"), item) == status


def test_the_document_counts_every_item() -> None:
    """`python -m benchmarks.tables` writes it, and a test of all tables holds it to that."""
    lines = [*papers.item_overview()]
    text = (ROOT / "docs" / "papers.md").read_text("utf-8")
    assert "\n".join(["<!-- items -->", *lines, "<!-- /items -->"]) in text
    assert tables.TABLES["docs/papers.md"]["items"] is papers.item_overview
    assert lines[-1].startswith(f"| **all** | {len(EVERY)} | ")


def test_lists_come_with_the_package() -> None:
    for name in paper_names():
        place = resources.files("robusteval.papers") / name / "items.csv"
        header, *rows = place.read_text("utf-8").splitlines()
        assert header == "kind,item,place,status,here,lacking"
        assert len(rows) == len(items_of(name))
