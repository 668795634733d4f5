"""The report's files in a run's folder, all of them made from its evidence."""

import json
from pathlib import Path
from typing import Any

from robusteval import inert
from robusteval.evidence.files import Files
from robusteval.evidence.located import files_at
from robusteval.evidence.results import Example
from robusteval.places import Place
from robusteval.report.detection_csv import NAME as DETECTION
from robusteval.report.detection_csv import detection_csv
from robusteval.report.page import render_html, render_markdown
from robusteval.report.rows import as_csv, rows_of
from robusteval.report.summary import SCHEMA
from robusteval.storage import remove_partials


def report_files(report: dict[str, Any], examples: list[Example]) -> dict[str, bytes]:
    """Every file by name; the same report gives the same bytes."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    detection = detection_csv(report)
    files = {
        "row.csv": as_csv(rows_of(report)),
        **({DETECTION: detection} if detection else {}),
        "report.md": render_markdown(report),
        "report.html": render_html(report, examples),
        "report.json": inert.json_text(text),
    }
    return {name: content.encode() for name, content in files.items()}


def write_files(run: Files, files: dict[str, bytes]) -> None:
    """Every file, and last ``report.json``: it marks the whole."""
    run.prepare("", "mend the folder or use --out")
    for name in files:
        run.require_replaceable(name, "mend the folder or use --out")
    # Gone first, back last: an interruption between leaves nothing that looks whole.
    run.remove("report.json", "mend the folder or use --out")
    for name, content in files.items():
        run.write(name, content, "free space or use --out")


def require_table(place: Place) -> None:
    """Raises OutputError where ``write_table`` would, for what is there now."""
    files_at(place.parent).require_replaceable(place.name, "choose another folder with --out")


def write_table(place: Place, table: str) -> None:
    """A CSV in a folder of tables."""
    if isinstance(place, Path):
        remove_partials(place.parent)
    files_at(place.parent).write(place.name, table.encode(), "free space or use --out")


def read_report(folder: Path) -> dict[str, Any] | None:
    """A finished run's ``report.json``; None if there is none that can be used."""
    try:
        content = json.loads((folder / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    usable = isinstance(content, dict) and content.get("schema") == SCHEMA
    return content if usable else None


def altered_files(run: Files, files: dict[str, bytes]) -> list[str]:
    """Names of the files that are not what the evidence gives."""
    return [
        name
        for name, content in files.items()  # any may be huge, so that its size is asked first
        if run.size(name) != len(content) or run.read(name) != content
    ]
