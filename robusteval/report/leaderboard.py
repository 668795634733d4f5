"""A report's leaderboard rows: one per threat model, in fixed columns."""

from collections.abc import Sequence
from typing import Any

from robusteval.report.wording import claimed_by, lowest_claim

COLUMNS = (
    "model",
    "method",
    "dataset",
    "norm",
    "eps",
    "suite",
    "samples",
    "seed",
    "status",
    "clean",
    "robust",
    "robust_low",
    "robust_high",
    "robust_k",
    "robust_n",
    "autoattack",
    "strongest_attack",
    "claimed",
    "claimed_by",
    "run",
    "weights_sha256",
)


def leaderboard_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per threat model; accuracies in percent, empty where there is no number."""
    return [_row(report, worst) for worst in report["worst_case"]]


def rows_as_csv(reports: Sequence[dict[str, Any]]) -> str:
    """The rows of all reports, under one header."""
    import pandas as pd

    rows = [row for report in reports for row in leaderboard_rows(report)]
    table: str = pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False)
    return table


def _row(report: dict[str, Any], worst: dict[str, Any]) -> dict[str, Any]:
    threat, robust = worst["threat"], worst["robust_accuracy"] or {}
    here = [a for a in report["attacks"] if a["threat"] == threat and a["robust_accuracy"]]
    strongest = min(here, key=lambda a: a["robust_accuracy"]["value"], default=None)
    auto = [a for a in here if a["library"] == "autoattack"]
    claim = lowest_claim(report["claims"], threat["norm"])
    values = {
        "model": report["model"]["name"],
        "method": report["model"].get("method", ""),
        "dataset": report["dataset"]["name"],
        "norm": threat["norm"],
        "eps": threat["eps"],
        "suite": report["suite"]["name"],
        "samples": report["samples"],
        "seed": report["seed"],
        "status": "complete" if worst["complete"] else "incomplete",
        "clean": _percent(report["clean"]["accuracy"]["value"]),
        "robust": _percent(robust.get("value")),
        "robust_low": _percent(robust.get("low")),
        "robust_high": _percent(robust.get("high")),
        "robust_k": robust.get("k"),
        "robust_n": robust.get("n"),
        "autoattack": _percent(auto[0]["robust_accuracy"]["value"]) if auto else None,
        "strongest_attack": strongest["name"] if strongest else "",
        "claimed": claim["accuracy"] if claim else None,
        "claimed_by": claimed_by(claim),
        "run": report["run"],
        "weights_sha256": report["model"]["weights_sha256"],
    }
    return {column: values[column] for column in COLUMNS}


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
