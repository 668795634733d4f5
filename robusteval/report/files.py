"""A report's four files, written so that nothing half-made looks whole."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from robusteval.errors import OutputError
from robusteval.evaluation.outcomes import Example
from robusteval.report.leaderboard import COLUMNS, leaderboard_rows
from robusteval.report.page import render_html, render_markdown


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and finds out before the run whether it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"output folder {folder} can't be written ({error.strerror}): choose another with --out"
        ) from None


def write_report(folder: Path, report: dict[str, Any], examples: list[Example]) -> None:
    """``row.csv``, ``report.md``, ``report.html``, and last ``report.json``: it marks the whole."""
    import pandas as pd

    rows = pd.DataFrame(leaderboard_rows(report), columns=list(COLUMNS))
    texts = {
        "row.csv": rows.to_csv(index=False),
        "report.md": render_markdown(report),
        "report.html": render_html(report, examples),
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    # Gone first, back last: an interruption between leaves nothing that looks whole.
    (folder / "report.json").unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def write_text(path: Path, text: str) -> None:
    """Replaces a file atomically.  Raises OutputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path} can't be written ({error.strerror}): free space or use --out"
        ) from None
