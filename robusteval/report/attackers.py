"""Detectors against an attacker who knows them, in ``report.json``."""

from typing import Any

from robusteval.detection.metrics import METRICS, bootstrap_intervals, detection_metrics
from robusteval.detection.thresholds import TPR
from robusteval.evidence.results import RunResult
from robusteval.evidence.under_attack import Rejection, UnderAttack, rejections, under_attack
from robusteval.numerics import wilson
from robusteval.report.detection import with_intervals

Row = dict[str, Any]
# Which side the attacker moved, in the order of the table's columns.
SIDES = {
    "none": "neither",
    "outliers": "outliers",
    "inliers": "inliers",
    "both": "both",
}


def attackers_of(result: RunResult) -> Row:
    """Both tables; empty lists for a run without attacks on detectors."""
    return {
        "rejection": [_rejection(each) for each in rejections(result)],
        "under_attack": [_separation(each, result.spec.seed) for each in under_attack(result)],
    }


def _rejection(each: Rejection) -> Row:
    """One detector as the model's guard; all shares are of the same samples."""
    share = {
        name: _rate(count, each.samples)
        for name, count in (
            ("accuracy", each.correct),
            ("accepted", each.accepted),
            ("robust", each.robust),
            ("robust_without", each.unguarded),
            ("stratified", each.stratified),
        )
    }
    return {
        **{"detector": each.detector, "threat": each.threat.to_json()},
        **{"tpr": TPR, "threshold": each.threshold},
        **share,
        "stratified_eps": each.inner.to_json()["eps"] if each.inner else None,
        **{"guided": each.guided, "attacked": each.attacked},
    }


def _rate(count: int | None, of: int) -> Row | None:
    rate = None if count is None else wilson(count, of)
    return rate.to_json() if rate else None


def _separation(each: UnderAttack, seed: int) -> Row:
    """One detector where one side was moved, or both: five metrics with bootstrap intervals."""
    row: Row = {
        **{"detector": each.detector, "threat": each.threat.to_json(), "attacked": each.attacked},
        **{"against": each.outliers, "n_in": len(each.inside), "n_out": len(each.outside)},
    }
    if not len(each.inside) or not len(each.outside):
        return {**row, **dict.fromkeys(METRICS)}
    values = detection_metrics(each.inside, each.outside)
    intervals = bootstrap_intervals(each.inside, each.outside, seed=seed)
    return {**row, **with_intervals(values, intervals)}


def attackers_tables(report: Row) -> Row:
    """What pages show: a row for each detector as a guard, and one for each set of outliers."""
    moved: dict[tuple[str, str, str], Row] = {}
    for row in report.get("under_attack", []):
        if row["attacked"] != "misclassified":
            key = row["detector"], str(row["threat"]), row["against"]
            at = {k: row[k] for k in ("detector", "threat", "against", "n_in", "n_out")}
            moved.setdefault(key, {**at, "sides": dict.fromkeys(SIDES)})
            moved[key]["sides"][row["attacked"]] = row["auroc"]
    wrong = {
        (row["detector"], str(row["threat"])): row
        for row in report.get("under_attack", [])
        if row["attacked"] == "misclassified"
    }
    guards = [
        {**row, "misclassified": wrong.get((row["detector"], str(row["threat"])))}
        for row in report.get("rejection", [])
    ]
    return {"guards": guards, "moved": list(moved.values()), "sides": SIDES}
