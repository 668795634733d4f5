"""The runs of a folder or a store: how large each is and how far, and how one is deleted."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robusteval import sharing
from robusteval.api import files_of
from robusteval.errors import EvidenceError, OutputError, RobustevalError
from robusteval.evidence import located
from robusteval.evidence.claims import alone
from robusteval.evidence.record import RECORD, read_record
from robusteval.evidence.store import Store
from robusteval.places import Place
from robusteval.storage import remove_folder, sizes_below
from robusteval.submission import logs_of

_ADVICE = "mend its permissions, then run the same command again"


@dataclass(frozen=True)
class Kept:
    """A run: where it is, how many jobs it has done and has, its files and their bytes with those
    of its logs, and its state in words."""

    run: str
    done: int
    jobs: int
    files: int
    bytes: int
    state: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def runs_in(out: Place) -> list[Kept]:
    """Every run that is directly in a folder or below a URL, by name.

    Raises OutputError where there is none.
    """
    if isinstance(out, Path):
        _require_readable(out)
    return [look_at(place) for place in located.runs_in(out, "") if _is_run(place)]


def _is_run(place: Place) -> bool:
    """Archives aside: they are files."""
    if isinstance(place, Path):
        return (place / RECORD).is_file()
    return files_of(place).has(RECORD)


def _require_readable(out: Path) -> None:
    try:
        next(out.iterdir(), None)
    except OSError as error:
        raise OutputError(
            f"folder {out} can't be read ({error.strerror}): name another with --out"
        ) from None


def look_at(run: Place) -> Kept:
    """One run; a damaged one has its reason as its state."""
    files = files_of(run)
    sizes = [*files.sizes(), *sizes_below(logs_of(run))]
    try:
        worked = sharing.standing(run)
    except RobustevalError as error:
        return Kept(str(run), 0, 0, len(sizes), sum(sizes), f"can't be read: {error}")
    if worked.failed:
        state = f"failed: {', '.join(worked.failed)}"
    elif worked.done < worked.jobs:
        state = "begun"
    else:
        state = "finished" if files.has("report.json") else "without a report"
    return Kept(str(run), worked.done, worked.jobs, len(sizes), sum(sizes), state)


def require_deletable(run: Place) -> None:
    """Raises EvidenceError for what is no run, or a link to one."""
    if isinstance(run, Path) and run.is_symlink():
        raise EvidenceError(f"{run} is a link: name the run that it leads to")
    read_record(files_of(run))


def delete(run: Place, clock: Callable[[], float] = time.monotonic) -> None:
    """Deletes a run and the logs of its jobs.

    Raises EvidenceError while somebody is at work on it, OutputError for what can't be deleted.
    """
    require_deletable(run)
    files = files_of(run)
    with alone(Store(files, ""), clock):
        remove_folder(logs_of(run), _ADVICE)
        files.remove_all(_ADVICE)
