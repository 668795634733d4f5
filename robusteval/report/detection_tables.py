"""Detection as it is shown: an overview, then a table for each set, best detector first.

With many detectors a table shows the best ones, and folds the others away.
"""

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from robusteval.report.best import by_detector, ranked_detectors

METRIC_TITLES = {
    "auroc": "AUROC",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "fpr95": "FPR@95TPR",
    "detection_error": "Detection error",
    "autc": "AUTC",
    "oscr": "OSCR",
}
SHOWN = 8  # rows of a table; the others are folded
SHOWN_IN_OVERVIEW = 12
# Groups of outliers and readings of attacks, in the order in which they are shown.
PARTS = {
    "near": "near outliers",
    "far": "far outliers",
    "natural": "outliers",
    "noise": "noise",
    "folder": "folders",
    "strict": "attacks, strict",
    "worst_case": "attacks, worst case",
    "paper": "attacks, as papers count",
}
MEANINGS = {
    "strict": "Clean images that are classified correctly, against those that fool the model.",
    "worst_case": "All of a threat's detected attacks together: of each broken sample the image "
    "that the detector trusts most of those that broke it. A detector counts on a sample only if "
    "it catches every attack on it.",
    "paper": "The whole test set against every attacked image, whether or not it fools the model: "
    "misclassified clean images count as clean, and images that fool nobody as attacks.",
}

Row = dict[str, Any]


def part_of(row: Row) -> str:
    """The group of outliers or the reading that a row belongs to; reports of earlier versions had
    only natural outliers and the strict reading."""
    default = "strict" if "attacker_knew" in row else "natural"
    return str(row.get("group") or row.get("reading") or default)


def detection_overview(report: Row) -> Row | None:
    """Mean AUROC of each detector by group and reading; None for a report without detectors."""
    rows = [*report["outliers"], *report["attack_detection"]]
    found = by_detector([{**row, "group": part_of(row)} for row in rows])
    parts = _in_order({part for values in found.values() for part in values})
    if not parts:
        return None
    cells = [
        {
            "detector": name,
            "cells": [fmean(found[name][p]) if p in found[name] else None for p in parts],
        }
        for name in ranked_detectors([{**row, "group": part_of(row)} for row in rows])
    ]
    return {
        "titles": [_title(part) for part in parts],
        "shown": cells[:SHOWN_IN_OVERVIEW],
        "folded": cells[SHOWN_IN_OVERVIEW:],
        "many": len(cells) if len(cells) > SHOWN else 0,
    }


def detection_groups(report: Row) -> list[Row]:
    """Every part with its sets, each with its rows, best first."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in (*report["outliers"], *report["attack_detection"]):
        found.setdefault(part_of(row), {}).setdefault(row["against"], []).append(row)
    return [
        {
            "part": part,
            "title": _title(part)[:1].upper() + _title(part)[1:],
            "meaning": MEANINGS.get(part, ""),
            "sets": [_set(against, rows) for against, rows in found[part].items()],
        }
        for part in _in_order(found)
    ]


def _in_order(parts: Iterable[str]) -> list[str]:
    """Those of ``PARTS``, then any others by name."""
    known = [part for part in PARTS if part in parts]
    return known + sorted(set(parts) - set(known))


def _title(part: str) -> str:
    return PARTS.get(part, part.replace("_", " "))


def _set(against: str, rows: list[Row]) -> Row:
    ordered = sorted(rows, key=_best_first)
    return {
        "against": against,
        **{"n_in": rows[0]["n_in"], "n_out": rows[0]["n_out"]},
        **{"shown": ordered[:SHOWN], "folded": ordered[SHOWN:], "figures": []},
    }


def _best_first(row: Row) -> tuple[float, str]:
    return (-row["auroc"]["value"] if row["auroc"] else 1.0, row["detector"])


def classes_text(outlier_set: Row) -> str:
    """Which classes a set shares with the data, in words."""
    shared = outlier_set.get("shared_classes")
    if outlier_set["group"] == "noise" or outlier_set.get("split") == "made":
        return "has no classes"
    if shared is None:
        return "not known: no class names"
    if not shared:
        return "none, by their names"
    kinds: dict[str, list[str]] = {}
    for pair in shared:
        mine, _, theirs = pair.partition(" = ")
        kinds.setdefault(mine, []).extend([theirs] * bool(theirs))
    told = [f"{name} ({_some(more, 2)})" if more else name for name, more in kinds.items()]
    return f"{len(kinds)}: {_some(told, 6)}"


def _some(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def share(value: float | None) -> str:
    """32.1 %, or a dash where there is no number."""
    return "–" if value is None else f"{100 * value:.1f} %"
