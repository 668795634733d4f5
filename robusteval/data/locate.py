"""Where a data set's files are, and in which of the three layouts."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robusteval.data.archives import read_cifar_batches, read_mnist_idx, read_svhn
from robusteval.data.files import entries, is_folder, is_there, shown
from robusteval.data.folders import (
    class_folders,
    read_folders,
    read_tiny_imagenet_val,
    tiny_imagenet_classes,
)
from robusteval.data.parquet import parquet_class_names, read_parquet
from robusteval.data.raw import RawData, Shape
from robusteval.errors import DataError
from robusteval.storage import cache_dir

SPLIT_NAMES = {"train": ("train",), "test": ("test", "valid", "validation", "val")}
Names = tuple[str, ...] | None


def _untold() -> Names:
    return None


@dataclass(frozen=True)
class Source:
    """Files in one layout, and how to read them, or only their class names."""

    layout: str
    files: tuple[Path, ...]
    read: Callable[[], RawData]
    class_names: Callable[[], Names] = _untold  # None where the files don't tell


# Such as test-00000-of-00001.parquet, or with a fingerprint at its end.
_SHARD = re.compile(r"(?P<split>[a-z]+)-(?P<part>[0-9]+)-of-(?P<of>[0-9]+)(-[0-9a-f]+)?\.parquet")


def data_root(data_dir: str | Path | None) -> Path | None:
    """``data_dir``, else ``$ROBUSTEVAL_DATA``, else the user's cache; None without a home.

    Raises DataError if a folder that the user named does not exist.
    """
    named = data_dir if data_dir is not None else os.environ.get("ROBUSTEVAL_DATA") or None
    if named is None:
        folder = cache_dir()
        return None if folder is None else folder / "data"
    where = "$ROBUSTEVAL_DATA" if data_dir is None else "--data-dir"
    if not isinstance(named, str | os.PathLike) or not str(named):
        raise DataError(f"data folder {shown(repr(named))} is no path: give one in {where}")
    root = Path(named)
    if not is_folder(root):
        fault = "is no folder" if is_there(root) else "does not exist"
        raise DataError(f"data folder {shown(root)} {fault}: give an existing one in {where}")
    return root


def find_source(
    root: Path, folders: Sequence[str], archive: str | None, split: str, shape: Shape
) -> Source | None:
    """The first layout found below ``root``: Parquet, a folder per class, or torchvision's.

    ``archive``: the name of its class in torchvision, whose layout may be there.

    Raises DataError for one that is there in part.
    """
    for place in [root / name for name in folders]:
        for find in (_find_parquet, _find_folders):
            if (source := find(place, split, shape)) is not None:
                return source
    for place in [root, *(root / name for name in folders)]:
        if (source := _find_torchvision(place, archive, split, shape)) is not None:
            return source
    return None


def test_shards(place: Path) -> list[Path]:
    """The Parquet shards of a folder's test split, or its only Parquet file; none where it has
    none.  Raises DataError if they are there in part."""
    source = _find_parquet(place, "test", Shape(1, 1, 1))  # the shape matters when it is read
    if source is not None:
        return list(source.files)
    found = [path for path in entries(place) if path.suffix.lower() == ".parquet"]
    if len(found) > 1:
        raise DataError(
            f"{shown(place)} holds {len(found)} Parquet files: name the one that is meant, or call "
            "its shards test-00000-of-00002.parquet and so on"
        )
    return found


def _find_parquet(place: Path, split: str, shape: Shape) -> Source | None:
    found = [(match, path) for path in entries(place) if (match := _SHARD.fullmatch(path.name))]
    for name in SPLIT_NAMES[split]:
        shards = {path: match for match, path in found if match["split"] == name}
        if shards:
            files = tuple(sorted(shards, key=lambda path: int(shards[path]["part"])))
            _require_each_once([shards[path] for path in files], place, name)
            names = partial(parquet_class_names, files)
            return Source("Parquet", files, partial(read_parquet, files, shape), names)
    return None


def _require_each_once(shards: Sequence[re.Match[str]], place: Path, name: str) -> None:
    """Raises DataError unless the shards of a split are all there, each of them once."""
    totals = sorted({int(shard["of"]) for shard in shards})
    parts = [int(shard["part"]) for shard in shards]
    advice = "fetch the split anew into an empty folder"
    if len(totals) > 1 or len(set(parts)) < len(parts):
        listed = ", ".join(shown(shard.string) for shard in shards[:6])
        raise DataError(f"{shown(place)} holds shards of two copies of a split, {listed}: {advice}")
    if parts != list(range(totals[0])):
        raise DataError(
            f"{shown(place)} holds {len(parts)} of {totals[0]} Parquet shards of its {name} split: "
            "fetch the missing ones"
        )


def _find_folders(place: Path, split: str, shape: Shape) -> Source | None:
    # Tiny ImageNet's own test part has no labels: its validation part stands in for it.
    listing = place / "val" / "val_annotations.txt"
    if split == "test" and is_there(listing):
        read = partial(read_tiny_imagenet_val, listing.parent, shape)
        return Source("folder", (listing,), read, partial(tiny_imagenet_classes, listing.parent))
    for name in SPLIT_NAMES[split]:
        folder = place / name
        classes = tuple(class_folders(folder))
        names = tuple(path.name for path in classes)
        if names and names != ("images",):  # Tiny ImageNet's test/images is no class
            return Source(
                "folder", classes, partial(read_folders, folder, shape), partial(tuple, names)
            )
    return None


def _find_torchvision(place: Path, archive: str | None, split: str, shape: Shape) -> Source | None:
    train = split == "train"
    if archive == "CIFAR10":
        names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
        files = tuple(place / "cifar-10-batches-py" / name for name in names)
        return _all_there("CIFAR-10", files, partial(read_cifar_batches, files, "labels"))
    if archive == "CIFAR100":
        files = (place / "cifar-100-python" / split,)
        return _all_there("CIFAR-100", files, partial(read_cifar_batches, files, "fine_labels"))
    if archive == "SVHN":
        files = (place / f"{split}_32x32.mat",)
        return _all_there("SVHN", files, partial(read_svhn, files[0]))
    if archive in ("MNIST", "FashionMNIST", "KMNIST"):
        stem = f"{'train' if train else 't10k'}-{{}}-ubyte"
        kinds = ("images-idx3", "labels-idx1")
        images, labels = (
            _plain_or_gz(place / archive / "raw" / stem.format(kind)) for kind in kinds
        )
        read = partial(read_mnist_idx, images, labels, shape)
        return _all_there("IDX", (images, labels), read)
    return None


def _plain_or_gz(path: Path) -> Path:
    return path if is_there(path) else path.with_name(f"{path.name}.gz")


def _all_there(layout: str, files: tuple[Path, ...], read: Callable[[], RawData]) -> Source | None:
    """A source if its files are there, None if none is.  Raises DataError if only some are."""
    missing = [file for file in files if not is_there(file)]
    if not missing:
        return Source(layout, files, read)
    if len(missing) < len(files):
        raise DataError(
            f"{shown(files[0].parent)} holds {len(files) - len(missing)} of {len(files)} files: "
            f"fetch {', '.join(file.name for file in missing)}, too"
        )
    return None
