"""Data sets in memory: pixels and labels, regrouped labels, fixed balanced subsets."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusteval.data.known import DATASETS, DatasetInfo
from robusteval.data.locate import Source, cache_dir, data_root, find_source, read_cached
from robusteval.data.readers import RawData
from robusteval.errors import DataError

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Dataset:
    """Pixels and labels of one split; ``images`` gives float32 (B, C, H, W) in [0, 1]."""

    info: DatasetInfo
    split: Split
    pixels: Tensor = field(repr=False)  # (N, C, H, W), uint8, or float32 in [0, 1]
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
            pixels=self.pixels[rows],
            labels=self.labels[rows],
            indices=self.indices[rows],
        )

    def balanced_subset(self, count: int, seed: int = 0) -> "Dataset":
        """A fixed, class-balanced subset of ``count`` samples, in the order of the split.

        Class sizes differ by one at most (where every class has enough).  A subset of fewer
        samples is contained in each larger one with the same seed.  Raises DataError if the
        split holds fewer than ``count``.
        """
        if not 0 < count <= len(self):
            raise DataError(
                f"{count} samples asked of {self.info.name}'s {self.split} split, "
                f"which holds {len(self)}: choose 1 to {len(self)}"
            )
        return self.take(torch.from_numpy(np.sort(_balanced_order(self.labels, seed)[:count])))

    def split_off(self, count: int, seed: int = 0) -> "tuple[Dataset, Dataset]":
        """(the rest, a class-balanced held-out part of ``count``): training and validation."""
        order = _balanced_order(self.labels, seed)
        held, rest = np.sort(order[:count]), np.sort(order[count:])
        return self.take(torch.from_numpy(rest)), self.take(torch.from_numpy(held))

    @property
    def digest(self) -> str:
        """SHA-256 over the pixels and labels."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):  # by their buffers: no copy in memory
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        return digest.hexdigest()


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]; float32 stays as it is."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.contiguous()


def _balanced_order(labels: Tensor, seed: int) -> NDArray[np.int64]:
    """Every row once: the first of each class, then the second of each class, and so on."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    classes = labels.numpy()[shuffled]
    by_class = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[by_class], np.arange(int(classes.max()) + 1))
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - starts[classes[by_class]]
    return shuffled[np.lexsort((rng.permutation(len(labels)), rank))]


def load_dataset(
    name: str, split: Split = "test", data_dir: Path | None = None, download: bool = False
) -> Dataset:
    """A data set's split by name.

    Looked for in ``data_dir``, else ``$ROBUSTEVAL_DATA``, else the user's cache, in three
    layouts: torchvision's, one folder per class, Parquet.  ``download`` fetches a missing one
    through torchvision into that place.  Regrouped sets take groups of consecutive labels.

    Raises UnknownNameError for an unknown name and DataError for a set that isn't there.
    """
    info = DATASETS.get(name)
    raw, names = (
        _digits(split) if name == "digits" else _from_files(info, split, data_dir, download)
    )
    labels = torch.from_numpy(raw.labels)
    if info.base:
        per = DATASETS.get(info.base).classes // info.classes
        labels = labels // per
        names = tuple("+".join(names[k * per : (k + 1) * per]) for k in range(info.classes))
    if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= info.classes:
        raise DataError(f"{name}'s {split} labels are not all in 0 to {info.classes - 1}")
    if len(labels) != len(raw.images) or len(names) != info.classes:
        raise DataError(
            f"{name}'s {split} files hold {len(raw.images)} images, {len(labels)} labels and "
            f"{len(names)} class names for {info.classes} classes: they don't belong together"
        )
    pixels = torch.from_numpy(raw.images)
    return Dataset(info, split, pixels, labels, names, torch.arange(len(labels)))


def is_available(name: str, split: Split = "test", data_dir: Path | None = None) -> bool:
    """Whether the data set's files are there, all of them."""
    try:
        return name == "digits" or _find(DATASETS.get(name), split, data_root(data_dir)) is not None
    except DataError:
        return False


def _find(info: DatasetInfo, split: Split, root: Path) -> Source | None:
    return find_source(root, info.folders, info.family, split, info.shape)


def _from_files(
    info: DatasetInfo, split: Split, data_dir: Path | None, download: bool
) -> tuple[RawData, tuple[str, ...]]:
    root = data_root(data_dir)
    source = _find(info, split, root)
    if source is None and download:
        _download(info, split, root)
        source = _find(info, split, root)
    if source is None:
        way = "pass --download or " if info.torchvision else ""
        raise DataError(
            f"data set {info.name} ({split}) is not in {root}: {way}put it in "
            f"{root / (info.folders[0])}, or name another folder in --data-dir or $ROBUSTEVAL_DATA"
        )
    raw = read_cached(source, info.shape)
    base_classes = DATASETS.get(info.base).classes if info.base else info.classes
    return raw, raw.class_names or tuple(str(k) for k in range(base_classes))


def _download(info: DatasetInfo, split: Split, root: Path) -> None:
    if info.torchvision is None:
        raise DataError(f"{info.name} can't be downloaded by torchvision: fetch it by hand")
    from robusteval.vision import torchvision

    dataset = getattr(torchvision().datasets, info.torchvision)
    place = root if root.is_dir() else cache_dir() / "data"
    place.mkdir(parents=True, exist_ok=True)
    which = {"split": split} if info.torchvision == "SVHN" else {"train": split == "train"}
    try:
        dataset(str(place), download=True, **which)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{info.name} could not be downloaded ({error}): check the network"
        ) from None


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


def _digits(split: Split) -> tuple[RawData, tuple[str, ...]]:
    train, test = _digits_split()
    return (train if split == "train" else test), tuple("0123456789")
