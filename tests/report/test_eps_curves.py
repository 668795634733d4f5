"""Curves of attacks that ran at several ε."""

from pathlib import Path
from typing import Any

import pytest

from robusteval.report.eps_curves import WORST, eps_curve, eps_curves, eps_lines
from tests.helpers.commands import cli, refused

ASKED = ("run", "--suite", "quick", "--only", "fgsm", "--samples", "20", "--eps")


def rate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def report(*found: tuple[str, str, float, float | None], name: str = "m") -> dict[str, Any]:
    """Of attacks: title, norm, ε, and what is left."""
    rows = [
        {
            "title": title,
            "threat": {"norm": norm, "radius": eps},
            "robust_accuracy": None if left is None else rate(left),
        }
        for title, norm, eps, left in found
    ]
    worst = [row for row in rows if row["title"] == WORST]
    attacks = [row for row in rows if row["title"] != WORST]
    clean = {"accuracy": rate(0.9)}
    return {"model": {"name": name}, "attacks": attacks, "worst_case": worst, "clean": clean}


WHOLE = [("PGD", "Linf", eps, 0.8 - eps) for eps in (0.3, 0.1, 0.2)]


def test_a_line_needs_three_eps_and_starts_at_clean_accuracy() -> None:
    some = report(*WHOLE, ("FGSM", "Linf", 0.1, 0.7), ("FGSM", "Linf", 0.2, 0.6), *WHOLE[:0])
    assert [*eps_lines(some, "Linf")] == ["PGD"]
    line = eps_lines(some, "Linf")["PGD"]
    assert [eps for eps, _ in line] == [0.0, 0.1, 0.2, 0.3]
    assert [found["value"] for _, found in line] == pytest.approx([0.9, 0.7, 0.6, 0.5])
    assert eps_lines(some, "L2") == {}
    failed = report(*WHOLE[:2], ("PGD", "Linf", 0.2, None))
    assert eps_curve(failed, "Linf") == ""
    assert "PGD" in eps_curve(some, "Linf")


def test_attacks_that_know_no_eps_have_a_curve_of_their_own() -> None:
    free = report(*WHOLE)
    for row in free["attacks"]:
        row["unbounded"] = {}
    assert eps_lines(free, "Linf") == {}


def test_models_share_a_figure_with_the_attacks_that_both_have() -> None:
    other = [("PGD", "Linf", eps, 0.4) for eps in (0.1, 0.2, 0.3)]
    worst = [(WORST, "Linf", eps, 0.2) for eps in (0.1, 0.2, 0.3)]
    both = {"first": report(*WHOLE), "second": report(*other, *worst)}
    (figure,) = eps_curves(both).values()
    assert "first: PGD" in figure
    assert "second: PGD" in figure
    assert WORST not in figure
    assert eps_curves({"first": report(*WHOLE), "second": report()}) == {}


def test_compare_draws_them(tmp_path: Path) -> None:
    for model in ("pcl_digits", "ce_digits"):
        done = cli(*ASKED, "0.05", "0.1", "0.15", "--model", model, "--out", str(tmp_path))
        assert done.exit_code == 0
    runs = sorted(map(str, tmp_path.glob("*-quick-*")))
    page = (Path(runs[0]) / "report.html").read_text()
    assert "Robust accuracy against ε</h2>" in page
    file = tmp_path / "both.svg"
    drawn = cli("compare", *runs, "--figure", str(file))
    assert drawn.exit_code == 0
    assert str(file) in drawn.stderr
    assert "ce_digits: FGSM" in file.read_text()
    refused(cli("compare", runs[0], runs[0], "--figure", str(file)), "two runs are of one model")
