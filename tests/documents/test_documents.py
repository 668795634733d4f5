"""What documents show runs: every snippet and command of README and docs, from top to bottom."""

import re
from pathlib import Path

import pytest

from tests.helpers.documents import Block, blocks_of, commands_of, pages, run_page


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page):
        assert block.kind, f"{page}, line {block.line}: name the block's language"


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


def test_blocks_and_commands_are_read() -> None:
    text = "$ one --a \\\n  b  # why\nprinted\n\n$ two\n"
    assert commands_of(text) == [("one --a    b", ["printed"]), ("two", [])]
    assert Block("python", "", 1).notes == {}
    assert all(re.search(r"\.md$", str(page)) for page in pages())


def test_a_block_that_needs_a_package_waits_for_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = "\n```python\nassert False\n```\n"
    page.write_text(f"<!-- needs: no-such-package -->{block}")
    assert run_page(page, tmp_path) == 0
    page.write_text(f"<!-- needs: torch -->{block}")
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)
