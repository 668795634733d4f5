"""Pixels that may not fit into memory: kept in a file without a name, read a chunk at a time."""

import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusteval.errors import DataError
from robusteval.storage import cache_dir

_AT_ONCE = 2**24  # bytes that are read together


class Spool:
    """Images (N, C, H, W) of one type on disk, indexed as a tensor is by its rows.

    The file vanishes with the process, however that ends.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype  # of one image
        self._kind = np.dtype(np.uint8 if dtype == torch.uint8 else np.float32)
        self._size = int(np.prod(shape)) * self._kind.itemsize
        self._held, self._lock = _Nameless(), threading.Lock()
        self._places: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def append(self, images: Tensor) -> None:
        """Images (B, C, H, W) at the end.  Raises DataError where the disk is full."""
        start = len(self)
        with self._lock:
            try:
                self._held.file.seek(start * self._size)
                self._held.file.write(np.ascontiguousarray(images.numpy()).data)
            except OSError as error:
                raise DataError(
                    f"the images can't be kept in {_place()} ({error.strerror}): free space, or "
                    "name another folder in $XDG_CACHE_HOME"
                ) from None
        self._places = np.arange(start + len(images))

    def take(self, rows: Tensor) -> "Spool":
        """The chosen rows, in the given order, of the same file."""
        taken = object.__new__(Spool)
        taken.__dict__ = {**self.__dict__, "_places": self._places[rows.numpy()]}
        return taken

    def __getitem__(self, rows: Tensor | slice | int) -> Tensor:
        """Images (B, C, H, W) in memory; one of them (C, H, W) for a number."""
        if isinstance(rows, int):
            return self[slice(rows, rows + 1)][0] if rows != -1 else self[slice(rows, None)][0]
        places = self._places[rows.numpy() if isinstance(rows, Tensor) else rows]
        images = np.empty((len(places), *self.shape), self._kind)
        with self._lock:
            for image, place in zip(images, places, strict=True):
                self._held.file.seek(int(place) * self._size)
                content = self._held.file.read(self._size)
                image[...] = np.frombuffer(content, self._kind).reshape(self.shape)
        return torch.from_numpy(images)

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels as its images: another process keeps them in a file of its own."""
        return _of, (self.shape, self.dtype, list(self.parts()))

    def parts(self) -> Iterator[NDArray[np.generic]]:
        """All images, some at a time."""
        step = max(1, _AT_ONCE // self._size)
        for start in range(0, len(self), step):
            yield self[slice(start, start + step)].numpy()


def _of(shape: tuple[int, ...], dtype: torch.dtype, parts: list[NDArray[Any]]) -> Spool:
    spool = Spool(shape, dtype)
    for images in parts:
        spool.append(torch.from_numpy(images))
    return spool


def _place() -> Path:
    """The user's cache, which is a disk more often than the system's temporary folder is."""
    folder = cache_dir()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        except OSError:
            pass
    return Path(tempfile.gettempdir())


class _Nameless:
    """A file without a name, closed with the last spool that reads it."""

    def __init__(self) -> None:
        self.file = _opened()
        weakref.finalize(self, self.file.close)


def _opened() -> BinaryIO:
    try:
        return tempfile.TemporaryFile(dir=_place())
    except OSError:
        return tempfile.TemporaryFile()
