"""Which detectors do best, from a report's rows.

It imports nothing heavy, so that a finished run is printed at once.
"""

from statistics import fmean
from typing import Any

Row = dict[str, Any]


def by_detector(rows: list[Row]) -> dict[str, dict[str, list[float]]]:
    """AUROCs of each detector by group of outliers, or by reading of attacks."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        values = found.setdefault(row["detector"], {})
        if row["auroc"]:
            part = row.get("group") or row.get("reading") or ""
            values.setdefault(part, []).append(row["auroc"]["value"])
    return found


def ranked_detectors(rows: list[Row]) -> list[str]:
    """Best first: by mean AUROC against near and far outliers, each group counted once; where there
    are none, against whatever there is."""
    found = by_detector(rows)

    def mean(detector: str) -> float:
        parts = found[detector]
        meant = [parts[k] for k in ("near", "far", "natural", "folder") if k in parts]
        meant = meant or list(parts.values())
        return fmean(map(fmean, meant)) if meant else -1.0

    return sorted(found, key=lambda name: (-mean(name), name))
