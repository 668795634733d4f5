"""Images of the user's own in files: a folder of class folders, Parquet, or an ``.npz``.

- A folder holds a folder for each class, or such folders below ``test``, ``val`` or the like.
- Parquet holds encoded images and labels, as ``data.parquet`` reads them; a folder may hold shards.
- An ``.npz`` holds ``images`` and ``labels``, and may hold ``class_names``.

Labels are read first, and of the images only those that are chosen.
"""

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from robusteval.data.files import entries, is_folder, is_there, open_file, parsing, shown
from robusteval.data.folders import class_folders, listed_images
from robusteval.data.given import BATCH, Batches, Given, Labels, as_labels, as_pixels
from robusteval.data.images import about_image, decode_all
from robusteval.data.locate import SPLIT_NAMES, test_shards
from robusteval.data.parquet import LABEL_NAMES, ParquetRows
from robusteval.data.raw import Shape
from robusteval.errors import DataError

_KINDS = "give a folder of class folders, a Parquet file, an .npz, or a data set's entry (.toml)"
_ARRAYS = ("images", "image", "x_test", "x", "data")
_LABELS = (*LABEL_NAMES, "y_test")


def given_at(path: Path) -> Given:
    """The samples at a path.  Raises DataError for what holds none that can be read."""
    if not is_there(path):
        raise DataError(f"data {shown(path)} do not exist: {_KINDS}")
    if is_folder(path):
        shards = test_shards(path)
        return _of_parquet(shards) if shards else _of_folder(path)
    end = path.suffix.lower()
    if end == ".parquet":
        return _of_parquet([path])
    if end == ".npz":
        return _of_npz(path)
    raise DataError(f"data {shown(path)} can't be read: {_KINDS}")


# A folder of class folders


def _of_folder(path: Path) -> Given:
    root = _split_of(path)
    files, labels, names = listed_images(root)

    def read(rows: Labels | None) -> Batches:
        chosen = np.arange(len(files)) if rows is None else rows
        shape = _common_shape((files[row], shown(files[row])) for row in chosen)
        for part in _parts(chosen):
            images = decode_all([files[row] for row in part], shape, any_size=False)
            yield torch.from_numpy(images), labels[part]

    return Given(read, labels, names)


def _split_of(path: Path) -> Path:
    """The folder itself, or its test part where it has one that holds class folders."""
    for name in SPLIT_NAMES["test"]:
        if is_folder(path / name) and any(is_folder(child) for child in entries(path / name)):
            others = [p.name for p in class_folders(path)]
            if all(other in sum(SPLIT_NAMES.values(), ()) for other in others):
                return path / name
    return path


def _common_shape(images: Iterable[tuple[Path | bytes, str]]) -> Shape:
    """The shape of images, each with what a message calls it: three channels if one has colour.

    Raises DataError where sizes differ.
    """
    first, coloured = None, False
    for image, name in images:
        size, has_colour = about_image(image, name)
        coloured |= has_colour
        first = first or (size, name)
        if size != first[0]:
            one, other = (f"{w}×{h}" for w, h in (first[0], size))
            raise DataError(
                f"{first[1]} has {one} pixels and {name} {other}: make all images one size"
            )
    assert first is not None, "some are chosen"
    (width, height), _ = first
    return Shape(3 if coloured else 1, height, width)


def _parts(rows: Labels) -> Iterator[Labels]:
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


# Parquet


def _of_parquet(files: list[Path]) -> Given:
    shards = [ParquetRows.of(file) for file in files]
    if len(columns := {shard.columns for shard in shards}) > 1:
        raise DataError(
            f"the shards beside {shown(files[0])} have other columns each, {sorted(columns)}: "
            "fetch them anew"
        )
    labels = as_labels(np.concatenate([shard.labels() for shard in shards]))
    starts = np.cumsum([0, *map(len, shards)]).tolist()

    def images(rows: Labels) -> Iterator[tuple[bytes, str]]:
        for shard, (start, end) in zip(shards, pairwise(starts), strict=True):
            yield from shard.images(rows[(rows >= start) & (rows < end)] - start)

    def read(rows: Labels | None) -> Batches:
        chosen = np.arange(len(labels)) if rows is None else rows
        shape = _common_shape(images(chosen))
        for part in _parts(chosen):
            encoded, where = zip(*images(part), strict=True)
            yield torch.from_numpy(decode_all(encoded, shape, where, any_size=False)), labels[part]

    return Given(read, labels, shards[0].class_names())


# NumPy's archive


def _of_npz(path: Path) -> Given:
    with _archive(path) as archive:
        names = {n.removesuffix(".npy").lower(): n for n in archive.namelist()}
        image, label = (_member(path, names, usual) for usual in (_ARRAYS, _LABELS))
        labels = as_labels(_whole(archive, label))
        told = _whole(archive, names["class_names"]) if "class_names" in names else None
        shape, kind, _ = _header(archive, image)
    if not len(shape) or shape[0] != len(labels):
        raise DataError(
            f"{shown(path)} holds {shape[0] if shape else 0} images and {len(labels)} labels: "
            "they don't belong together"
        )
    if kind.kind not in "uf":
        raise DataError(
            f"{shown(path)}: its images are {kind}: save uint8 from 0 to 255, or floats from 0 to 1"
        )
    if len(labels) == 0:
        raise DataError(f"{shown(path)} holds no image: give one or more")
    return Given(lambda rows: _npz_batches(path, image, labels, rows), labels, _texts(path, told))


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """The open file.  What is wrong with it becomes one DataError."""
    advice = "write it anew with numpy.savez"
    with (
        parsing(f"{shown(path)} can't be read as .npz", advice),
        open_file(path) as stream,
        zipfile.ZipFile(stream) as archive,
    ):
        yield archive


def _member(path: Path, names: dict[str, str], usual: tuple[str, ...]) -> str:
    for name in usual:
        if name in names:
            return names[name]
    listed = ", ".join(shown(name) for name in names) or "nothing"
    raise DataError(f"{shown(path)} holds {listed}: call its arrays images and labels")


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], Any, Any]:
    """Shape, type and the stream behind the header.  Raises ValueError for Fortran's order."""
    stream = archive.open(name)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, by_column, kind = read[npy.read_magic(stream)](stream)
    if by_column and len(shape) > 1:
        raise ValueError("its images are in Fortran's order: save np.ascontiguousarray of them")
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are never read")
    return shape, kind, stream


def _whole(archive: zipfile.ZipFile, name: str) -> Any:
    with archive.open(name) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _texts(path: Path, names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind != "U" or not all(n.isprintable() for n in names):
        raise DataError(f"{shown(path)}: class_names needs an array of texts (K,)")
    return tuple(map(str, names))


def _npz_batches(path: Path, name: str, labels: Labels, rows: Labels | None) -> Batches:
    """The archive is read from its start to the last chosen row, some rows at a time."""
    chosen = np.arange(len(labels)) if rows is None else rows
    with _archive(path) as archive:
        shape, kind, content = _header(archive, name)
        size, done = int(np.prod(shape[1:])) * kind.itemsize, 0
        for part in _parts(chosen):
            images = []
            for row in part.tolist():
                _skip(content, (row - done) * size)
                images.append(np.frombuffer(_exactly(content, size), kind).reshape(shape[1:]))
                done = row + 1
            yield as_pixels(np.stack(images).astype(kind.newbyteorder("="))), labels[part]


def _skip(stream: Any, count: int) -> None:
    while count > 0:
        read = len(stream.read(min(count, 2**24)))
        if not read:
            raise ValueError("it ends too soon")
        count -= read


def _exactly(stream: Any, count: int) -> bytes:
    content: bytes = stream.read(count)
    if len(content) < count:
        raise ValueError("it ends too soon")
    return content
