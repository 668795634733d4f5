"""Files to pixels: Parquet, a folder per class, and torchvision's own layouts.

Every reader returns ``RawData``: uint8 images (N, C, H, W), int64 labels (N,), class names.
Nothing that is read runs as code: torchvision's CIFAR batches are pickles, and go through an
unpickler that admits arrays, lists, numbers and text, and refuses everything else.
"""

import gzip
import io
import json
import pickle
import re
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robusteval.errors import DataError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class RawData:
    """uint8 images (N, C, H, W), int64 labels (N,), and class names if the files tell them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Shape:
    """Channels, height and width to decode to; other sizes are resized by area (box filter)."""

    channels: int
    height: int
    width: int


def decode(source: bytes | Path, shape: Shape) -> NDArray[np.uint8]:
    """One image file to uint8 (C, H, W).  Raises DataError if it can't be decoded."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            image = file.convert("L" if shape.channels == 1 else "RGB")
            if image.size != (shape.width, shape.height):
                image = image.resize((shape.width, shape.height), Image.Resampling.BOX)
            pixels = np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "an image" if isinstance(source, bytes) else str(source)
        raise DataError(f"{what} can't be decoded ({error}): remove or replace it") from None
    return pixels[None] if shape.channels == 1 else pixels.transpose(2, 0, 1)


def decode_all(sources: Sequence[bytes | Path], shape: Shape) -> NDArray[np.uint8]:
    """Image files to uint8 (N, C, H, W); decoders release the GIL, so threads help."""
    images = np.empty((len(sources), shape.channels, shape.height, shape.width), np.uint8)
    with ThreadPoolExecutor() as pool:
        for i, pixels in enumerate(pool.map(lambda s: decode(s, shape), sources, chunksize=64)):
            images[i] = pixels
    return images


def read_parquet(files: Sequence[Path], shape: Shape) -> RawData:
    """Shards in the layout of public data-set hubs.

    An image column that is a struct ``{bytes, path}`` (or plain bytes), an integer label column
    (``fine_label`` is preferred where there is a coarse one too), and the class names in the
    schema's ``huggingface`` metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{files[0]} can't be read as Parquet ({error})") from None
    schema = table.schema
    image = [f for f in schema if pa.types.is_binary(f.type) or _has_bytes(f.type)]
    labels = sorted(f.name for f in schema if pa.types.is_integer(f.type))
    if not image or not labels:
        raise DataError(
            f"{files[0]} needs an image column (struct with bytes) and an integer label column; "
            f"it has {', '.join(schema.names)}"
        )
    label = next((name for name in ("fine_label", "label") if name in labels), labels[-1])
    column = table.column(image[0].name).combine_chunks()
    encoded = column.field("bytes") if pa.types.is_struct(image[0].type) else column
    if encoded.null_count:
        raise DataError(f"{files[0]}: {encoded.null_count} rows have no image bytes")
    images = decode_all([cell.as_py() for cell in encoded], shape)
    targets = table.column(label).to_numpy().astype(np.int64)
    return RawData(images, targets, _hub_class_names(schema.metadata, label))


def _has_bytes(kind: Any) -> bool:
    """Whether a column of that type is a struct with image bytes."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _hub_class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    try:
        described = json.loads((metadata or {})[b"huggingface"])
        return tuple(described["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def read_folders(root: Path, shape: Shape) -> RawData:
    """One folder per class, in sorted order (of numbers, where all are), files in sorted order."""
    classes = [p for p in root.iterdir() if p.is_dir()]
    numbered = all(re.fullmatch("[0-9]+", p.name) for p in classes)
    classes.sort(key=lambda p: (int(p.name) if numbered else 0, p.name))
    files = [(f, k) for k, folder in enumerate(classes) for f in image_files(folder)]
    if not files:
        raise DataError(f"{root} has no class folders with images in them")
    images = decode_all([f for f, _ in files], shape)
    labels = np.array([k for _, k in files], np.int64)
    return RawData(images, labels, tuple(p.name for p in classes))


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, in sorted order."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def read_tiny_imagenet_val(root: Path, shape: Shape) -> RawData:
    """The layout of the original archive: ``images/`` and ``val_annotations.txt``."""
    listing = root / "val_annotations.txt"
    try:
        lines = listing.read_text("utf-8").splitlines()
        rows = [(file, wnid) for file, wnid, *_ in (s.split("\t") for s in lines if s.strip())]
    except (OSError, ValueError) as error:
        raise DataError(f"{listing} is no list of files and classes ({error})") from None
    names = sorted({wnid for _, wnid in rows})
    images = decode_all([root / "images" / file for file, _ in rows], shape)
    index = {name: k for k, name in enumerate(names)}
    return RawData(images, np.array([index[w] for _, w in rows], np.int64), tuple(names))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not, as MNIST and its kin are published."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read ({error}): fetch it anew") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is no IDX file of unsigned bytes")
    rank = raw[3]
    if len(raw) < 4 + 4 * rank:
        raise DataError(f"{path} is truncated: its header is cut off")
    sizes = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(sizes)):
        raise DataError(f"{path} is truncated: {values.size} bytes for a shape of {sizes}")
    return values.reshape(sizes).copy()


def read_mnist_idx(images: Path, labels: Path) -> RawData:
    """MNIST and Fashion-MNIST as torchvision stores them."""
    return RawData(read_idx(images)[:, None], read_idx(labels).astype(np.int64))


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
            raise DataError(f"a CIFAR batch asks for {module}.{name}: refused, since it could run")
        if module.startswith("numpy.") and name == "_reconstruct":
            from numpy._core import multiarray

            return multiarray._reconstruct
        return super().find_class(module, name)


def read_cifar_batches(files: Sequence[Path], label_key: str) -> RawData:
    """CIFAR-10 and CIFAR-100 as torchvision stores them: rows of 3,072 bytes, planes R, G, B."""
    images, labels = [], []
    for file in files:
        try:
            with file.open("rb") as stream:
                batch = _ArraysOnly(stream, encoding="latin1").load()
            images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch[label_key], np.int64))
        except (
            *(pickle.UnpicklingError, EOFError, OSError, LookupError, ValueError, TypeError),
            *(AttributeError, ImportError),
        ) as error:
            raise DataError(f"{file} is no CIFAR batch ({error})") from None
    return RawData(np.concatenate(images), np.concatenate(labels))


def read_svhn(path: Path) -> RawData:
    """SVHN's cropped digits (``test_32x32.mat``); the label 10 stands for the digit 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)).astype(np.uint8)
        labels = content["y"].astype(np.int64).ravel() % 10
    except (MatReadError, KeyError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise DataError(f"{path} is no SVHN file ({error})") from None
    return RawData(images, labels, tuple("0123456789"))
