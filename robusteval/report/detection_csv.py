"""``detection.csv``: every row of detection, however many detectors there are."""

import csv
import io
from typing import Any

from robusteval import inert
from robusteval.report.tables import ROWS, TABLES

NAME = "detection.csv"
FIRST = ("kind", "group", "reading")


def detection_csv(report: dict[str, Any]) -> str:
    """Rows of outliers and of attacked images under one header; metrics are shares from 0 to 1, and
    what has no number is empty.  Nothing for a report without detectors."""
    tables = {"outliers": "outliers", "attack_detection": "detection"}
    rows = [{"kind": kind, **row} for kind, table in tables.items() for row in ROWS[table](report)]
    if not rows:
        return ""
    columns = dict.fromkeys([*FIRST, *TABLES["outliers"], *TABLES["detection"]])
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else inert.cell(str(value))
