"""What documents show runs, and what they link to is there: README, CONTRIBUTING and docs."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks import picture
from robusteval import Report, __version__, evaluate
from robusteval.boards.board import read_board
from robusteval.plan.suite import read_suite
from robusteval.report.rows import ATTACK
from tests.helpers.documents import ROOT, blocks_of, commands_of, pages, run_page
from tests.helpers.links import anchors_of, broken_links

MOST = 8192  # bytes of the README
LONG = ("ci", "many_machines")  # they start processes
named = pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] * (page.stem in LONG))
        for page in pages()
    ],
)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@named
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page):
        assert block.kind, f"{page}, line {block.line}: name the block's language"


@named
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_model", "robusteval.evaluate(my_module, images, labels"),
        ("own_prototypes", "wrap_module(net, prototypes="),
        ("own_data", "def make():"),
        ("plugins", "DARKEN = Attack("),
        ("plugins", "GAP = Detector("),
        ("ci", "def test_it_withstands_attacks("),
    ],
)
def test_ten_lines_do(name: str, said: str) -> None:
    (block, *_) = [b for b in blocks_of(ROOT / "docs" / f"{name}.md") if said in b.text]
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 10


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A *head*, `code` & more\n\n## A head\n\n## A head\n")
    assert anchors_of(tmp_path / "other.md") == {"a-head-code--more", "a-head", "a-head-1"}
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](other.md) [b](other.md#a-head) [c](#here) [d](https://x.y)\n")
    assert broken_links(page) == []
    page.write_text(
        '[a](no.md) [b](other.md#no) [c](#no) <img src="no.png">\n```text\n[e](no.md)\n```\n'
    )
    assert broken_links(page) == ["no.md", "other.md#no", "#no", "no.png"]


def test_the_readme_is_short_and_has_a_picture() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.encode()) <= MOST
    assert "<img src=" in readme


def test_the_picture_is_of_todays_report(tmp_path: Path) -> None:
    """`python -m benchmarks.picture` makes it anew."""
    told = json.loads(picture.SHOWN.read_text("utf-8"))
    assert told["sha256"] == hashlib.sha256(picture.PICTURE.read_bytes()).hexdigest()
    report = evaluate(picture.MODEL, "quick", samples=10, only=["fgsm", "pgd_l2"])
    page = (tmp_path / report.folder / "report.html").read_text("utf-8")
    assert told["heads"] == picture.heads_of(page)
    titles = {a.name: a.title for a in read_suite("full").attacks if picture.NORM in a.norms}
    assert {name: title for name, (title, _) in told["bars"].items()} == titles
    for board, worst in zip(("Linf_0.15", "L2_0.6"), told["worst_case"], strict=True):
        rows = read_board(ROOT / "leaderboards" / f"digits_{board}.csv")
        (row,) = [row for row in rows if row["model"] == picture.MODEL]
        assert (told["clean"], worst) == (_rounded(row["clean"]), _rounded(row["worst_case"]))
        if row["norm"] == picture.NORM:
            found = {name: _rounded(row[f"{ATTACK}{name}"]) for name in told["bars"]}
            assert {name: rate for name, (_, rate) in told["bars"].items()} == found


def _rounded(percent: str) -> str:
    return f"{float(percent):.1f} %"


def test_the_page_names_every_frame_of_a_report() -> None:
    text = " ".join((ROOT / "docs" / "own_model.md").read_text("utf-8").split())
    listed = text[text.index("These are pandas frames:") : text.index("Rates are shares")]
    frames = {
        name
        for name, value in vars(Report).items()
        if isinstance(value, property) and "DataFrame" in str(value.fget.__annotations__)
    }
    assert set(re.findall(r"\.([a-z_]+)`", listed)) == frames


def test_every_page_is_in_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = set(re.findall(r"^[a-z_/]+$", index, re.MULTILINE))
    there = {str(p.relative_to(ROOT / "docs").with_suffix("")) for p in pages()[2:]}
    assert listed == there - {"index"}


def test_what_cites_the_project_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert cited["version"] == __version__
    assert cited["license"] == project["license"]
    assert [a["name"] for a in cited["authors"]] == [a["name"] for a in project["authors"]]
    log = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## {__version__} ({cited['date-released']})" in log
    assert f", robusteval {__version__}" in (ROOT / "docs" / "faq.md").read_text("utf-8")


def test_twelve_questions_are_answered() -> None:
    text = (ROOT / "docs" / "faq.md").read_text("utf-8")
    answers = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert len(answers) == 12
    assert all(answer.strip() for answer in answers)


def test_forms_for_issues_can_be_read() -> None:
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert isinstance(yaml.safe_load(form.read_text("utf-8")), dict)


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("x\n```python\nn = 1\n```\n\n```python\nassert n == 2\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)
    page.write_text("```console\n$ robusteval --version\nrobusteval …\nwhat it never prints\n```\n")
    with pytest.raises(AssertionError, match="did not print 'what it never prints'"):
        run_page(page, tmp_path)
    page.write_text("```console\n$ robusteval show nix\n```\n")
    with pytest.raises(AssertionError, match="exit code 2"):
        run_page(page, tmp_path)
    page.write_text("<!-- exit: 2 -->\n```console\n$ robusteval show nix\n```\n")
    assert run_page(page, tmp_path) == 1
    printing = "```python\nprint(1)\n```\n<!-- printed: above -->\n```text\n{}\n```\n"
    page.write_text(printing.format(1))
    assert run_page(page, tmp_path) == 1
    page.write_text(printing.format(2))
    with pytest.raises(AssertionError, match="did not print '2'"):
        run_page(page, tmp_path)


def test_only_the_seconds_of_a_row_may_differ(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = "```console\n$ echo '│ FGSM │ 44.7 % │ 0.3 │'\n│ FGSM │ {} % │ 0.1 │\n```\n"
    page.write_text(block.format("44.7"))
    assert run_page(page, tmp_path) == 1
    page.write_text(block.format("44.6"))
    with pytest.raises(AssertionError, match="did not print"):
        run_page(page, tmp_path)


def test_commands_are_read() -> None:
    text = "$ one --a \\\n  b  # why\nprinted\n\n$ two\n"
    assert commands_of(text) == [("one --a    b", ["printed"]), ("two", [])]


def test_a_block_that_needs_a_package_waits_for_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = "\n```python\nassert False\n```\n"
    page.write_text(f"<!-- needs: no-such-package -->{block}")
    assert run_page(page, tmp_path) == 0
    page.write_text(f"<!-- needs: torch -->{block}")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)
