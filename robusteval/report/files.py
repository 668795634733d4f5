"""The report's files in a run's folder, all of them made from its evidence."""

import json
from pathlib import Path
from typing import Any

from robusteval import inert
from robusteval.evidence.results import Example
from robusteval.report.page import render_html, render_markdown
from robusteval.report.rows import as_csv, rows_of
from robusteval.report.summary import SCHEMA
from robusteval.storage import (
    remove_file,
    remove_partials,
    replace_file,
    require_replaceable,
    require_writable,
)


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and finds out before the run whether it can be written."""
    require_writable(folder, "choose another with --out")


def report_files(report: dict[str, Any], examples: list[Example]) -> dict[str, bytes]:
    """Every file by name; the same report gives the same bytes."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files = {
        "row.csv": as_csv(rows_of(report)),
        "report.md": render_markdown(report),
        "report.html": render_html(report, examples),
        "report.json": inert.json_text(text),
    }
    return {name: content.encode() for name, content in files.items()}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """``row.csv``, ``report.md``, ``report.html``, and last ``report.json``: it marks the whole."""
    remove_partials(folder)
    for name in files:
        require_replaceable(folder / name, "mend the folder or use --out")
    # Gone first, back last: an interruption between leaves nothing that looks whole.
    remove_file(folder / "report.json", "mend the folder or use --out")
    for name, content in files.items():
        replace_file(folder / name, content, "free space or use --out")


def write_table(path: Path, table: str) -> None:
    """A CSV in a folder of tables."""
    remove_partials(path.parent)
    replace_file(path, table.encode(), "free space or use --out")


def read_report(folder: Path) -> dict[str, Any] | None:
    """A finished run's ``report.json``; None if there is none that can be used."""
    try:
        content = json.loads((folder / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    usable = isinstance(content, dict) and content.get("schema") == SCHEMA
    return content if usable else None


def altered_files(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Names of the files that are not what the evidence gives."""
    altered = []
    for name, content in files.items():
        path = folder / name
        same_size = path.is_file() and path.stat().st_size == len(content)  # any may be huge
        if not same_size or path.read_bytes() != content:
            altered.append(name)
    return altered
