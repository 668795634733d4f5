"""Images that belong to none of a data set's classes: other data sets, photographs, noise.

They come batch by batch, so that memory doesn't grow with their number.  A set is ``near`` to the
data (other objects of the same kind), ``far`` from them, ``noise``, or a user's ``folder``: the
groups of OpenOOD v1.5 (Zhang et al. 2023), as the data set's entry names them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from robusteval.catalogue import near_names
from robusteval.data.datasets import (
    Dataset,
    class_order,
    load_dataset,
    to_unit_range,
    told_classes,
)
from robusteval.data.entry import LEFT_OUT, MADE_TITLES, DatasetInfo
from robusteval.data.files import is_folder, shown
from robusteval.data.folders import image_files
from robusteval.data.images import decode_all
from robusteval.data.known import DATASETS
from robusteval.data.made import MADE, MADE_OF_INLIERS, Images, fit_shape, parts_of
from robusteval.data.overlap import shared_classes
from robusteval.data.raw import Shape
from robusteval.errors import DataError, UnknownNameError

Group = Literal["near", "far", "noise", "folder"]
GROUPS: tuple[Group, ...] = get_args(Group)
NOISE = ("gaussian_noise", "uniform_noise")
ALL_NOISE = (*NOISE, "blurred", "permuted")
_NO_FILES = {name for name in MADE_TITLES if name != LEFT_OUT}  # they have no digest


def folder_images(folder: Path, count: int, shape: Shape, seed: int) -> Images:
    """Up to ``count`` images drawn from a folder.  Raises DataError if it holds none."""
    files = check_folder(folder)
    chosen = sorted(np.random.default_rng(seed).permutation(len(files))[:count])
    for part in parts_of(chosen):
        yield to_unit_range(torch.from_numpy(decode_all([files[i] for i in part], shape)))


def dataset_images(
    name: str, count: int, shape: Shape, seed: int, data_dir: Path | None = None
) -> Images:
    """Up to ``count`` test images of another data set, balanced over its classes."""
    yield from _some_of(load_dataset(name, "test", data_dir), count, shape, seed)


def left_out_images(
    info: DatasetInfo, count: int, shape: Shape, seed: int, data_dir: Path | None = None
) -> Images:
    """Up to ``count`` test images of the base's classes that a data set leaves out."""
    assert info.base is not None, "it takes some labels of one"
    whole = load_dataset(info.base, "test", data_dir)
    rest = torch.nonzero(~torch.isin(whole.labels, torch.tensor(info.labels)))[:, 0]
    yield from _some_of(whole.take(rest), count, shape, seed)


def _some_of(data: Dataset, count: int, shape: Shape, seed: int) -> Images:
    subset = data.balanced_subset(min(count, len(data)), seed)
    for part in parts_of(range(len(subset))):
        yield fit_shape(subset.images(torch.as_tensor(part)), shape)


def check_folder(folder: Path) -> list[Path]:
    """The images of a folder.  Raises DataError if it isn't there, holds none or can't be named."""
    if not is_folder(folder):
        raise DataError(f"outlier folder {shown(folder)} is not a folder: give one with images")
    files = image_files(folder)
    if not files:
        raise DataError(f"outlier folder {shown(folder)} holds no images: give a folder with some")
    if not str(folder.resolve()).isprintable():  # the report and the run's record name it
        raise DataError(f"outlier folder {shown(folder)} has a name that is not text: rename it")
    return files


def outlier_digests(
    names: Sequence[str | Path],
    count: int,
    shape: Shape,
    seed: int,
    data_dir: Path | None = None,
    inliers: Dataset | None = None,
) -> dict[str, str]:
    """SHA-256 of the outlier images that a run of so many samples takes, but for made ones.

    Each is read on the way.  Raises DataError for one that can't be.
    """
    found = {}
    for name in names:
        if name not in _NO_FILES:
            digest = hashlib.sha256()
            for batch in outlier_batches(name, count, shape, seed, data_dir, inliers):
                # As bytes: resizing may differ in a float's last bit from machine to machine.
                digest.update((255 * batch).round().to(torch.uint8).numpy().tobytes())
            found[str(name)] = digest.hexdigest()
    return found


def outlier_names(dataset: Dataset, natural: int, data_dir: Path | None) -> list[str]:
    """The first ``natural`` natural outlier sets whose data are there, then the noises.

    Raises DataError for data that are there and can't be used: to leave them out without a word
    would change what is measured.
    """
    there = (name for name in dataset.info.outliers if _is_there(name, data_dir))
    return [*islice(there, natural), *NOISE]


def sets_named(dataset: Dataset, wanted: Sequence[str], data_dir: Path | None) -> list[str]:
    """The outlier sets that a suite names: groups (``near``, ``far``: those whose data are there;
    ``noise``) and sets by their own names, each once.

    Raises UnknownNameError for an unknown name, and DataError for data that can't be used.
    """
    info, found = dataset.info, list[str]()
    for name in wanted:
        if name == "noise":
            found += ALL_NOISE
        elif name in ("near", "far"):
            members = info.near if name == "near" else info.far
            found += [member for member in members if _is_there(member, data_dir)]
        else:
            _require_set(name, info)
            found.append(name)
    return list(dict.fromkeys(found))


def _require_set(name: str, info: DatasetInfo) -> None:
    known = [*GROUPS[:3], *MADE_TITLES, *DATASETS]
    if name not in known:
        raise UnknownNameError(f"unknown outlier set {shown(name)}: {near_names(name, known)}")
    if name == info.name:
        raise DataError(f"outlier set {name} is the run's own data set: name another")
    if name == LEFT_OUT and not info.labels:
        raise DataError(f"outlier set {name}: {info.name} leaves no class out: name another set")


@dataclass(frozen=True)
class OutlierSet:
    """What is known of an outlier set beside its images.

    ``split``: whose images it takes; "made" or "folder" for what has none.  ``shared``: the classes
    that it has in common with the data, as far as names tell; None where there are no names.
    """

    group: Group
    split: Literal["test", "made", "folder"]
    shared: tuple[str, ...] | None

    @classmethod
    def of(cls, name: str, data: Dataset, data_dir: Path | None, folder: bool) -> "OutlierSet":
        """What is known of a set, beside the samples that it is to be told from."""
        if folder:
            return cls("folder", "folder", None)
        group: Group = "near" if name in data.info.near else "far"
        if name in _NO_FILES:
            return cls("noise" if name in ALL_NOISE else group, "made", ())
        if name == LEFT_OUT:
            return cls(group, "test", ())
        shared = shared_classes(
            _told_of(data, data_dir), told_classes(name, "test", data_dir) or ()
        )
        return cls(group, "test", None if shared is None else tuple(shared))


def _told_of(data: Dataset, data_dir: Path | None) -> Sequence[str]:
    """The names of the data's classes; nothing where there are only numbers."""
    if not data.info.own:
        return told_classes(data.info.name, data.split, data_dir) or ()
    return () if all(name.isdecimal() for name in data.class_names) else data.class_names


def _is_there(name: str, data_dir: Path | None) -> bool:
    if name in MADE_TITLES:
        return True
    try:
        return class_order(name, "test", data_dir) is not None
    except DataError as error:
        raise DataError(f"outlier set {name} can't be used: {error}") from None


def outlier_batches(
    name: str | Path,
    count: int,
    shape: Shape,
    seed: int,
    data_dir: Path | None = None,
    inliers: Dataset | None = None,
) -> Images:
    """Up to ``count`` outlier images in batches, float32 (B, C, H, W) in [0, 1], of a shape.

    ``name``: a data set or a made set; a Path is a folder of images.  ``inliers``: the samples that
    they are to be told from, of which some sets are made.
    """
    if isinstance(name, Path):
        return folder_images(name, count, shape, seed)
    if name in MADE:
        return MADE[name](count, shape, seed)
    if name not in MADE_TITLES:
        return dataset_images(name, count, shape, seed, data_dir)
    if inliers is None:
        raise DataError(f"outlier set {name} is made of a run's own images: pass them as inliers")
    if name == LEFT_OUT:
        return left_out_images(inliers.info, count, shape, seed, data_dir)
    return MADE_OF_INLIERS[name](inliers, count, seed)
