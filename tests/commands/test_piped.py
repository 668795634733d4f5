"""Tables at narrow terminals, and rows in pipes."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.blocks import FGSM
from robusteval import api, listing, piped, terminal
from tests.helpers.commands import cli
from tests.helpers.entries import write_entry
from tests.helpers.runs import options

SUITE = (
    """
name = "few"
"""
    + FGSM
    + """
[[attacks]]
name = "pgd"
title = "PGD"
library = "torchattacks"
attack = "PGD"
norms = ["Linf"]
parameters = { steps = 2 }
"""
)
KINDS = ("models", "datasets", "attacks", "detectors", "suites")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two runs whose second attacks differ."""
    out = tmp_path_factory.mktemp("two")
    (out / "few.toml").write_text(SUITE)
    (out / "other.toml").write_text(SUITE.replace("steps = 2", "steps = 3"))
    return [
        str(
            api.evaluate(
                "pcl_digits", out / f"{name}.toml", options=options(out, samples=12)
            ).folder
        )
        for name in ("few", "other")
    ]


def rows_of(text: str) -> list[dict[str, str]]:
    """As a spreadsheet or pandas reads them."""
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("kind", KINDS)
def test_lists_in_a_pipe_are_the_rows_of_the_json(kind: str) -> None:
    shown = cli("list", kind).stdout
    assert not set("┃│━─\x1b") & set(shown)
    told = json.loads(cli("list", kind, "--json").stdout)
    rows = rows_of(shown)
    assert [row["name"] for row in rows] == [row["name"] for row in told]
    for row, plain in zip(rows, told, strict=True):
        assert None not in row  # as many values as headings
        for key, value in plain.items():
            if isinstance(value, str):
                assert row[key] == value
            elif isinstance(value, float):
                assert float(row[key]) == value
            elif value is None:
                assert row[key] == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [60, 80])
def test_narrow_lists_keep_headings_and_names(
    kind: str, columns: int, at_terminal: Callable[[int], None]
) -> None:
    at_terminal(columns)
    rows = listing.ROWS[kind](None)
    terminal_rows = cli("list", kind).stdout
    table, _, told = terminal_rows.partition("A wider terminal")
    assert max(map(len, terminal_rows.splitlines())) <= columns
    words = {word for line in table.splitlines() for word in line.replace("│", " ").split()}
    assert {row["name"] for row in rows} <= words
    assert "…" not in table.partition("Classes in the order")[0]
    headed = " ".join(table.partition("anl_at")[0].split()) if kind == "models" else table
    keys = {k for row in rows for k in row} - set(terminal._ONLY_IN_JSON) - {"problem"}
    for key in keys:  # its heading stands there, perhaps in two lines, or it is told to be left out
        heads = key.replace("_", " ").split()
        left_out = key.replace("_", " ") in " ".join(told.split())
        assert left_out or all(head in headed for head in heads), key
    assert "dataset" in headed or kind != "models"


@pytest.mark.parametrize("columns", [60, 80])
def test_narrow_comparisons_keep_headings_and_names(
    columns: int, two: list[str], at_terminal: Callable[[int], None]
) -> None:
    at_terminal(columns)
    shown = cli("compare", *two).stdout
    assert max(map(len, shown.splitlines())) <= columns
    text = " ".join(shown.replace("│", " ").replace("┃", " ").split())
    for run in two:
        assert Path(run).name in text
    for head in ("attack", "threat", "first", "second", "difference", "p"):
        assert f" {head} " in text
    assert "FGSM" in text
    assert "only first and only second, too" in text


def test_a_long_name_is_folded_not_cut(capsys: Any, at_terminal: Callable[[int], None]) -> None:
    at_terminal(20)
    name = "abcdefghijklmnopqrstuvwxyz0123456789"
    terminal.print_rows("models", [{"name": name, "dataset": "digits"}])
    lines = capsys.readouterr().out.splitlines()
    assert "".join(line.split(" ")[0] for line in lines[2:]) == name
    assert "dataset" in lines[1]


def test_comparisons_in_a_pipe(two: list[str]) -> None:
    rows = rows_of(cli("compare", *two).stdout)
    (pair,) = json.loads(cli("compare", *two, "--json").stdout)["pairs"]
    compared = [row for row in rows if not row["note"]]
    assert len(compared) == len(pair["rows"])
    for row, told in zip(compared, pair["rows"], strict=True):
        assert row["attack"] == told["attack"]
        assert float(row["first"]) == told["first"]["value"]
        assert float(row["difference"]) == told["difference"]
        assert float(row["p"]) == told["p"]
        assert int(row["only_second"]) == len(told["only_second"])
    others = [row["attack"] for row in rows if row["note"]]
    assert others == [*pair["only_in_one"], *pair["not_alike"]] != []


def test_checks_in_a_pipe(two: list[str]) -> None:
    rows = rows_of(cli("verify", two[0]).stdout)
    told = json.loads(cli("verify", two[0], "--json").stdout)
    assert [row["check"] for row in rows] == [check["name"] for check in told]
    assert {row["verdict"] for row in rows} == {"holds", "as the run says"}
    checked = cli("leaderboard", "check")
    assert all(row["verdict"] for row in rows_of(checked.stdout))
    assert "A row cannot" in checked.stderr or len(checked.stderr.split()) > 5


def test_an_entry_in_a_pipe_has_a_line_for_each_field(tmp_path: Path) -> None:
    long = "word " * 60
    claims = f'[[claims]]\nattack = "clean"\naccuracy = 90\nnote = "{long}"\n'
    shown = cli("show", str(write_entry(tmp_path, extra=claims))).stdout
    assert any(long.strip() in line for line in shown.splitlines())


def test_text_of_others_breaks_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    piped.print_tsv(
        [{"a\tb": "x\ty\nz", "n": 1, "f": 0.1, "none": None, "b": True, "d": {}}], ["e"]
    )
    assert capsys.readouterr().out == "a b\tn\tf\tnone\tb\te\nx y z\t1\t0.1\t\ttrue\t\n"


@pytest.mark.parametrize("arguments", [("list",), ("list", "datasets"), ("show", "pcl_digits")])
def test_head_ends_well(arguments: tuple[str, ...]) -> None:
    """The reader leaves after the first line; the exit code is still the verb's."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "robusteval", *arguments], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert os.read(read, 4)
    os.close(read)
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()
