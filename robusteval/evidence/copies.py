"""What was read from a store, or written to it, kept on this machine so that it isn't fetched
again."""

import tempfile
import threading
import weakref
from contextlib import suppress
from functools import cached_property
from typing import BinaryIO

from robusteval.storage import cache_dir

MOST = 2**31  # bytes


class Copies:
    """Contents by name, in a file without a name: it vanishes with the process, however that ends.

    Once ``most`` bytes are there, or the disk is full, no more are kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self._end = most, 0
        self._places: dict[str, tuple[int, int]] = {}  # where each begins, and its size
        self._lock = threading.Lock()

    @cached_property
    def _file(self) -> BinaryIO | None:
        file = _opened()
        if file is not None:
            weakref.finalize(self, file.close)
        return file

    def keep(self, name: str, content: bytes) -> None:
        """In the place of what was kept of that name."""
        with self._lock:
            self._places.pop(name, None)
            if self._file is None or self._end + len(content) > self.most:
                return
            with suppress(OSError):
                self._file.seek(self._end)
                self._file.write(content)
                self._file.flush()
                self._places[name] = (self._end, len(content))
                self._end += len(content)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> bytes | None:
        """None where there is no copy."""
        with self._lock:
            if name not in self._places or self._file is None:
                return None
            start, size = self._places[name]
            self._file.seek(start)
            return self._file.read(size)

    def drop(self, name: str) -> None:
        """There is none any more."""
        with self._lock:
            self._places.pop(name, None)


def _opened() -> BinaryIO | None:
    """In the user's cache, which is a disk more often than the system's temporary folder is."""
    for folder in (cache_dir(), None):
        with suppress(OSError):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=folder)
    return None
