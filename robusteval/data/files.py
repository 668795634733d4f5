"""Files and folders that others made: opened without waiting, and told of in one line.

A path may lead to anything: a FIFO or a device, which would block; a folder; a circle of links; a
place that may not be read.  A file may hold anything, and readers of formats raise many kinds of
error over it.  Here each of these becomes one DataError.
"""

import errno
import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robusteval.errors import DataError, RobustevalError

# Folders that systems leave beside their users' own.
_OF_SYSTEMS = {
    *("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN"),
    *("System Volume Information", "lost+found"),
}
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR}
_SHOWN = 300  # characters of a path or of another's message


def shown(path: object) -> str:
    """A path as a message can hold it: in one line, bytes that are no text escaped, not too long.

    A class's name is shown by it, too.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"


def reason(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    return shown(" ".join(said.split())) or type(error).__name__


def is_visible(name: str) -> bool:
    """Whether a user would see it: no dot at its start, and none of a system's own folders."""
    return not name.startswith(".") and name not in _OF_SYSTEMS


def is_there(path: Path) -> bool:
    """Whether anything is at that path, a broken link too.  Raises DataError if that is hidden."""
    try:
        path.lstat()
    except (OSError, ValueError) as error:  # ValueError: a NUL, or letters that no file can have
        return _absent(path, error)
    return True


def is_folder(path: Path) -> bool:
    """Whether a folder is at that path.  Raises DataError if that can't be told."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        return _absent(path, error)


def _absent(path: Path, error: OSError | ValueError) -> bool:
    """False if nothing is there.  Raises DataError for everything else."""
    if isinstance(error, OSError) and error.errno in _NOTHING_THERE:
        return False
    raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> DataError:
    """What is told of a place that the system doesn't let be read."""
    advice = "make it readable, or name another place"
    return DataError(f"{shown(path)} can't be read ({reason(error)}): {advice}")


def entries(folder: Path) -> list[Path]:
    """What a user sees in a folder, sorted by name; nothing if there is no such folder.

    Raises DataError if it can't be read.
    """
    if not is_folder(folder):
        return []
    try:
        return sorted(path for path in folder.iterdir() if is_visible(path.name))
    except OSError as error:
        raise unreadable(folder, error) from None


def open_file(path: Path) -> io.BufferedReader:
    """Opens a regular file, and nothing that could block.  Raises DataError."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO, a socket or a device"
            raise DataError(f"{shown(path)} is {kind}, where a file is expected: move it away")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def read_bytes(path: Path) -> bytes:
    """A file's content.  Raises DataError if it is no file or can't be read."""
    with open_file(path) as stream:
        try:
            return stream.read()
        except OSError as error:
            raise unreadable(path, error) from None


@contextmanager
def parsing(what: str, advice: str) -> Iterator[None]:
    """What a format's reader raises over damaged content becomes one DataError.

    ``what``: the beginning of the message, such as "a.mat is no SVHN file".
    """
    try:
        yield
    except RobustevalError:
        raise
    except MemoryError:
        raise DataError(f"{what} (it asks for more memory than there is): {advice}") from None
    except Exception as error:  # noqa: BLE001 - over damaged files they raise many kinds
        raise DataError(f"{what} ({reason(error)}): {advice}") from None
