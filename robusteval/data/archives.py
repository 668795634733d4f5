"""torchvision's own layouts: MNIST's IDX files, CIFAR's batches, SVHN's matrices.

Nothing that is read runs as code, though CIFAR's batches are pickles: see ``pickles``.
"""

import gzip
import io
import math
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.data.files import open_file, parsing, read_bytes, shown
from robusteval.data.matlab import read_arrays
from robusteval.data.pickles import read_pickle, whole_numbers
from robusteval.data.raw import RawData, Shape, joined
from robusteval.errors import DataError

_MOST_BYTES = 2**31  # that a packed file may unpack to: more than any of these data sets
DIGITS = tuple("0123456789")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not, as MNIST and its kin are published."""
    fault = f"{shown(path)} can't be read"
    with open_file(path) as file, parsing(fault, "fetch it anew"), _unpacked(file, path) as stream:
        start = stream.read(4)
        if len(start) < 4 or start[:3] != b"\x00\x00\x08" or start[3] > 4:
            raise DataError(
                f"{shown(path)} is not an IDX file of unsigned bytes, in 4 dimensions at most"
            )
        header = stream.read(4 * start[3])
        if len(header) < 4 * start[3]:
            raise DataError(f"{shown(path)} is truncated: its header is cut off")
        sizes = struct.unpack(f">{start[3]}I", header)
        values = _exactly(stream, sizes, path)
    return np.frombuffer(values, np.uint8).reshape(sizes).copy()


def _unpacked(file: io.BufferedReader, path: Path) -> AbstractContextManager[Any]:
    return gzip.open(file) if path.suffix == ".gz" else nullcontext(file)


def _exactly(stream: Any, sizes: tuple[int, ...], path: Path) -> bytes:
    """As many bytes as the header says, and no more are there."""
    expected = math.prod(sizes)
    if expected > _MOST_BYTES:
        raise DataError(f"{shown(path)} says that it holds {expected:,} bytes: fetch it anew")
    values: bytes = stream.read(expected + 1)
    if len(values) != expected:
        fault = "is truncated" if len(values) < expected else "goes on after its end"
        raise DataError(f"{shown(path)} {fault}: its header says {sizes}, {expected:,} bytes")
    return values


def read_mnist_idx(images: Path, labels: Path, shape: Shape) -> RawData:
    """MNIST and its kin as torchvision stores them.  Raises DataError for another image size."""
    pixels, values = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or pixels.shape[1:] != (shape.height, shape.width):
        raise DataError(
            f"{shown(images)} holds an array of {_sizes(pixels)}, where images of "
            f"{shape.height}×{shape.width} are expected: fetch it anew"
        )
    if values.ndim != 1:
        raise DataError(
            f"{shown(labels)} holds an array of {_sizes(values)}, where labels "
            "are expected: fetch it anew"
        )
    return RawData(pixels[:, None], values.astype(np.int64))


def _sizes(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape)) or "one number"


def read_cifar_batches(files: Sequence[Path], label_key: str) -> RawData:
    """CIFAR-10 and CIFAR-100 as torchvision stores them: rows of 3,072 bytes, planes R, G, B."""
    return joined(files, [_cifar_batch(file, label_key) for file in files])


def _cifar_batch(file: Path, label_key: str) -> RawData:
    with parsing(f"{shown(file)} is not a CIFAR batch", "fetch it anew"):
        batch = read_pickle(read_bytes(file))
        rows, labels = whole_numbers(batch["data"]), whole_numbers(batch[label_key])
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            raise ValueError(f"its data are {rows.dtype} of {_sizes(rows)}, not bytes of N×3072")
        return RawData(rows.reshape(-1, 3, 32, 32), _labels(labels))


def _labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as whole numbers, which MATLAB may keep as floats.  Raises ValueError for others."""
    if labels.dtype.kind == "f" and np.isin(labels, range(100)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"its labels are {labels.dtype} of {_sizes(labels)}, not whole numbers")
    return labels.astype(np.int64)


def read_svhn(path: Path) -> RawData:
    """SVHN's cropped digits (``test_32x32.mat``); the label 10 stands for the digit 0."""
    with parsing(f"{shown(path)} is not an SVHN file", "fetch it anew"):
        arrays = read_arrays(read_bytes(path), _MOST_BYTES)
        if missing := {"X", "y"} - set(arrays):
            raise ValueError(f"it holds no array {' and no array '.join(sorted(missing))}")
        images, labels = arrays["X"], _labels(arrays["y"].ravel())
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"X is {images.dtype} of {_sizes(images)}, not bytes of 32×32×3×N")
        if labels.size and not 0 <= labels.min() <= labels.max() <= 10:
            raise ValueError("y holds labels outside 0 to 10")
    return RawData(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10, DIGITS)
