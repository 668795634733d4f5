"""Where a data set's files are, in which of the three layouts, and the cache of decoded pixels."""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from robusteval.data.readers import (
    RawData,
    Shape,
    read_cifar_batches,
    read_folders,
    read_mnist_idx,
    read_parquet,
    read_svhn,
    read_tiny_imagenet_val,
)
from robusteval.errors import DataError, OutputError
from robusteval.storage import replace_file

SPLIT_NAMES = {"train": ("train",), "test": ("test", "valid", "validation", "val")}


@dataclass(frozen=True)
class Source:
    """Files in one layout, and how to read them."""

    layout: str
    files: tuple[Path, ...]
    read: Callable[[], RawData]


# Such as test-00000-of-00001.parquet, or with a fingerprint at its end.
_SHARD = re.compile(r"[a-z]+-\d+-of-(\d+)(?:-[0-9a-f]+)?\.parquet")


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/robusteval``, else ``~/.cache/robusteval``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robusteval"


def data_root(data_dir: Path | None) -> Path:
    """``data_dir``, else ``$ROBUSTEVAL_DATA``, else the user's cache.

    Raises DataError if a folder that the user named does not exist.
    """
    named = data_dir or (Path(env) if (env := os.environ.get("ROBUSTEVAL_DATA")) else None)
    if named is None:
        return cache_dir() / "data"
    if not named.is_dir():
        where = "--data-dir" if data_dir else "$ROBUSTEVAL_DATA"
        raise DataError(f"data folder {named} does not exist: give an existing one in {where}")
    return named


def find_source(
    root: Path, folders: Sequence[str], family: str, split: str, shape: Shape
) -> Source | None:
    """The first layout found below ``root``: Parquet, torchvision's, or a folder per class."""
    for place in [root / name for name in folders]:
        for find in (_find_parquet, _find_folders):
            if (source := find(place, split, shape)) is not None:
                return source
    for place in [root, *(root / name for name in folders)]:
        if (source := _find_torchvision(place, family, split, shape)) is not None:
            return source
    return None


def _find_parquet(place: Path, split: str, shape: Shape) -> Source | None:
    for name in SPLIT_NAMES[split]:
        found = ((_SHARD.fullmatch(path.name), path) for path in place.glob(f"{name}-*.parquet"))
        shards = sorted((path, int(match[1])) for match, path in found if match)
        if shards:
            files, expected = tuple(path for path, _ in shards), shards[0][1]
            if len(files) != expected:
                raise DataError(
                    f"{place} holds {len(files)} of {expected} Parquet shards of its {name} split: "
                    "fetch the missing ones"
                )
            return Source("Parquet", files, partial(read_parquet, files, shape))
    return None


def _find_folders(place: Path, split: str, shape: Shape) -> Source | None:
    # Tiny ImageNet's own test part has no labels: its validation part stands in for it.
    listing = place / "val" / "val_annotations.txt"
    if split == "test" and listing.is_file():
        read = partial(read_tiny_imagenet_val, listing.parent, shape)
        return Source("folder", (listing,), read)
    for name in SPLIT_NAMES[split]:
        folder = place / name
        classes = (
            tuple(sorted(p for p in folder.iterdir() if p.is_dir())) if folder.is_dir() else ()
        )
        if len(classes) > 1:  # Tiny ImageNet's test/images is no class
            return Source("folder", classes, partial(read_folders, folder, shape))
    return None


def _find_torchvision(place: Path, family: str, split: str, shape: Shape) -> Source | None:
    train = split == "train"
    if family == "cifar10":
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
        files = tuple(place / "cifar-10-batches-py" / name for name in names)
        return _source_if_there(files, partial(read_cifar_batches, files, "labels"))
    if family == "cifar100":
        files = (place / "cifar-100-python" / split,)
        return _source_if_there(files, partial(read_cifar_batches, files, "fine_labels"))
    if family == "svhn":
        files = (place / f"{split}_32x32.mat",)
        return _source_if_there(files, partial(read_svhn, files[0]))
    if family in ("MNIST", "FashionMNIST"):
        stem = "train" if train else "t10k"
        for suffix in ("", ".gz"):
            raw = place / family / "raw"
            pair = (
                raw / f"{stem}-images-idx3-ubyte{suffix}",
                raw / f"{stem}-labels-idx1-ubyte{suffix}",
            )
            if (found := _source_if_there(pair, partial(read_mnist_idx, *pair))) is not None:
                return found
    return None


def _source_if_there(files: tuple[Path, ...], read: Callable[[], RawData]) -> Source | None:
    return Source("torchvision", files, read) if all(f.is_file() for f in files) else None


def read_cached(source: Source, shape: Shape) -> RawData:
    """Read through the cache of decoded pixels, keyed by each file's path, size and time.

    A folder of loose files is read anew each time, since its own time says nothing of theirs.
    """
    if source.layout == "folder":
        return source.read()
    stamps = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in source.files]
    key = hashlib.sha256(repr((2, stamps, shape)).encode()).hexdigest()[:24]
    path = cache_dir() / "decoded" / f"{key}.npz"
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _load(path)
    raw = source.read()
    with suppress(OSError, OutputError):  # a cache that can't be written costs time, nothing else
        _save(path, raw)
    return raw


def _load(path: Path) -> RawData:
    with np.load(path, allow_pickle=False) as stored:
        names = tuple(str(n) for n in stored["class_names"])
        return RawData(stored["images"], stored["labels"], names or None)


def _save(path: Path, raw: RawData) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    names = np.array(raw.class_names or (), dtype=str)
    np.savez(content, images=raw.images, labels=raw.labels, class_names=names)
    replace_file(path, content.getvalue(), "the cache is left out")
