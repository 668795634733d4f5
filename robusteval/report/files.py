"""A report's four files, written so that nothing half-made looks whole."""

import json
from pathlib import Path
from typing import Any

from robusteval.evaluation.outcomes import Example
from robusteval.report.leaderboard import COLUMNS, leaderboard_rows
from robusteval.report.page import render_html, render_markdown
from robusteval.storage import replace_file, require_writable


def prepare_folder(folder: Path) -> None:
    """Makes the folder, and finds out before the run whether it can be written."""
    require_writable(folder, "choose another with --out")


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
        replace_file(folder / name, text.encode(), "free space or use --out")
