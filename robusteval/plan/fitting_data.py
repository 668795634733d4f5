"""The training data that detectors are fitted to: a fixed part of the train split."""

from pathlib import Path

from robusteval.data.datasets import Dataset, class_order, load_dataset
from robusteval.errors import DataError, EvidenceError
from robusteval.plan.spec import RunSpec

MOST = 5_000  # samples; whoever has fewer gives all
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


def fitting_data_of(spec: RunSpec, data_dir: Path | None) -> Dataset:
    """Those of a run with fitted detectors.

    Raises EvidenceError if they differ from the run's, and DataError if they are gone.
    """
    count, digest = spec.training or (MOST, "")
    data = _part(load_dataset(spec.dataset, "train", data_dir), count)
    if data.digest != digest:
        raise EvidenceError(
            f"{spec.dataset} holds other training data than those that this run's detectors were "
            "fitted to: name the right copy with --data-dir"
        )
    return data


def _part(whole: Dataset, count: int) -> Dataset:
    return whole.balanced_subset(min(len(whole), count), SEED)
