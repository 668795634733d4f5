"""Detection in a few lines, for a terminal.  Imports neither torch nor pandas."""

from collections.abc import Iterator
from typing import Any

from robusteval.report.detection_tables import detection_overview
from robusteval.report.wording import count, percent, threat_text

Row = dict[str, Any]


def detection_lines(report: Row) -> Iterator[str]:
    """The best detector of each part, and what an attacker who knows a detector leaves of it."""
    overview = detection_overview(report)
    if overview:
        rows = [*overview["shown"], *overview["folded"]]
        told = []
        for place, title in enumerate(overview["titles"]):
            having = [row for row in rows if row["cells"][place] is not None]
            if having:
                best = max(having, key=lambda row: row["cells"][place])
                told.append(f"{title} {100 * best['cells'][place]:.1f} % ({best['detector']})")
        yield f"best detectors, by mean AUROC: {', '.join(told)}"
    yield from _guards(report.get("rejection", []))
    yield from _moved(report.get("under_attack", []))


def _guards(rows: list[Row]) -> Iterator[str]:
    """A line for each threat."""
    left: dict[str, list[str]] = {}
    for row in rows:
        told = f"{row['detector']} {percent(row['robust'])} ({count(row['robust'])})"
        left.setdefault(threat_text(row["threat"]), []).append(told)
    for threat, told_of in left.items():
        yield f"robust accuracy with an attacked detector, {threat}: {', '.join(told_of)}"


def _moved(rows: list[Row]) -> Iterator[str]:
    """A line for each threat and set of outliers."""
    moved: dict[str, list[str]] = {}
    for row in rows:
        if row["attacked"] == "both" and row["auroc"]:
            where = f"{threat_text(row['threat'])}, {row['against']}"
            moved.setdefault(where, []).append(f"{row['detector']} {percent(row['auroc'])}")
    for where, told_of in moved.items():
        yield f"AUROC of attacked detectors, {where}: {', '.join(told_of)}"
