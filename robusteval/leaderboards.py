"""``robusteval leaderboard``: runs that verify become rows; published rows are checked."""

from collections.abc import Sequence
from pathlib import Path

from robusteval import api
from robusteval.errors import EvidenceError
from robusteval.evaluation.outcomes import load_result
from robusteval.evaluation.proof import Check
from robusteval.evaluation.record import open_store
from robusteval.models.entry import Entry, all_entries
from robusteval.report import board
from robusteval.report.files import write_table
from robusteval.report.summary import summarise
from robusteval.storage import require_writable


def add(
    runs: Sequence[Path],
    folder: Path,
    data_dir: Path | None = None,
    allow_code: bool = False,
) -> list[Path]:
    """Puts each run's model on the leaderboards of its threat models; the files that changed.

    Every run is verified afresh before the first row is written.  Raises EvidenceError for a run
    that is incomplete, does not verify, or is of a model that no entry describes.
    """
    found: dict[str, list[board.Row]] = {}
    for run in runs:
        for name, row in _rows(run, data_dir, allow_code).items():
            found.setdefault(name, []).append(row)
    require_writable(folder, "choose another with --folder")
    for name, new in found.items():
        rows = board.read_rows(folder / name)
        for row in new:
            rows = board.merged(rows, row)
        write_table(folder / name, board.as_csv(rows))
    return [folder / name for name in found]


def _rows(run: Path, data_dir: Path | None, allow_code: bool) -> dict[str, board.Row]:
    _, spec, record = open_store(run)
    if not record["entry"]:
        raise EvidenceError(f"{run} is of a model without an entry: only those can be looked up")
    report = summarise(load_result(run))
    if report["status"] != "complete":
        raise EvidenceError(f"{run} is incomplete: finish it with the command that began it")
    checks = api.verify(run, None, data_dir, allow_code)
    if failed := [check.name for check in checks if not check.held]:
        raise EvidenceError(f"{run} does not verify ({', '.join(failed)}): run it anew")
    return board.rows_of(report, spec.model_digest)


def check(folder: Path) -> list[Check]:
    """Each leaderboard of a folder: its numbers, ranks, and the registry's digests.

    Raises EvidenceError if there is none.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise EvidenceError(f"no leaderboards in {folder}: name their folder with --folder")
    entries = {e.name: e for e in all_entries() if isinstance(e, Entry)}
    checks = []
    for path in paths:
        rows = board.read_rows(path)
        wrong = list(board.problems(rows, entries))
        checks.append(Check(path.name, not wrong, "; ".join(wrong) or f"{len(rows)} models"))
    return checks
