"""Several runs' curves over ε in one figure, as SVG files."""

from collections.abc import Sequence
from pathlib import Path

from robusteval import api
from robusteval.errors import EvidenceError
from robusteval.evidence.results import load_result
from robusteval.report.eps_curves import FEWEST, eps_curves
from robusteval.report.summary import summarise
from robusteval.storage import replace_file


def draw(runs: Sequence[str | Path], file: Path) -> list[Path]:
    """Draws each attack that all runs made at several ε; the files, one for each norm.

    Raises EvidenceError where no attack ran at enough of them, or two runs are of one model.
    """
    reports = [summarise(load_result(api.files_of(run))) for run in runs]
    named = {report["model"]["name"]: report for report in reports}
    if len(named) < len(reports):
        raise EvidenceError("two runs are of one model: a figure takes one run of each")
    figures = eps_curves(named)
    if not figures:
        raise EvidenceError(
            f"no attack of all runs has {FEWEST} ε of one norm: run with --eps 4/255 8/255 12/255"
        )
    written = []
    for norm, figure in figures.items():
        path = file if len(figures) == 1 else file.with_stem(f"{file.stem}_{norm}")
        replace_file(path, figure.encode(), "name another with --figure")
        written.append(path)
    return written
