"""What evaluate returns, and how it is asked: tables, a notebook's fragment, options by keyword."""

import csv
import doctest
import importlib
import json
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import robusteval
from robusteval.errors import RobustevalError
from robusteval.report.returned import Report
from robusteval.report.tables import TABLES
from robusteval.run.options import OptionKeywords, Options, options_of

pytestmark = pytest.mark.usefixtures("as_in_use")

EVIL = "<script>alert(1)</script><img src=x onerror=y>\"'&{{ 7 * 7 }}\x1b[31m\u202e\n| row"
LINF, L2 = ({"norm": n, "eps": e, "radius": float(e)} for n, e in (("Linf", "0.1"), ("L2", "0.5")))


def rate(k: int, n: int) -> dict[str, Any]:
    return {"value": k / n, "low": k / n / 2, "high": 1.0, "k": k, "n": n}


def attack(name: str, threat: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        **{"name": name, "title": name.upper(), "library": "torchattacks", "attack": "X"},
        "version": 2,
        **{"library_version": "3.5.1", "threat": threat, "parameters": {"steps": 7, "alpha": 0.25}},
        **{
            "restarts": 2,
            "status": "done",
            "reason": "",
            "attacked": 8,
            "note": "",
            "findings": [],
        },
        **{"robust_accuracy": rate(3, 10), "success_rate": rate(5, 8)},
        **{"passes": {"forward": 70, "backward": 60}, "seconds": 1.5},
        "verified": {"counted": 5, "largest_norm": 0.1, "near_ties": 1, "survive_8_bit": 4},
        **more,
    }


def worst(threat: dict[str, Any], complete: bool) -> dict[str, Any]:
    row = {"at_most": rate(2, 10), "robust_accuracy": rate(2, 10) if complete else None}
    return {
        **{"threat": threat, "complete": complete, **row},
        "success_rate": rate(6, 8) if complete else None,
        "per_class": [{"class": "cat", **row}, {"class": "dog", **row}],
    }


def separation(against: str, **more: Any) -> dict[str, Any]:
    metrics = ("auroc", "aupr_in", "aupr_out", "fpr95", "detection_error")
    values = {m: {"value": 0.1 * i, "low": None, "high": 0.9} for i, m in enumerate(metrics)}
    row = {"detector": "energy", "against": against, "n_in": 10, "n_out": 9}
    return {**row, "status": "done", "reason": "", **values, **more}


def content() -> dict[str, Any]:
    """A report written by hand: one attack has no number, one knows no ε."""
    none = {"robust_accuracy": None, "success_rate": None}
    free = {"success_rate": rate(7, 8), "median_norm": 0.75, "meaning": "at any distance"}
    empty = dict.fromkeys(("auroc", "aupr_in", "aupr_out", "fpr95", "detection_error"))
    line = {"name": "pgd", "title": "PGD", "points": [[6, 4], [12.5, 3]]}
    return {
        **{"status": "incomplete", "samples": 10, "seed": 3, "run": "0123abcd"},
        "model": {"name": "mine"},
        "suite": {"name": "quick"},
        "dataset": {
            **{"name": "digits", "split": "test", "classes": ["cat", "dog"], "samples": 360},
            **{"chosen": {"how": "balanced", "indices": "0-9"}, "usual_eps": []},
        },
        "clean": {"accuracy": rate(8, 10)},
        "attacks": [
            attack("pgd", LINF),
            attack("slow", L2, status="failed", reason="out of memory", **none),
            attack("cw", L2, unbounded=free),
        ],
        "worst_case": [worst(LINF, True), worst(L2, False)],
        "outliers": [
            separation("noise"),
            separation("none", n_out=0, status="empty", reason="no image on one side", **empty),
        ],
        "attack_detection": [
            separation("pgd/Linf 0.1", attacker_knew=False, reading="strict"),
            separation("pgd/Linf 0.1", attacker_knew=False, reading="paper"),
        ],
        "claims": [
            {
                **{"attack": "pgd", "accuracy": 50.0, "norm": "Linf", "eps": "0.1"},
                **{"source": "Table 1", "note": "", "compared": "same", "found": rate(3, 10)},
                **{"found_threat": LINF, "worst": None, "worst_threat": None},
                "worst_compared": None,
            }
        ],
        "rejection": [
            {
                **{"detector": "energy", "threat": LINF, "tpr": 0.95, "threshold": 1.5},
                **{"accuracy": rate(8, 10), "accepted": rate(7, 10), "robust": rate(2, 10)},
                **{"robust_without": rate(1, 10), "stratified": None, "stratified_eps": None},
                **{"guided": 8, "attacked": 8},
            }
        ],
        "under_attack": [
            {**separation("noise"), "threat": LINF, "attacked": "both"},
        ],
        "findings": [
            {"check": "ascent", "verdict": "broken", "threat": L2, "measured": "m", "advice": "a"},
            {"check": "clean", "verdict": "ok", "threat": None, "measured": "m", "advice": ""},
        ],
        "missing": [{"kind": "attack", "name": "SLOW, L2", "reason": "oom", "reached": True}],
        "left_out": [{"kind": "attack", "name": "fab", "reason": "two classes"}],
        "curves": {
            "distance": [
                {"norm": "L2", "samples": 10, "attacks": [line], "best": {"points": [[0.5, 2]]}}
            ],
            "cost": [{"threat": LINF, "samples": 10, "attacks": [line]}],
        },
    }


@pytest.fixture
def report() -> Report:
    return Report(content(), Path("runs/mine"))


def values(frame: Any, *columns: str) -> list[list[Any]]:
    """Rows as lists; None for what is missing."""
    rows = frame[list(columns)].astype(object)
    return [list(row) for row in rows.where(rows.notna(), None).to_numpy()]


# Tables


def test_attacks(report: Report) -> None:
    table = report.attacks
    assert values(table, "name", "norm", "eps", "radius", "status", "robust", "samples") == [
        ["pgd", "Linf", "0.1", 0.1, "done", 3, 10],
        ["slow", "L2", "0.5", 0.5, "failed", None, None],
        ["cw", "L2", "0.5", 0.5, "done", 3, 10],
    ]
    assert table.robust_accuracy.iloc[0] == 0.3
    assert table.robust_accuracy.isna().to_list() == [False, True, False]
    names = ("robust_accuracy_low", "robust_accuracy_high", "success_rate", "broken", "correct")
    assert values(table, *names)[:2] == [[0.15, 1.0, 0.625, 5, 8], [None] * 5]
    free = ("success_at_any_norm", "success_at_any_norm_high", "median_norm")
    assert values(table, *free) == [[None] * 3, [None] * 3, [0.875, 1.0, 0.75]]
    assert table.version.to_list()[:2] == [2, 2]
    costs = ("attacked", "restarts", "forward_passes", "backward_passes", "seconds")
    assert values(table, *costs)[0] == [8, 2, 70, 60, 1.5]
    told = ("largest_norm", "near_ties", "survive_8_bit", "parameters", "reason")
    assert values(table, *told)[1] == [0.1, 1, 4, "steps=7, alpha=0.25", "out of memory"]


def test_worst_case_and_its_classes(report: Report) -> None:
    names = ("norm", "complete", "robust_accuracy", "robust", "at_most", "robust_at_most", "broken")
    assert values(report.worst_case, *names) == [
        ["Linf", True, 0.2, 2, 0.2, 2, 6],
        ["L2", False, None, None, 0.2, 2, None],
    ]
    assert report.worst_case.samples.to_list() == [10, 10]
    assert values(report.classes, "norm", "class", "robust", "robust_at_most", "samples") == [
        ["Linf", "cat", 2, 2, 10],
        ["Linf", "dog", 2, 2, 10],
        ["L2", "cat", None, 2, 10],
        ["L2", "dog", None, 2, 10],
    ]


def test_detectors(report: Report) -> None:
    names = ("detector", "against", "n_in", "n_out", "status", "aupr_out", "aupr_out_low")
    assert values(report.outliers, *names, "detection_error_high") == [
        ["energy", "noise", 10, 9, "done", 0.2, None, 0.9],
        ["energy", "none", 10, 0, "empty", None, None, None],
    ]
    assert values(report.detection, "against", "reading", "auroc", "attacker_knew") == [
        ["pgd/Linf 0.1", "strict", 0.0, False],
        ["pgd/Linf 0.1", "paper", 0.0, False],
    ]


def test_claims_findings_and_what_is_missing(report: Report) -> None:
    names = ("attack", "claimed", "compared", "found", "found_norm", "found_eps", "worst")
    assert values(report.claims, *names) == [["pgd", 0.5, "same", 0.3, "Linf", "0.1", None]]
    assert values(report.findings, "check", "verdict", "norm", "eps", "radius") == [
        ["ascent", "broken", "L2", "0.5", 0.5],
        ["clean", "ok", None, None, None],
    ]
    assert values(report.missing, "name", "reached") == [["SLOW, L2", True]]
    assert values(report.left_out, "name", "reason") == [["fab", "two classes"]]


def test_curves(report: Report) -> None:
    names = ("curve", "norm", "eps", "attack", "place", "robust", "samples", "robust_accuracy")
    assert values(report.curves, *names) == [
        ["distance", "L2", None, "pgd", 6, 4, 10, 0.4],
        ["distance", "L2", None, "pgd", 12.5, 3, 10, 0.3],
        ["distance", "L2", None, "best", 0.5, 2, 10, 0.2],
        ["cost", "Linf", "0.1", "pgd", 6, 4, 10, 0.4],
        ["cost", "Linf", "0.1", "pgd", 12.5, 3, 10, 0.3],
    ]


def test_columns_are_the_same_with_and_without_rows(report: Report) -> None:
    lists = ("attacks", "worst_case", "outliers", "attack_detection", "claims", "findings")
    curves: dict[str, list[Any]] = {"distance": [], "cost": []}
    lists += ("rejection", "under_attack")
    nothing = {**content(), **{name: [] for name in lists}, "missing": [], "left_out": []}
    empty = Report({**nothing, "curves": curves}, Path("x"))
    for name, columns in TABLES.items():
        full, none = getattr(report, name), getattr(empty, name)
        assert list(full) == list(none) == list(columns)
        assert len(none) == 0
        assert [str(kind) for kind in full.dtypes] == list(columns.values())
        assert [str(kind) for kind in none.dtypes] == list(columns.values())


def test_a_table_is_the_callers_own(report: Report) -> None:
    table = report.attacks
    table.loc[0, "robust"] = 9
    assert report.attacks.loc[0, "robust"] == 3
    assert report.content == content()


# Shown


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.styles: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.styles |= {value or "" for _, value in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(report: Report) -> Seen:
    parser = Seen()
    parser.feed(report._repr_html_())
    parser.close()
    return parser


def hostile() -> Report:
    """All text that comes from outside, as an attack on the page."""
    told = content()
    told["model"]["name"] = told["suite"]["name"] = told["dataset"]["name"] = EVIL
    told["attacks"][0]["title"] = told["attacks"][1]["status"] = EVIL
    told["findings"][0] |= {"measured": EVIL, "advice": EVIL, "check": EVIL}
    told["missing"][0] |= {"name": EVIL, "reason": EVIL}
    return Report(told, Path(f"runs/{EVIL}"))


def test_a_notebook_shows_the_numbers(report: Report) -> None:
    page = seen(report)
    for said in ("mine", "incomplete", "3/10", "30.0 %", "failed", "at most 20.0 %", "L∞ 0.1"):
        assert said in page.text
    assert "ascent, L2 0.5: broken." in page.text
    assert "runs/mine" in page.text
    assert len(report._repr_html_()) < 5_000


def test_nothing_in_a_notebook_acts() -> None:
    page = seen(hostile())
    assert page.tags == {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes == {"style"}
    assert not any("url" in style or "http" in style for style in page.styles)
    assert page.text.count("<script>alert(1)</script>") == 11  # as text, wherever it stood
    assert "{{ 7 * 7 }}" in page.text
    assert "\\x1b[31m\\u202e" in page.text
    assert "\x1b" not in page.text


def test_as_text(report: Report) -> None:
    assert (
        repr(report) == "<Report mine under quick, 10 samples of digits: incomplete, in runs/mine>"
    )
    assert str(report).splitlines() == [
        "mine under quick, 10 samples of digits: incomplete",
        "clean 80.0 % [40.0, 100.0] (8/10)",
        "worst case, L∞ 0.1: 20.0 % [10.0, 100.0] (2/10)",
        "worst case, L2 0.5: at most 20.0 % [10.0, 100.0] (2/10)",
        "ascent, L2 0.5: broken",
        "runs/mine",
    ]
    assert len(repr(hostile()).splitlines()) == 1
    assert len(str(hostile()).splitlines()) == 6
    assert "\x1b" not in repr(hostile()) + str(hostile())


# Asked for by keyword


def test_keywords_are_options() -> None:
    asked = options_of(None, {"samples": "200", "seed": 1, "eps": 0.1, "only": "fgsm"})
    assert (asked.samples, asked.seed, asked.eps, asked.only) == (200, 1, ("0.1",), ("fgsm",))
    assert options_of(None, {}).samples is None
    assert options_of(asked, {}) is asked
    assert list(OptionKeywords.__annotations__) == [option.name for option in fields(Options)]


@pytest.mark.parametrize("function", [robusteval.evaluate, robusteval.estimate])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sample": 20}, "unknown option sample: did you mean samples"),
        ({"sed": 20}, "unknown option sed: did you mean seed"),
        ({"suit": "quick"}, "unknown option suit: did you mean suite"),
        ({"norm": "Linf"}, "unknown option norm: write it into eps"),
        ({"x\n" * 99: 1}, "unknown option x x"),
        ({"options": Options(), "seed": 1, "out": "x"}, "options= and seed=, out= were both given"),
        ({"options": Options(), "sample": 1}, "unknown option sample"),
        ({"samples": "many"}, "samples 'many'"),
        ({"options": {"samples": 3}}, "pass api.Options"),
    ],
)
def test_bad_keywords_are_told_in_one_line(function: Any, given: Any, said: str) -> None:
    with pytest.raises(RobustevalError) as caught:
        function("no_such_model", "no_such_suite", **given)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# The package


def test_names_and_types_are_there() -> None:
    assert {"Options", "Report", "estimate"} <= set(robusteval.__all__) <= set(dir(robusteval))
    assert robusteval.Report is Report
    assert robusteval.Options is Options
    assert (files("robusteval") / "py.typed").is_file()


def test_pandas_is_loaded_when_a_table_is_asked_for() -> None:
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom robusteval.api import Report\n"
        "report = Report(json.loads(sys.argv[1]), Path('x'))\n"
        "report._repr_html_(), str(report), repr(report)\n"
        "assert 'pandas' not in sys.modules\n"
        "report.attacks\nassert 'pandas' in sys.modules\n"
    )
    command = [sys.executable, "-c", code, json.dumps(content())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["data.known", "run.options", "stops"])
def test_examples_in_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"robusteval.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_examples_of_runs(tmp_path: Path) -> None:
    """They share one run, whose tables say what its own row does."""
    for name in ("api", "report.returned"):
        module = importlib.import_module(f"robusteval.{name}")
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.attempted > 1
        assert found.failed == 0
    (folder,) = (tmp_path / "runs").iterdir()
    report = robusteval.rebuild_report(folder)
    (row,) = csv.DictReader((folder / "row.csv").read_text("utf-8").splitlines())
    told, worst_told = report.attacks.iloc[0], report.worst_case.iloc[0]
    assert f"{100 * told.robust_accuracy:.2f}" == row["attack_fgsm"]
    assert str(worst_told.robust) == row["robust_samples"]
    assert f"{100 * worst_told.robust_accuracy_high:.2f}" == row["worst_case_high"]
