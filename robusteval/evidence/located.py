"""The one door to a run's files, wherever they are kept."""

import errno
import os
import stat
from pathlib import Path

from robusteval.errors import OutputError
from robusteval.evidence.archive import Archive
from robusteval.evidence.files import Files, Local
from robusteval.evidence.remote import Remote
from robusteval.places import Place, Url
from robusteval.storage import require_possible

_OTHER = "choose another with --out"


def files_at(place: Place) -> Files:
    """The run at a path or a URL, whether there is one or not: a folder, or a run's archive.

    Raises OutputError for a URL that nothing here can open.
    """
    if isinstance(place, Url):
        return _remote(place)
    return Archive(place) if place.is_file() else Local(place)


def _remote(url: Url) -> Remote:
    remote = Remote(url)
    remote.open()
    return remote


def runs_in(out: Place, start: str) -> list[Place]:
    """The places in a folder whose names begin so, in order; none where there is no folder."""
    names = _remote(out).names("") if isinstance(out, Url) else _entries(out)
    return [out / name for name in sorted(names) if name.startswith(start)]


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def require_usable(out: Place) -> None:
    """Raises OutputError for what can't be looked into, or be a folder; one that isn't there will
    be made."""
    if isinstance(out, Url):
        _remote(out).require_answer()
        return
    try:
        if not stat.S_ISDIR(os.stat(out).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is not a folder")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"folder {out} can't be used ({error.strerror}): {_OTHER}") from None
    require_possible(out, _OTHER)
