"""A run's files, by their names in it: whole or absent, wherever they are kept."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from robusteval.errors import RobustevalError
from robusteval.reading import read_file
from robusteval.storage import (
    create_file,
    is_partial,
    locked,
    remove_file,
    remove_folder,
    remove_partials,
    replace_file,
    require_replaceable,
    require_writable,
    sizes_below,
)

_LOCK = ".lock"


class Files(Protocol):
    """Where one run is kept.  Names are such as ``run.json`` and ``evidence/clean-0000.parquet``.

    ``advice`` ends what is said where something can't be written, in an OutputError.
    ``read_only``: whether nothing can be.
    """

    @property
    def read_only(self) -> bool: ...

    def read(self, name: str) -> bytes:
        """A file's content.  Raises OSError, FileNotFoundError where there is none."""

    def write(self, name: str, content: bytes, advice: str) -> None:
        """Replaces a file: whoever reads it sees the old one or the new one, whole."""

    def create(self, name: str, content: bytes, advice: str) -> bool:
        """The same, unless there is one of that name: then False."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def size(self, name: str) -> int:
        """Its bytes; −1 where there is none."""

    def names(self, folder: str) -> list[str]:
        """Of what is directly in a folder of the run, without what is half written; in order."""

    def remove(self, name: str, advice: str) -> None:
        """Removes a file, if it is there."""

    def require_replaceable(self, name: str, advice: str) -> None:
        """Raises OutputError where ``write`` would, for what is there now."""

    def prepare(self, folder: str, advice: str) -> None:
        """Finds out at once whether a folder of the run can be written, and clears what killed
        processes had half written there."""

    def tidy(self, folder: str) -> None:
        """Removes a folder of the run that holds nothing any more, where there are folders."""

    def lock(self, busy: RobustevalError) -> AbstractContextManager[None]:
        """One process at a time is within it; a kill frees it.  Raises ``busy``."""

    def sizes(self) -> list[int]:
        """The bytes of each file of the run, whatever it is; what goes meanwhile is passed over."""

    def remove_all(self, advice: str) -> None:
        """Removes the whole run, if it is there.  Raises OutputError."""

    def where(self, name: str = "") -> str:
        """Where a file, or the run, is: for people."""

    def from_anywhere(self) -> "Files":
        """The same, for a process of another working folder."""


class Local:
    """A run in a folder of a disk."""

    read_only = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes:
        return read_file(self.folder / name)

    def write(self, name: str, content: bytes, advice: str) -> None:
        replace_file(self.folder / name, content, advice)

    def create(self, name: str, content: bytes, advice: str) -> bool:
        return create_file(self.folder / name, content, advice)

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else -1

    def names(self, folder: str) -> list[str]:
        with suppress(OSError), os.scandir(self.folder / folder) as found:
            there = [entry.name for entry in found if not _leads_nowhere(entry)]
            return sorted(name for name in there if not is_partial(name))
        return []

    def remove(self, name: str, advice: str) -> None:
        remove_file(self.folder / name, advice)

    def require_replaceable(self, name: str, advice: str) -> None:
        require_replaceable(self.folder / name, advice)

    def prepare(self, folder: str, advice: str) -> None:
        require_writable(self.folder / folder, advice)
        remove_partials(self.folder / folder)

    def tidy(self, folder: str) -> None:
        with suppress(OSError):
            (self.folder / folder).rmdir()

    @contextmanager
    def lock(self, busy: RobustevalError) -> Iterator[None]:
        with locked(self.folder / _LOCK, busy, make=True):
            yield

    def sizes(self) -> list[int]:
        return sizes_below(self.folder)

    def remove_all(self, advice: str) -> None:
        remove_folder(self.folder, advice)

    def where(self, name: str = "") -> str:
        return str(self.folder / name)

    def from_anywhere(self) -> "Local":
        return Local(self.folder.resolve())


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    return entry.is_symlink() and not os.path.exists(entry)
