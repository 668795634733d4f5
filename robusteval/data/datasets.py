"""Data sets in memory: pixels and labels, regrouped labels, fixed balanced subsets."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from robusteval.data.cache import read_cached
from robusteval.data.choice import Samples
from robusteval.data.files import is_folder, parsing, shown
from robusteval.data.known import DATASETS, DatasetInfo
from robusteval.data.labels import check_labels, check_names, check_same_order
from robusteval.data.locate import Source, data_root, find_source
from robusteval.data.raw import RawData
from robusteval.data.spool import Spool
from robusteval.data.subsets import balanced_order, chosen_rows
from robusteval.errors import DataError

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """Pixels and labels of one split; ``images`` gives float32 (B, C, H, W) in [0, 1]."""

    info: DatasetInfo
    split: Split
    pixels: Tensor | Spool = field(repr=False)  # (N, C, H, W), uint8, or float32 in [0, 1]
    labels: Tensor = field(repr=False)  # (N,), int64
    class_names: tuple[str, ...]
    indices: Tensor = field(repr=False)  # (N,), each sample's index in its split

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """The chosen rows as contiguous float32 (B, C, H, W) in [0, 1]."""
        return to_unit_range(self.pixels[rows])

    def take(self, rows: Tensor) -> "Dataset":
        """The chosen rows, in the given order."""
        return replace(
            self,
            pixels=self.pixels.take(rows) if isinstance(self.pixels, Spool) else self.pixels[rows],
            labels=self.labels[rows],
            indices=self.indices[rows],
        )

    def balanced_subset(self, count: int, seed: int = 0) -> "Dataset":
        """A fixed, class-balanced subset of ``count`` samples, in the order of the split.

        Class sizes differ by one at most (where every class has enough).  A subset of fewer
        samples is contained in each larger one with the same seed.  Raises DataError if the
        split holds fewer than ``count``.
        """
        return self.choose(count, seed=seed)

    def choose(self, samples: Samples, at_most: bool = False, seed: int = 0) -> "Dataset":
        """The samples that a run asks for: see ``data.choice``.  Raises DataError."""
        about = f"{self.info.name}'s {self.split} split"
        rows = chosen_rows(self.labels.numpy(), samples, about, at_most, seed)
        return self.take(torch.from_numpy(rows))

    def split_off(self, count: int, seed: int = 0) -> "tuple[Dataset, Dataset]":
        """(the rest, a class-balanced held-out part of ``count``): training and validation."""
        order = balanced_order(self.labels.numpy(), seed)
        held, rest = np.sort(order[:count]), np.sort(order[count:])
        return self.take(torch.from_numpy(rest)), self.take(torch.from_numpy(held))

    @property
    def digest(self) -> str:
        """SHA-256 over the pixels and labels."""
        digest = hashlib.sha256()
        parts = self.pixels.parts() if isinstance(self.pixels, Spool) else [self.pixels.numpy()]
        for part in (*parts, self.labels.numpy()):  # by their buffers: no copy in memory
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]; float32 stays as it is."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.contiguous()


def load_dataset(
    name: str, split: Split = "test", data_dir: str | Path | None = None, download: bool = False
) -> Dataset:
    """One split of a known data set.

    It is looked for in ``data_dir``, else in ``$ROBUSTEVAL_DATA``, else in the user's cache.  Three
    layouts are known: Parquet, one folder for each class, torchvision's.  ``download`` fetches a
    missing data set through torchvision into that place.

    Raises UnknownNameError for an unknown name.  Raises DataError for a data set that isn't there,
    or whose files can be read in more than one way.
    """
    return load_known(DATASETS.get(str(name)), split, data_dir, download)


def load_known(
    info: DatasetInfo, split: Split, data_dir: str | Path | None, download: bool = False
) -> Dataset:
    """The same, of a data set that was looked up."""
    _require_split(split)
    if info.reader == "sklearn_digits":
        raw, names = _digits(split), _untold_names(info)
    else:
        root = data_root(data_dir)
        source = _source(info, split, root, download)
        names = _names(info, split, root, source)
        raw = read_cached(source, info.shape)
    labels = torch.from_numpy(raw.labels)
    check_labels(raw, _base(info).classes, f"{info.name}'s {split}")
    rows = torch.arange(len(labels))
    pixels = torch.from_numpy(raw.images)
    if info.labels:
        taken = torch.tensor(info.labels)
        rows = torch.nonzero(torch.isin(labels, taken))[:, 0]
        pixels, labels = pixels[rows], torch.searchsorted(taken, labels[rows])
    if info.base:
        labels = labels // (_taken_classes(info) // info.classes)
        names = _regrouped(info, names)
    return Dataset(info, split, pixels, labels, names, rows)


def class_order(
    name: str, split: Split = "test", data_dir: str | Path | None = None
) -> tuple[str, ...] | None:
    """The class names of a split in the order of their labels, None if it isn't there.

    Raises DataError for files that are there and can't be used.  Reads no image.
    """
    info = DATASETS.get(name)
    if info.reader == "sklearn_digits":
        return _regrouped(info, _untold_names(info))
    root = data_root(data_dir)
    source = None if root is None else _find(info, split, root)
    if source is None:
        return None
    return _regrouped(info, _names(info, split, root, source))


def told_classes(
    name: str, split: Split = "test", data_dir: str | Path | None = None
) -> tuple[str, ...] | None:
    """The class names that a set's files or its entry tell, groups as ``a+b``; None where there are
    only numbers."""
    info = DATASETS.get(name)
    names = info.class_names or _told(info, split, data_root(data_dir))
    return _regrouped(info, names) if names else None


def place_of(name: str, data_dir: str | Path | None = None) -> str | None:
    """The folder that a data set's files were found in, or the package that brings them along;
    None if nowhere, or if what is there can't be used."""
    info = DATASETS.get(name)
    if info.reader == "sklearn_digits":
        return "scikit-learn"
    root = data_root(data_dir)
    for split in get_args(Split):
        with suppress(DataError):
            if root is not None and (source := _find(info, split, root)) is not None:
                return str(source.files[0].parent)
    return None


def _require_split(split: str) -> None:
    if split not in get_args(Split):
        raise DataError(f"split {split!r}: choose train or test")


def _base(info: DatasetInfo) -> DatasetInfo:
    """What the files hold: the set itself, or the one whose labels it groups."""
    return DATASETS.get(info.base) if info.base else info


def _taken_classes(info: DatasetInfo) -> int:
    """How many classes of what the files hold a set takes."""
    return len(info.labels) or _base(info).classes


def _regrouped(info: DatasetInfo, names: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(names[k] for k in info.labels) if info.labels else names
    per = len(names) // info.classes
    return tuple("+".join(names[k * per : (k + 1) * per]) for k in range(info.classes))


def _names(info: DatasetInfo, split: Split, root: Path | None, source: Source) -> tuple[str, ...]:
    """The class names that a source tells, else numbers.  Raises DataError if they can't be the
    data set's, or aren't those of its other split."""
    told = source.class_names()
    if told is None:
        return _untold_names(info)
    place = shown(source.files[0].parent)
    check_names(told, _base(info).classes, place, info.name)
    other: Split = "train" if split == "test" else "test"
    check_same_order(told, _told(info, other, root), place, split, other)
    return told


def _untold_names(info: DatasetInfo) -> tuple[str, ...]:
    """The class names where no file tells them: the entry's, else numbers."""
    return info.class_names or tuple(map(str, range(_base(info).classes)))


def _told(info: DatasetInfo, split: Split, root: Path | None) -> tuple[str, ...] | None:
    """The class names that a split's files tell, if they are there and sound."""
    with suppress(DataError):
        source = None if root is None else _find(info, split, root)
        return None if source is None else source.class_names()
    return None


def is_available(name: str, split: Split = "test", data_dir: str | Path | None = None) -> bool:
    """Whether the data set's files are there, all of them."""
    try:
        return class_order(name, split, data_dir) is not None
    except DataError:
        return False


def _find(info: DatasetInfo, split: Split, root: Path) -> Source | None:
    return find_source(root, info.folders, info.torchvision, split, info.shape)


def _source(info: DatasetInfo, split: Split, root: Path | None, download: bool) -> Source:
    """The files of a split, fetched if they may be.  Raises DataError if there are none."""
    if root is None:
        raise DataError(
            f"data set {info.name} can't be looked for: there is no home folder; name one that "
            "holds data in --data-dir or $ROBUSTEVAL_DATA"
        )
    source = _find(info, split, root)
    if source is None and download:
        _download(info, split, root)
        source = _find(info, split, root)
    if source is None:
        raise DataError(_not_there(info, split, root))
    return source


def _not_there(info: DatasetInfo, split: Split, root: Path) -> str:
    way = "pass --download or " if info.torchvision else ""
    place = root / info.folders[0]
    message = (
        f"data set {info.name} ({split}) is not in {shown(root)}: {way}put it in "
        f"{shown(place)}, or name another folder in --data-dir or $ROBUSTEVAL_DATA"
    )
    if is_folder(place):
        message += (
            f" ({place.name} is there, but holds neither {split}-00000-of-00001.parquet nor "
            f"{split}/ with a folder for each class)"
        )
    return message


def _download(info: DatasetInfo, split: Split, root: Path) -> None:
    if info.torchvision is None:
        raise DataError(f"{info.name} can't be downloaded by torchvision: fetch it by hand")
    from robusteval.vision import torchvision

    dataset = getattr(torchvision().datasets, info.torchvision)
    which = {"split": split} if info.torchvision == "SVHN" else {"train": split == "train"}
    with parsing(f"{info.name} could not be downloaded", "check the network, and the folder"):
        root.mkdir(parents=True, exist_ok=True)
        dataset(str(root), download=True, **which)


@lru_cache(maxsize=1)
def _digits_split() -> tuple[RawData, RawData]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=360, random_state=0, stratify=bunch.target
    )
    parts: list[RawData] = []
    for rows in (np.sort(train), np.sort(test)):
        parts.append(RawData(images[rows], bunch.target[rows].astype(np.int64)))
    return parts[0], parts[1]


def _digits(split: Split) -> RawData:
    train, test = _digits_split()
    return train if split == "train" else test
