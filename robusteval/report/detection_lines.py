"""Detection in a few lines, for a terminal.  Imports neither torch nor pandas."""

from collections.abc import Iterator
from typing import Any

from robusteval.report.detection_tables import detection_overview
from robusteval.report.wording import count, percent, threat_text

Report = dict[str, Any]


def detection_lines(report: Report) -> Iterator[str]:
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
    for guard in report.get("rejection", []):
        robust, accepted = guard["robust"], guard["accepted"]
        yield (
            f"under an attacker who knows {guard['detector']}, {threat_text(guard['threat'])}: "
            f"{percent(robust)} left ({count(robust)}) of {percent(accepted)} accepted"
        )
    for row in report.get("under_attack", []):
        if row["attacked"] == "both" and row["auroc"]:
            yield (
                f"under an attacker who knows {row['detector']}, {threat_text(row['threat'])}: "
                f"AUROC {percent(row['auroc'])} against {row['against']}, both sides moved"
            )
