"""Files that are whole or not there, places that are tried before they are needed, and locks.

Nothing is written through a link: a file takes the place of a link of its name, and what the link
led to stays as it was.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from robusteval.errors import OutputError, RobustevalError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

LEADERBOARDS = Path("leaderboards")  # where they are published, unless one says otherwise
# What is being written: ours, and, by the target's name and a process, those of earlier versions.
_PARTIAL = re.compile(r"\.robusteval\.[0-9a-f]{16}\.partial|\..+\.[0-9]{1,7}\.partial", re.DOTALL)
_ABANDONED = 86400.0  # seconds without a word, where no lock can tell who still writes
_PAUSE = 0.05  # seconds between two tries for a lock
# What systems say where a file system has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # a pipe must not keep us waiting


def cache_dir() -> Path | None:
    """``$XDG_CACHE_HOME/robusteval``, else ``~/.cache/robusteval``; None without a home."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "robusteval"
    try:
        return Path.home() / ".cache" / "robusteval"
    except RuntimeError:  # neither $HOME nor an entry in passwd: a container's arbitrary user
        return None


def write_cache(path: Path, content: bytes) -> None:
    """Replaces a file of the user's cache: one that can't be written costs time, nothing else."""
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, "it is left out")


def replace_file(path: Path, content: bytes, advice: str) -> None:
    """Replaces a file atomically: a kill leaves the old one or the new one, never half of one.

    A new file gets the usual mode, a replaced one keeps its own.  Raises OutputError, ending in
    ``advice``, if it can't be written, or if what is there is write-protected or no file.
    """
    with replacing(path, advice) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path, advice: str) -> Iterator[BinaryIO]:
    """The same for a file that is written bit by bit: it is there, whole, when this ends."""
    with _told(path, advice):
        mode = _mode_of(path)
        with _partial_in(path.parent) as (partial, stream):
            yield stream
            stream.flush()
            if mode is not None:
                partial.chmod(mode)
            os.fsync(stream.fileno())
            os.replace(partial, path)
        _sync(path.parent)


def create_file(path: Path, content: bytes, advice: str) -> bool:
    """Writes a file, whole, unless there is something of its name: then False.

    Of several processes one makes it.  Raises OutputError, ending in ``advice``.
    """
    with _told(path, advice), _partial_in(path.parent) as (partial, stream):
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        _sync(path.parent)
        return True


def remove_file(path: Path, advice: str) -> None:
    """Removes a file, if it is there.  Raises OutputError."""
    with _told(path, advice, "removed"):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path, advice: str) -> None:
    """Removes a folder and all that is in it, if it is there.  Raises OutputError."""
    with _told(folder, advice, "removed"), suppress(FileNotFoundError):
        shutil.rmtree(folder)


def sizes_below(folder: Path) -> list[int]:
    """The bytes of each file below a folder; what goes meanwhile is passed over."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file() or path.is_symlink():
                found.append(path.lstat().st_size)
    return found


def append_to(path: Path, advice: str) -> BinaryIO:
    """Opens a log to be written at its end.  Raises OutputError, also for a link."""
    with _told(path, advice):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _AT_ONCE
        return os.fdopen(os.open(path, flags, 0o666), "ab")


def require_replaceable(path: Path, advice: str) -> None:
    """Raises OutputError where ``replace_file`` would, for what is there now."""
    with _told(path, advice):
        _mode_of(path)


def require_writable(folder: Path, advice: str, make: bool = True) -> None:
    """Makes a folder, or with ``make`` False finds where it would be made, and finds out at once
    whether that can be written.  Raises OutputError."""
    with _told(f"folder {folder}", advice):
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        with _partial_in(folder if make else _nearest(folder)):
            pass


def require_possible(folder: Path, advice: str) -> None:
    """Raises OutputError for what can't be a folder, whoever may write there."""
    with _told(f"folder {folder}", advice):
        if not stat.S_ISDIR(_nearest(folder).stat().st_mode):
            raise FileExistsError(errno.EEXIST, "")


def reason(error: Exception) -> str:
    """What went wrong with a file, without the file's name."""
    if isinstance(error, FileExistsError):
        return "what is there is not a folder"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def is_partial(name: str) -> bool:
    """Whether a file of this name is what a killed process had half written."""
    return _PARTIAL.fullmatch(name) is not None


def remove_partials(folder: Path) -> None:
    """Clears what killed processes had half written; what another one still writes stays."""
    with suppress(OSError, ValueError), os.scandir(folder) as found:
        for entry in found:
            if is_partial(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    _remove_abandoned(Path(entry.path))


@contextmanager
def locked(
    path: Path, busy: RobustevalError, *, make: bool = False, patience: float = 0.0
) -> Iterator[None]:
    """One process at a time is within this, for one file or folder; a kill frees it.

    With ``make`` an empty file is made for it, and no link is followed to one; else what is there
    is locked itself, and no file stays behind.  Raises ``busy`` where another process is still
    within after ``patience`` seconds, OutputError where ``path`` is nothing that could be locked.
    On file systems without locks all are let in, and without ``make`` on Windows, too.
    """
    with (_lock_file if make else _lock_of)(path, busy, patience):
        yield


@contextmanager
def _lock_file(path: Path, busy: RobustevalError, patience: float) -> Iterator[None]:
    lock = FileLock(path, timeout=patience, poll_interval=_PAUSE, fallback_to_soft=False)
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OSError(errno.EINVAL, "it is a link" if path.is_symlink() else "it is not a file")
        lock.acquire()
    except Timeout:
        raise busy from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) not in _NO_LOCKS:
            told = reason(error)
            raise OutputError(f"{path} can't be locked ({told}): remove it") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _lock_of(path: Path, busy: RobustevalError, patience: float) -> Iterator[None]:
    descriptor = _open_lock(path)
    try:
        _wait_for(descriptor, busy, patience)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _told(what: Path | str, advice: str, done: str = "written") -> Iterator[None]:
    """Turns what a system says of writing into one line.  Raises OutputError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OutputError(f"{what} can't be {done} ({reason(error)}): {advice}") from None


def _mode_of(path: Path) -> int | None:
    """The mode of the file that is there, if it is one.  Raises OSError for what must stay."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found):
        return None  # it gives way, and what it leads to stays
    if not stat.S_ISREG(found):
        raise OSError(errno.EINVAL, "what is there is not a file")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    return stat.S_IMODE(found)


def _nearest(folder: Path) -> Path:
    """What is there of a path: the whole, or the first of its parents.  Raises OSError."""
    try:
        folder.lstat()
    except FileNotFoundError:
        return _nearest(folder.parent)
    return folder


@contextmanager
def _partial_in(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file of a name that nobody can guess, locked while it is open, gone afterwards unless
    it was renamed."""
    partial, descriptor = _create_in(folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield partial, stream
    finally:
        partial.unlink(missing_ok=True)


def _create_in(folder: Path) -> tuple[Path, int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)
    while True:
        partial = folder / f".robusteval.{secrets.token_hex(8)}.partial"
        descriptor = os.open(partial, flags, 0o666)
        if _is_ours(descriptor):
            return partial, descriptor
        os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    """False where another process saw the file before it was locked, and is removing it."""
    try:
        _lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:  # no locks here: by its age no one takes it for abandoned
        return True
    return os.fstat(descriptor).st_nlink > 0


def _remove_abandoned(partial: Path) -> None:
    """Removes it unless somebody still writes it.  Raises OSError if that can't be found out."""
    descriptor = os.open(partial, os.O_RDWR | _NO_LINK | _AT_ONCE)
    try:
        if _is_abandoned(descriptor):
            partial.unlink()  # while it is locked, so that no one begins to write it
    finally:
        os.close(descriptor)


def _is_abandoned(descriptor: int) -> bool:
    try:
        _lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED
    return True


def _sync(folder: Path) -> None:
    """So that a new name outlives a loss of power, where the system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_lock(path: Path) -> int | None:
    """None where the system opens no folders.  Raises OutputError."""
    try:
        return os.open(path, os.O_RDONLY | _AT_ONCE)
    except (OSError, ValueError) as error:
        if fcntl is None:
            return None
        mend = "see to its permissions"
        raise OutputError(f"{path} can't be locked ({reason(error)}): {mend}") from None


def _wait_for(descriptor: int | None, busy: RobustevalError, patience: float) -> None:
    end = time.monotonic() + patience
    while descriptor is not None:
        try:
            return _lock(descriptor)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise busy from None
            time.sleep(_PAUSE)
        except OSError:  # a file system without locks
            return


def _lock(descriptor: int) -> None:
    """Raises BlockingIOError while another has it, another OSError where there are no locks."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks on this system")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
