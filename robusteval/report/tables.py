"""A report's content as tables: columns with their kinds, and rows.

Accuracies, success rates and detectors' metrics are shares from 0 to 1.  Where ``x`` is such a
share, ``x_low`` and ``x_high`` are its 95 % interval.  What has no number is missing (NaN or
``<NA>``), never 0.
"""

from typing import TYPE_CHECKING, Any

from robusteval.detection.metrics import METRICS, OPEN_SET
from robusteval.report.wording import parameters_text

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, str]
Row = dict[str, Any]
TEXT, SHARE, NUMBER, COUNT, FLAG = "object", "float64", "float64", "Int64", "boolean"


def _share(name: str) -> Columns:
    return {name: SHARE, f"{name}_low": SHARE, f"{name}_high": SHARE}


_THREAT = {"norm": TEXT, "eps": TEXT, "radius": NUMBER}
_ROBUST = {**_share("robust_accuracy"), "robust": COUNT, "samples": COUNT}
_SUCCESS = {**_share("success_rate"), "broken": COUNT, "correct": COUNT}
_METRICS = (*METRICS, OPEN_SET)
_DETECTION = {
    **{"detector": TEXT, "against": TEXT, "n_in": COUNT, "n_out": COUNT},
    **{"status": TEXT, "reason": TEXT},
    **{column: kind for metric in _METRICS for column, kind in _share(metric).items()},
}
TABLES: dict[str, Columns] = {
    "attacks": {
        **{"name": TEXT, "title": TEXT, "library": TEXT, "attack": TEXT, "version": COUNT},
        **_THREAT,
        "status": TEXT,
        **_ROBUST,
        **_SUCCESS,
        **{"attacked": COUNT, "restarts": COUNT, "forward_passes": COUNT, "backward_passes": COUNT},
        **{"seconds": NUMBER, "largest_norm": NUMBER, "near_ties": COUNT, "survive_8_bit": COUNT},
        **_share("success_at_any_norm"),
        **{"median_norm": NUMBER, "parameters": TEXT, "library_version": TEXT},
        **{"reason": TEXT, "note": TEXT},
    },
    "worst_case": {
        **_THREAT,
        "complete": FLAG,
        **_ROBUST,
        **_share("at_most"),
        "robust_at_most": COUNT,
        **_SUCCESS,
    },
    "classes": {
        **_THREAT,
        "class": TEXT,
        **_ROBUST,
        **_share("at_most"),
        "robust_at_most": COUNT,
    },
    "outliers": {**_DETECTION, "group": TEXT},
    "detection": {**_DETECTION, "reading": TEXT, "attacker_knew": FLAG},
    "rejection": {
        **{"detector": TEXT, **_THREAT, "tpr": SHARE, "threshold": NUMBER, "samples": COUNT},
        **_share("accuracy"),
        **_share("accepted"),
        **_share("robust"),
        **_share("robust_without"),
        **_share("stratified"),
        **{"stratified_eps": TEXT, "guided": COUNT, "attacked": COUNT},
    },
    "under_attack": {
        **{"detector": TEXT, **_THREAT, "attacked": TEXT, "against": TEXT},
        **{"n_in": COUNT, "n_out": COUNT},
        **{column: kind for metric in METRICS for column, kind in _share(metric).items()},
    },
    "claims": {
        **{"attack": TEXT, "norm": TEXT, "eps": TEXT, "claimed": SHARE, "compared": TEXT},
        **_share("found"),
        **{"found_norm": TEXT, "found_eps": TEXT, "worst_compared": TEXT, "differs": TEXT},
        **_share("worst"),
        **{"worst_norm": TEXT, "worst_eps": TEXT, "source": TEXT, "note": TEXT, "by": TEXT},
    },
    "findings": {
        **{"check": TEXT, "verdict": TEXT, **_THREAT, "measured": TEXT, "advice": TEXT},
        "about": TEXT,
    },
    "missing": {"kind": TEXT, "name": TEXT, "reason": TEXT, "reached": FLAG},
    "left_out": {"kind": TEXT, "name": TEXT, "reason": TEXT},
    "prototypes": {
        **{"layer": TEXT, "class": TEXT, "prototypes": COUNT, "distinct": COUNT},
        **{"unused": COUNT, "nearest": COUNT},
    },
    "curves": {
        **{"curve": TEXT, **_THREAT, "attack": TEXT, "title": TEXT, "place": NUMBER},
        **{"robust": COUNT, "samples": COUNT, "robust_accuracy": SHARE},
    },
}


def frame(content: dict[str, Any], table: str) -> "pd.DataFrame":
    """One of ``TABLES`` as a pandas frame, its columns there even where it has no row."""
    import pandas as pd

    rows, columns = ROWS[table](content), TABLES[table]
    values = {name: [row.get(name) for row in rows] for name in columns}
    return pd.DataFrame({n: pd.Series(values[n], dtype=kind) for n, kind in columns.items()})


def _of_rate(name: str, rate: Row | None, k: str = "", n: str = "") -> Row:
    """A rate's columns; ``k`` and ``n`` name those of its counts."""
    rate = rate or {}
    row = {
        name: rate.get("value"),
        f"{name}_low": rate.get("low"),
        f"{name}_high": rate.get("high"),
    }
    return {**row, k: rate.get("k"), n: rate.get("n")}


def _robust(rate: Row | None) -> Row:
    return _of_rate("robust_accuracy", rate, "robust", "samples")


def _bound(rate: Row | None) -> Row:
    """What holds also where an attack has no number: no more than these are robust."""
    return _of_rate("at_most", rate, "robust_at_most", "samples")


def _attacks(content: dict[str, Any]) -> list[Row]:
    return [
        {
            **attack,
            **attack["threat"],
            **_robust(attack["robust_accuracy"]),
            **_of_rate("success_rate", attack["success_rate"], "broken", "correct"),
            **attack["verified"],
            **_of_rate("success_at_any_norm", attack.get("unbounded", {}).get("success_rate")),
            "median_norm": attack.get("unbounded", {}).get("median_norm"),
            "parameters": parameters_text(attack["parameters"]),
            "forward_passes": attack["passes"]["forward"],
            "backward_passes": attack["passes"]["backward"],
        }
        for attack in content["attacks"]
    ]


def _worst_case(content: dict[str, Any]) -> list[Row]:
    return [
        {
            **worst["threat"],
            "complete": worst["complete"],
            **_robust(worst["robust_accuracy"]),
            **_bound(worst["at_most"]),
            **_of_rate("success_rate", worst["success_rate"], "broken", "correct"),
        }
        for worst in content["worst_case"]
    ]


def _classes(content: dict[str, Any]) -> list[Row]:
    return [
        {
            **worst["threat"],
            "class": row["class"],
            **_robust(row["robust_accuracy"]),
            **_bound(row["at_most"]),
        }
        for worst in content["worst_case"]
        for row in worst["per_class"]
    ]


def _outliers(content: dict[str, Any]) -> list[Row]:
    return [_separation(row) for row in content["outliers"]]


def _detection(content: dict[str, Any]) -> list[Row]:
    return [_separation(row) for row in content["attack_detection"]]


_SHARES = ("accuracy", "accepted", "robust", "robust_without", "stratified")


def _rejection(content: dict[str, Any]) -> list[Row]:
    rows = []
    for row in content.get("rejection", []):
        shares: Row = {"samples": row["accuracy"]["n"]}
        for name in _SHARES:
            shares |= _of_rate(name, row[name])
        rows.append({**row, **row["threat"], **shares})
    return rows


def _under_attack(content: dict[str, Any]) -> list[Row]:
    return [{**_separation(row), **row["threat"]} for row in content.get("under_attack", [])]


def _separation(row: Row) -> Row:
    metrics = [_of_rate(name, row.get(name)) for name in _METRICS]  # older reports have fewer
    return {**row, **{column: value for metric in metrics for column, value in metric.items()}}


def _claims(content: dict[str, Any]) -> list[Row]:
    rows = []
    for claim in content["claims"]:
        found, worst = claim["found_threat"] or {}, claim["worst_threat"] or {}
        rows.append(
            {
                **claim,
                "claimed": claim["accuracy"] / 100,
                "differs": "; ".join(claim.get("differs", ())),  # older reports have none
                **_of_rate("found", claim["found"]),
                **{"found_norm": found.get("norm"), "found_eps": found.get("eps")},
                **_of_rate("worst", claim["worst"]),
                **{"worst_norm": worst.get("norm"), "worst_eps": worst.get("eps")},
            }
        )
    return rows


def _findings(content: dict[str, Any]) -> list[Row]:
    return [{**found, **(found["threat"] or {})} for found in content["findings"]]


def _prototypes(content: dict[str, Any]) -> list[Row]:
    return [
        {
            **row,
            **{"layer": layer["layer"], "prototypes": layer["per_class"]},
            "distinct": None if layer["distinct"] is None else row["distinct"],
        }
        for layer in (content.get("prototypes") or {"layers": []})["layers"]
        for row in layer["classes"]
    ]


def _curves(content: dict[str, Any]) -> list[Row]:
    """A row for each point: how many samples are robust beyond that ε, or that many passes."""
    rows = []
    for curve in content["curves"]["distance"]:
        best = {"name": "best", "title": "best of all attacks", **curve["best"]}
        about = {"curve": "distance", "norm": curve["norm"], "samples": curve["samples"]}
        rows += [row for line in (*curve["attacks"], best) for row in _points(about, line)]
    for curve in content["curves"]["cost"]:
        about = {"curve": "cost", **curve["threat"], "samples": curve["samples"]}
        rows += [row for line in curve["attacks"] for row in _points(about, line)]
    return rows


def _points(about: Row, line: Row) -> list[Row]:
    return [
        {
            **about,
            **{"attack": line["name"], "title": line["title"], "place": place, "robust": robust},
            "robust_accuracy": robust / about["samples"],
        }
        for place, robust in line["points"]
    ]


ROWS = {
    "attacks": _attacks,
    "worst_case": _worst_case,
    "classes": _classes,
    "outliers": _outliers,
    "detection": _detection,
    "rejection": _rejection,
    "under_attack": _under_attack,
    "claims": _claims,
    "findings": _findings,
    "missing": lambda content: content["missing"],
    "left_out": lambda content: content["left_out"],
    "prototypes": _prototypes,
    "curves": _curves,
}
