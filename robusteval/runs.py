"""The runs of a folder: how large each is and how far, and how one is deleted."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robusteval import sharing
from robusteval.api import files_of
from robusteval.errors import EvidenceError, OutputError, RobustevalError
from robusteval.evidence.record import RECORD, read_record
from robusteval.evidence.store import Store
from robusteval.run.claims import alone
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


def runs_in(out: Path) -> list[Kept]:
    """Every run that is directly in a folder, by name.  Raises OutputError where there is none."""
    try:
        found = sorted(path for path in out.iterdir() if (path / RECORD).is_file())
    except OSError as error:
        raise OutputError(
            f"folder {out} can't be read ({error.strerror}): name another with --out"
        ) from None
    return [look_at(path) for path in found]


def look_at(run: Path) -> Kept:
    """One run; a damaged one has its reason as its state."""
    sizes = list(_sizes(run))
    try:
        worked = sharing.standing(run)
    except RobustevalError as error:
        return Kept(str(run), 0, 0, len(sizes), sum(sizes), f"can't be read: {error}")
    if worked.failed:
        state = f"failed: {', '.join(worked.failed)}"
    elif worked.done < worked.jobs:
        state = "begun"
    else:
        state = "finished" if (run / "report.json").is_file() else "without a report"
    return Kept(str(run), worked.done, worked.jobs, len(sizes), sum(sizes), state)


def _sizes(run: Path) -> Iterator[int]:
    """Of all files of a run and of its logs; what goes meanwhile is passed over."""
    for folder in (run, logs_of(run)):
        for path in folder.rglob("*"):
            try:
                if path.is_file() or path.is_symlink():
                    yield path.lstat().st_size
            except OSError:
                continue


def require_deletable(run: Path) -> None:
    """Raises EvidenceError for what is no run, or a link to one."""
    if run.is_symlink():
        raise EvidenceError(f"{run} is a link: name the run that it leads to")
    read_record(files_of(run))


def delete(run: Path, clock: Callable[[], float] = time.monotonic) -> None:
    """Deletes a run and the logs of its jobs.

    Raises EvidenceError while somebody is at work on it, OutputError for what can't be deleted.
    """
    require_deletable(run)
    with alone(Store(files_of(run), ""), clock):
        for folder in (logs_of(run), run):
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                told = error.strerror or str(error)
                raise OutputError(f"{folder} can't be deleted ({told}): {_ADVICE}") from None
