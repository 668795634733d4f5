"""What a report tells of detection: rows, groups, degenerate scores, pictures, and compare."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robusteval import api, inert, terminal
from robusteval.errors import EvidenceError
from robusteval.evidence.located import files_at
from robusteval.evidence.results import RunResult, load_result
from robusteval.evidence.separations import Separation
from robusteval.piped import pair_rows
from robusteval.report.best import ranked_detectors
from robusteval.report.compare import compare
from robusteval.report.detection import (
    COLUMNS,
    MANY,
    detection_of,
    drawn_detectors,
    histogram,
    outlier_sets,
)
from robusteval.report.detection_csv import detection_csv
from robusteval.report.detection_tables import (
    SHOWN,
    classes_text,
    detection_groups,
    detection_overview,
)
from robusteval.report.page import render_html, render_markdown
from robusteval.report.wording import MOST_SCORES, score_notes, score_rows

pytestmark = pytest.mark.usefixtures("as_in_use")

SUITE = """
name = "small"
[[attacks]]
name = "fgsm"
title = "FGSM"
library = "torchattacks"
attack = "FGSM"
norms = ["Linf"]
[detection]
detectors = ["max_softmax", "energy"]
sets = ["noise"]
attacks = ["fgsm"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Report:
    folder = tmp_path_factory.mktemp("detection")
    (folder / "small.toml").write_text(SUITE)
    options = api.Options(samples=40, out=folder / "runs", threads=1)
    return api.evaluate("pcl_digits", folder / "small.toml", options=options)


@pytest.fixture(scope="module")
def result(run: api.Report) -> RunResult:
    return load_result(files_at(run.folder))


def separation(inside: Any, outside: Any, **more: Any) -> Separation:
    given = {"detector": "energy", "against": "gaussian_noise", "kind": "outliers", **more}
    sides = np.array(inside, float), np.array(outside, float)
    return Separation(inside=sides[0], outside=sides[1], correct=sides[0] > -99, **given)


def row_of(result: RunResult, *separations: Separation) -> dict[str, Any]:
    told = detection_of(replace(result, separations=[*separations]))
    json.dumps(told, allow_nan=False)
    (row,) = [*told["outliers"], *told["attack_detection"]]
    return dict(row)


# Rows


def test_rows_name_group_and_reading(run: api.Report) -> None:
    content = run.content
    assert {r["group"] for r in content["outliers"]} == {"noise"}
    assert {r["reading"] for r in content["attack_detection"]} == {"strict", "paper", "worst_case"}
    assert all(set(COLUMNS) <= r.keys() for r in content["outliers"])
    rows = run.outliers
    assert rows.group.unique().tolist() == ["noise"]
    assert (rows.oscr <= content["clean"]["accuracy"]["value"]).all()
    frame = run.detection.set_index(["detector", "reading"]).loc["energy"]
    assert frame.loc["strict", "auroc"] == frame.loc["worst_case", "auroc"]  # of one attack
    assert frame.loc["strict", "oscr"] == pytest.approx(frame.loc["strict", "auroc"])


def test_sets_are_told_with_their_split_and_digest(result: RunResult, run: api.Report) -> None:
    sets = {one["name"]: one for one in run.content["outlier_sets"]}
    assert list(sets) == ["gaussian_noise", "uniform_noise", "blurred", "permuted"]
    assert {one["split"] for one in sets.values()} == {"made"}
    assert {one["samples"] for one in sets.values()} == {40}
    page = (run.folder / "report.html").read_text("utf-8")
    assert "made with seed 0" in page
    older = dict(result.record)
    del older["outliers"]
    names = [(one["group"], one["split"]) for one in outlier_sets(replace(result, record=older))]
    assert names == [("noise", None), ("noise", None), ("natural", None), ("natural", None)]


@pytest.mark.parametrize(
    ("shared", "told"),
    [
        (None, "not known: no class names"),
        ([], "none, by their names"),
        (["cat = Persian cat"], "1: cat (Persian cat)"),
        (["a = b", "a = c", "a = d", "e"], "2: a (b, c and 1 more), e"),
        ([*"abcdefgh"], "8: a, b, c, d, e, f and 2 more"),
    ],
)
def test_shared_classes_are_said(shared: list[str] | None, told: str) -> None:
    assert classes_text({"group": "far", "split": "test", "shared_classes": shared}) == told


def test_every_row_is_in_the_table_of_detection(run: api.Report) -> None:
    rows = list(csv.DictReader((run.folder / "detection.csv").read_text("utf-8").splitlines()))
    outliers, attacks = run.content["outliers"], run.content["attack_detection"]
    assert [(r["kind"], r["detector"], r["against"], r["reading"]) for r in rows] == [
        *(("outliers", r["detector"], r["against"], "") for r in outliers),
        *(("attack_detection", r["detector"], r["against"], r["reading"]) for r in attacks),
    ]
    for row, told in zip(rows, outliers + attacks, strict=True):
        assert float(row["autc_low"]) == pytest.approx(told["autc"]["low"], abs=1e-6)
    hostile = {**outliers[0], "against": "=1+1", "auroc": None}
    text = detection_csv({"outliers": [hostile], "attack_detection": []})
    (row,) = csv.DictReader(text.splitlines())
    assert (row["auroc"], row["against"]) == ("", inert.cell("=1+1"))
    assert detection_csv({"outliers": [], "attack_detection": []}) == ""


# Degenerate scores


def test_one_sample_on_each_side(result: RunResult) -> None:
    row = row_of(result, separation([1], [0]))
    assert row["auroc"] == {"value": 1.0, "low": None, "high": None}
    assert row["status"] == "done"


def test_equal_scores(result: RunResult) -> None:
    row = row_of(result, separation([2] * 12, [2] * 12))
    assert row["auroc"]["value"] == row["autc"]["value"] == 0.5
    assert row["fpr95"]["value"] == 1


@pytest.mark.parametrize(
    ("sides", "more", "status", "reason"),
    [
        (([], [1]), {}, "empty", "no image on one side"),
        (([1], []), {}, "empty", "no image on one side"),
        (([1, np.nan], [1]), {}, "failed", "scores are not finite: some are NaN"),
        (([1], []), {"missing": "PGD did not finish"}, "not_finished", "PGD did not finish"),
    ],
)
def test_what_has_no_metric_has_a_reason(
    result: RunResult, sides: tuple[Any, Any], more: Any, status: str, reason: str
) -> None:
    row = row_of(result, separation(*sides, **more))
    assert (row["status"], row["reason"]) == (status, reason)
    assert all(row[name] is None for name in COLUMNS)


def test_infinite_scores_have_metrics_and_a_histogram(result: RunResult) -> None:
    row = row_of(result, separation([np.inf, *range(11)], [-np.inf, *range(-5, 6)]))
    assert row["status"] == "done"
    assert 0.5 < row["auroc"]["value"] < 1
    assert sum(row["histogram"]["inside"]) == 12
    none = histogram(np.array([np.inf]), np.array([np.inf]))
    assert sum(none["outside"]) == 1


# Many detectors


def many(count: int) -> dict[str, Any]:
    """A report's rows of so many detectors, each better than the one before."""
    none = dict.fromkeys(COLUMNS)

    def row(k: int, against: str, **more: Any) -> dict[str, Any]:
        rate = {"value": 0.4 + 0.02 * k, "low": None, "high": None}
        told = {"n_in": 9, "n_out": 9, "status": "done", "reason": ""}
        return {"detector": f"d{k:02}", "against": against, **told, **none, "auroc": rate, **more}

    sets = [("near", "cifar100"), ("far", "mnist"), ("far", "svhn"), ("noise", "blurred")]
    return {
        "outliers": [row(k, name, group=group) for group, name in sets for k in range(count)],
        "attack_detection": [
            row(k, "pgd/Linf 0.1", reading="strict", attacker_knew=False) for k in range(count)
        ],
    }


def test_the_best_stand_first_and_the_rest_is_folded() -> None:
    report = many(30)
    overview = detection_overview(report)
    assert overview is not None
    assert overview["titles"] == ["near outliers", "far outliers", "noise", "attacks, strict"]
    assert overview["shown"][0]["detector"] == "d29"
    assert len(overview["shown"]) + len(overview["folded"]) == 30
    groups = detection_groups(report)
    assert [g["part"] for g in groups] == ["near", "far", "noise", "strict"]
    assert [s["against"] for s in groups[1]["sets"]] == ["mnist", "svhn"]
    for one in (s for g in groups for s in g["sets"]):
        names = [row["detector"] for row in one["shown"]]
        assert names == [f"d{k}" for k in range(29, 29 - SHOWN, -1)]
        assert len(one["folded"]) == 30 - SHOWN


def test_rank_counts_near_and_far_alike_and_no_noise() -> None:
    rows = many(2)["outliers"]
    for row in rows:
        if row["group"] == "noise" and row["detector"] == "d00":
            row["auroc"] = {"value": 1.0}
    assert ranked_detectors(rows) == ["d01", "d00"]
    failed = {"detector": "none", "against": "mnist", "group": "far", "auroc": None}
    assert ranked_detectors([*rows, failed])[-1] == "none"


def test_those_best_under_attack_are_drawn_too() -> None:
    rows = many(30)["outliers"]
    worst = {"reading": "worst_case", "against": "worst_case/Linf 0.1"}
    rows += [{"detector": f"d{k:02}", **worst, "auroc": {"value": 1 - k / 99}} for k in range(30)]
    assert drawn_detectors(rows) == ["d29", "d28", "d27", "d01", "d00"]
    assert drawn_detectors(many(3)["outliers"]) == ["d02", "d01", "d00"]


def test_pages_of_many_detectors_stay_short(run: api.Report) -> None:
    content = {**run.content, **many(30)}
    page, text = render_html(content, []), render_markdown(content)
    assert page.count("<summary>22 more detectors") == 4  # of the first set of each part
    assert "Of 30 detectors one is first partly by chance" in page
    assert page.count("22 more rows stand in detection.csv") == 1
    assert text.count("more rows stand in detection.csv") == 4
    assert "| d29 | cifar100 |" in text
    assert "| d00 | cifar100 |" not in text
    assert len(text) < 25_000


def test_a_report_with_many_separations_resamples_less(
    result: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robusteval.report import detection

    asked = []

    def counted(*_: Any, fewer: bool, **__: Any) -> None:
        asked.append(fewer)

    monkeypatch.setattr(detection, "bootstrap_intervals", counted)
    one = separation([1, 2], [0, 1])
    told = detection_of(replace(result, separations=[one] * (MANY + 1)))
    assert set(asked) == {True}
    assert len(told["outliers"]) == MANY + 1
    detection_of(replace(result, separations=[one] * MANY))
    assert not any(asked[MANY + 1 :])


# Pictures


def test_pictures_are_few_and_small(run: api.Report) -> None:
    page = (run.folder / "report.html").read_text("utf-8")
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    drawn = [label for label in labels if "obust" not in label]
    assert drawn == [
        "Largest probability of right, wrong and outlying samples",
        "Accuracy of accepted samples against the share rejected",
        *("Detector scores on digits and gaussian_noise",),
        "ROC and precision-recall curves against gaussian_noise",
        *("Detector scores on digits and worst_case/Linf 0.15",),
        "ROC and precision-recall curves against worst_case/Linf 0.15",
    ]
    figures = re.findall(r"(?s)<svg.*?</svg>", page)
    assert max(map(len, figures)) < 30_000


def test_rejection_curves_begin_at_the_accuracy(run: api.Report) -> None:
    curves = run.content["detection_curves"]
    clean, attacked = curves["rejection"]
    for line in clean["lines"]:
        assert line["points"][0] == [0, pytest.approx(run.content["clean"]["accuracy"]["value"])]
    worst = run.content["worst_case"][0]["robust_accuracy"]["value"]
    for line in attacked["lines"]:
        assert line["points"][0] == [0, pytest.approx(worst, abs=1e-3)]
    counts = curves["confidence"]["counts"]
    assert sum(counts["right"]) == run.content["clean"]["accuracy"]["k"]
    assert sum(counts["noise"]) == 160


# Compare


def test_runs_are_compared_by_auroc(
    run: api.Report, result: RunResult, capsys: pytest.CaptureFixture[str], at_terminal: Any
) -> None:
    worse = [replace(s, inside=s.inside - 1e9) for s in result.separations]
    other = replace(result, separations=worse)
    (pair,) = compare(["one", "other"], [result, other])["pairs"]
    assert len(pair["detection"]) == 2 * (4 + 3)
    for row in pair["detection"]:
        assert row["second"] == 0
        assert row["difference"] == -row["first"]
    kinds = [row["kind"] for row in pair["detection"]]
    assert kinds == sorted(kinds, reverse=True)  # outliers first
    told = [row for row in pair_rows(pair) if row.get("note") == "AUROC"]
    assert len(told) == len(pair["detection"])
    at_terminal(100)
    terminal.print_comparison({"pairs": [pair], "samples": 40, "dataset": "digits"})
    assert "gaussian_noise" in capsys.readouterr().out


def test_other_images_and_other_code_are_not_compared(result: RunResult) -> None:
    code = {**result.spec.code, "detector.energy": "0" * 16}
    other = replace(result, spec=replace(result.spec, code=code, seed=9))
    (pair,) = compare(["one", "other"], [result, other])["pairs"]
    assert pair["detectors_apart"] == ["energy"]
    assert {row["kind"] for row in pair["detection"]} == {"attack_detection"}  # noise of a seed
    row = {**pair["detection"][0], "difference": 0.0}
    rows = [{**row, "difference": 0.001 * k} for k in range(MOST_SCORES + 3)]
    shown = score_rows({**pair, "detection": rows})
    assert len(shown) == MOST_SCORES
    assert shown[0]["difference"] == f"+{0.1 * (MOST_SCORES + 2):.1f}"
    assert score_notes({**pair, "detection": rows})[0].startswith("3 more AUROCs differ less")


def test_a_run_verifies_with_its_sets(run: api.Report, tmp_path: Path) -> None:
    assert all(check.held for check in api.verify(run.folder))
    record = json.loads((run.folder / "run.json").read_text("utf-8"))
    assert record["outliers"]["blurred"] == {"group": "noise", "split": "made", "shared": []}
    record["outliers"]["blurred"]["group"] = "near"
    copy = tmp_path / run.folder.name
    shutil.copytree(run.folder, copy)
    (copy / "run.json").write_text(json.dumps(record), "utf-8")
    wrong = [check.told for check in api.verify(copy) if not check.held]
    assert any("outliers of run.json differ" in told for told in wrong)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"group": "nearby", "split": "made", "shared": []}, "group"),
        ({"group": "folder", "split": "folder", "shared": None}, "outliers contradicts"),
        (None, "outliers contradicts"),
        ({}, "outliers contradicts"),  # all of them deleted
    ],
)
def test_sets_of_a_record_that_can_not_be_are_refused(
    run: api.Report, tmp_path: Path, told: dict[str, Any] | None, message: str
) -> None:
    record = json.loads((run.folder / "run.json").read_text("utf-8"))
    del record["outliers"]["permuted"]
    if told:
        record["outliers"] = {**record["outliers"], "permuted": told}
    if message == "outliers contradicts" and told == {}:
        del record["outliers"]
    (tmp_path / "run.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(EvidenceError, match=message):
        load_result(files_at(tmp_path))
