"""A run as one file: a plain zip, read wherever a run's folder is read.

Its bytes follow from the run's files alone: names in order, one date, nothing packed.  One that is
read may come from anybody.  It holds a run's files under their own names and nothing else; since
nothing in it is packed, and all together is no larger than the archive, none can swell.
"""

import errno
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from robusteval.errors import EvidenceError, OutputError, RobustevalError, reason, shown
from robusteval.evidence.files import Files
from robusteval.evidence.zips import DAMAGED, entry_of

MOST_FILES = 200_000
# What a run has beside its evidence; a log of workers is no part of it.
_TOP = ("detection.csv", "report.html", "report.json", "report.md", "row.csv", "run.json")
_EVIDENCE = "evidence"
_NAME = re.compile(
    rf"(?:{'|'.join(map(re.escape, _TOP))})"
    rf"|{_EVIDENCE}/(?!\.{{1,2}}$)[^/\\\x00-\x1f\x7f\ud800-\udfff]{{1,255}}"
)
_UTF8 = 0x800  # the only flag that an entry of ours can bear
# The ends of a zip, without a comment: that of any, and what stands before it in a large one.
_END, _END_SIZE, _ALL_ENDS = b"PK\x05\x06", 22, 98
_LOCATOR = b"PK\x06\x07"
_MOST_DIRECTORY = MOST_FILES * 160  # bytes: zipfile reads them before it can be asked anything
_DAMAGED = (*DAMAGED, ValueError)


class Archive:
    """A run in an archive.  Raises EvidenceError for a file that is none, whole and as made."""

    read_only = True

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = _opened(path)
        except (OSError, *_DAMAGED) as error:
            told = error.strerror if isinstance(error, OSError) else None
            raise EvidenceError(
                f"{path} is not an archive of a run ({told or reason(error)}): "
                "`robusteval export RUN --as archive` makes one"
            ) from None

    def read(self, name: str) -> bytes:
        if not self.has(name):
            raise FileNotFoundError(errno.ENOENT, "the archive has none")
        try:
            return self._zip.read(name)
        except (OSError, *_DAMAGED):
            raise OSError(errno.EIO, "the archive is damaged there") from None
        except MemoryError:
            raise OSError(errno.ENOMEM, "too little memory") from None

    def has(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def size(self, name: str) -> int:
        return self._zip.getinfo(name).file_size if self.has(name) else -1

    def names(self, folder: str) -> list[str]:
        within = (name.rpartition("/") for name in self._zip.namelist())
        return sorted(name for parent, _, name in within if parent == folder)

    def sizes(self) -> list[int]:
        return [entry.file_size for entry in self._zip.infolist()]

    def where(self, name: str = "") -> str:
        return str(self.path / name)

    # Nothing can be written

    def write(self, name: str, content: bytes, advice: str) -> None:
        self._refuse()

    def create(self, name: str, content: bytes, advice: str) -> bool:
        self._refuse()

    def remove(self, name: str, advice: str) -> None:
        self._refuse()

    def require_replaceable(self, name: str, advice: str) -> None:
        self._refuse()

    def prepare(self, folder: str, advice: str) -> None:
        self._refuse()

    def tidy(self, folder: str) -> None:
        self._refuse()

    @contextmanager
    def lock(self, busy: RobustevalError) -> Iterator[None]:
        self._refuse()
        yield

    def remove_all(self, advice: str) -> None:
        self._refuse()

    def from_anywhere(self) -> "Archive":
        return Archive(self.path.resolve())

    def _refuse(self) -> NoReturn:
        raise OutputError(f"{self.path} is an archive, which stays as it is: unpack it first")


def write_archive(run: Files, stream: BinaryIO) -> None:
    """Writes a run as an archive.  Raises EvidenceError for what can't be read, or is none of a
    run's files."""
    names = [name for name in _TOP if run.has(name)]
    names += [f"{_EVIDENCE}/{name}" for name in run.names(_EVIDENCE)]
    if len(names) > MOST_FILES:
        raise EvidenceError(f"{run.where()} has more than {MOST_FILES:,} files: keep it as it is")
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(names):
            if not _NAME.fullmatch(name):
                raise EvidenceError(f"{shown(run.where(name))} is not a file of a run: remove it")
            archive.writestr(entry_of(name), _content(run, name))


def _content(run: Files, name: str) -> bytes:
    try:
        return run.read(name)
    except OSError as error:
        told = error.strerror or reason(error)
        raise EvidenceError(f"{run.where(name)} can't be read ({told}): mend that") from None


def _opened(path: Path) -> zipfile.ZipFile:
    """It, once looked at.  Raises OSError, or one of ``_DAMAGED``."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _ALL_ENDS))
        count = _count(file.read(_ALL_ENDS), size)
    opened = zipfile.ZipFile(path)
    if len(opened.infolist()) != count:  # some stand in another's comment
        raise ValueError("it lists other files than it has")
    _require_entries(opened.infolist(), size)
    return opened


def _count(ends: bytes, size: int) -> int:
    """How many files an archive says that it has.

    Raises ValueError for what doesn't end as an archive, or says that it has too many.
    """
    end, before = ends[-_END_SIZE:], ends[:-_END_SIZE]
    if len(end) < _END_SIZE or end[:4] != _END or end[-2:] != bytes(2):
        raise ValueError("it is not a zip, or was cut short")
    count, directory = _number(end[10:12]), _number(end[12:16])
    if before[-20:-16] == _LOCATOR:  # the archive is large, and its real end stands before
        if _number(before[-12:-4]) != size - _ALL_ENDS:
            raise ValueError("its end is elsewhere than it says")
        count, directory = _number(before[32:40]), _number(before[40:48])
    if count > MOST_FILES or directory > _MOST_DIRECTORY:
        raise ValueError(f"it lists more than {MOST_FILES:,} files")
    return count


def _number(part: bytes) -> int:
    return int.from_bytes(part, "little")


def _require_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises ValueError for anything but a run's files, as they are, each once."""
    for entry in entries:
        name = entry.orig_filename
        if not _NAME.fullmatch(name):
            raise ValueError(f"it holds {shown(name)}, which no run has")
        if not stat.S_ISREG(entry.external_attr >> 16):
            raise ValueError(f"{name} is not a file in it")
        packed = entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size
        if packed or entry.flag_bits & ~_UTF8:
            raise ValueError(f"{name} is packed in it: unpack it, and name the folder")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it holds a file twice")
    if sum(entry.file_size for entry in entries) > size:  # one lies upon another
        raise ValueError("it says that it holds more than it has")
