"""What detectors are fitted to: a fixed part of the train split, and outliers that their settings
are chosen by."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robusteval.catalogue import near_names
from robusteval.data.datasets import Dataset, class_order, load_dataset
from robusteval.data.entry import MADE_TITLES
from robusteval.data.known import DATASETS
from robusteval.data.outliers import outlier_batches
from robusteval.data.own import of_classes, own_data, own_data_at
from robusteval.data.readers import Shape
from robusteval.errors import DataError, EvidenceError, UnknownNameError, shown
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import TUNING

MOST = 5_000  # samples; whoever has fewer gives all
MOST_OUTLIERS = 1_000
_OWN = "training data of your own"
SEED = 0  # the same part for every run, whatever the run's own seed


def fitting_data(dataset: str, data_dir: Path | None, download: bool = False) -> Dataset | None:
    """At most ``MOST`` samples of the train split, class-balanced; None where it isn't there.

    Raises DataError for files that are there and can't be used.
    """
    try:
        return _part(load_dataset(dataset, "train", data_dir, download), MOST)
    except DataError:
        if class_order(dataset, "train", data_dir) is not None:
            raise
        return None


def own_fitting_data(given: Any, classes: int, data_dir: Path | None) -> Dataset:
    """The same of data that a user gave: a path, or images and labels (see ``data.given``).

    What was made of them before stays as it is: a loader may give another order the next time.
    Raises DataError where they can't be used.
    """
    if isinstance(given, Dataset):
        return given
    if isinstance(given, str | Path):
        found = own_data_at(Path(given), _OWN, MOST, True, data_dir)
    else:
        images, labels = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        found = own_data(images, labels, _OWN, MOST, True)
    return of_classes(found, classes)


def require_shape(data: Dataset, shape: Shape) -> None:
    """Raises DataError for training data of another shape than the images that are tested."""
    if data.info.shape != shape:
        theirs, ours = (f"{s.channels}×{s.height}×{s.width}" for s in (data.info.shape, shape))
        raise DataError(f"{_OWN} are {theirs}, the run's images {ours}: give them in that shape")


def fitting_data_of(
    spec: RunSpec, data_dir: Path | None, given: Any = "", classes: int = 0
) -> Dataset:
    """Those of a run with fitted detectors; ``given``: those of a user, as above.

    Raises EvidenceError if they differ from the run's, and DataError if they are gone.
    """
    count, digest = spec.training or (MOST, "")
    if spec.own_training and isinstance(given, str) and not given:
        raise EvidenceError(
            "this run's detectors were fitted to data given from Python: pass "
            "fit_data=(images, labels), or where they are with --fit-data"
        )
    if spec.own_training:
        data, way = own_fitting_data(given, classes, data_dir), "--fit-data"
    else:
        data, way = _part(load_dataset(spec.dataset, "train", data_dir), count), "--data-dir"
    if data.digest != digest:
        whose = _OWN if spec.own_training else spec.dataset
        raise EvidenceError(
            f"{whose} holds other training data than those that this run's detectors were fitted "
            f"to: name the right copy with {way}"
        )
    return data


def _part(whole: Dataset, count: int) -> Dataset:
    return whole.balanced_subset(min(len(whole), count), SEED)


def tuning_data(name: str, shape: Shape, data_dir: Path | None) -> list[Tensor] | None:
    """At most ``MOST_OUTLIERS`` outliers of a set, in batches (B, C, H, W); None where it isn't
    there.

    Raises UnknownNameError for an unknown set, and DataError for files that can't be used.
    """
    known = {*MADE_TITLES, *DATASETS, TUNING}
    if name not in known:
        raise UnknownNameError(f"unknown outlier set {shown(name)}: {near_names(name, known)}")
    made = name in MADE_TITLES
    if not made and (name not in DATASETS or class_order(name, "test", data_dir) is None):
        return None
    return list(outlier_batches(name, MOST_OUTLIERS, shape, SEED, data_dir))


def digest_of_images(batches: Sequence[Tensor]) -> str:
    """SHA-256 of images as bytes: a float's last bit may differ from machine to machine."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update((255 * batch).round().to(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tuning_data_of(spec: RunSpec, shape: Shape, data_dir: Path | None) -> list[Tensor]:
    """Those that a run's settings were chosen by.

    Raises EvidenceError if they differ from the run's, and DataError if they are gone.
    """
    name, _, digest = spec.tuning or ("", 0, "")
    if (batches := tuning_data(name, shape, data_dir)) is None:
        raise DataError(f"{name}, by which detectors' settings were chosen, is not there")
    if digest_of_images(batches) != digest:
        raise EvidenceError(
            f"{name} holds other images than those that detectors' settings were chosen by: name "
            "the right copy with --data-dir"
        )
    return batches
