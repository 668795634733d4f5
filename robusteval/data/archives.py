"""torchvision's own layouts: MNIST's IDX files, CIFAR's batches, SVHN's matrices.

Nothing that is read runs as code: CIFAR's batches are pickles, and go through an unpickler that
admits arrays, lists, numbers and text, and refuses everything else.
"""

import gzip
import io
import math
import pickle
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.data.files import open_file, parsing, read_bytes, shown
from robusteval.data.raw import RawData, Shape, joined
from robusteval.errors import DataError

_MOST_BYTES = 2**31  # that an IDX file may hold unpacked: 40 times MNIST


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not, as MNIST and its kin are published."""
    fault = f"{shown(path)} can't be read"
    with open_file(path) as file, parsing(fault, "fetch it anew"), _unpacked(file, path) as stream:
        start = stream.read(4)
        if len(start) < 4 or start[:3] != b"\x00\x00\x08":
            raise DataError(f"{shown(path)} is no IDX file of unsigned bytes")
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


class _ArraysOnly(pickle.Unpickler):
    """Admits what CIFAR's batches hold, NumPy arrays and plain containers, and nothing else."""

    _ADMITTED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise DataError(
                f"a CIFAR batch asks for {shown(module)}.{shown(name)}: refused, since it could run"
            )
        if module.startswith("numpy.") and name == "_reconstruct":
            from numpy._core import multiarray

            return multiarray._reconstruct
        return super().find_class(module, name)


def read_cifar_batches(files: Sequence[Path], label_key: str) -> RawData:
    """CIFAR-10 and CIFAR-100 as torchvision stores them: rows of 3,072 bytes, planes R, G, B."""
    return joined(files, [_cifar_batch(file, label_key) for file in files])


def _cifar_batch(file: Path, label_key: str) -> RawData:
    with parsing(f"{shown(file)} is no CIFAR batch", "fetch it anew"):
        batch = _ArraysOnly(io.BytesIO(read_bytes(file)), encoding="latin1").load()
        rows, labels = np.asarray(batch["data"]), np.asarray(batch[label_key])
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            raise ValueError(f"its data are {rows.dtype} of {_sizes(rows)}, not bytes of N×3072")
        return RawData(rows.reshape(-1, 3, 32, 32), _whole(labels))


def _whole(labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"its labels are {labels.dtype} of {_sizes(labels)}, not whole numbers")
    return labels.astype(np.int64)


def read_svhn(path: Path) -> RawData:
    """SVHN's cropped digits (``test_32x32.mat``); the label 10 stands for the digit 0."""
    from scipy.io import loadmat

    with parsing(f"{shown(path)} is no SVHN file", "fetch it anew"):
        content = loadmat(io.BytesIO(read_bytes(path)), variable_names=["X", "y"])
        images, labels = content["X"], _whole(content["y"].ravel())
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"X is {images.dtype} of {_sizes(images)}, not bytes of 32×32×3×N")
        if labels.size and not 0 <= labels.min() <= labels.max() <= 10:
            raise ValueError("y holds labels outside 0 to 10")
    return RawData(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10, _DIGITS)


_DIGITS = tuple("0123456789")
