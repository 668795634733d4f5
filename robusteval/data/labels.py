"""Whether labels and class names can be those of a data set: a shifted label is a wrong number."""

from collections.abc import Sequence

import numpy as np

from robusteval.data.files import shown
from robusteval.data.raw import RawData
from robusteval.errors import DataError

_ENOUGH = 20  # samples a class, from which on none of a split's classes may be missing
_LISTED = 12


def check_names(told: Sequence[str], classes: int, place: str, name: str) -> None:
    """Raises DataError unless there are as many class names as classes."""
    if len(told) != classes:
        what = "1 class" if len(told) == 1 else f"{len(told)} classes"
        raise DataError(
            f"{place} holds {what} ({_listed(told)}), and {name} has {classes}: "
            "put in what is missing, or move away what is not a class"
        )


def check_same_order(
    told: Sequence[str], theirs: Sequence[str] | None, place: str, split: str, other: str
) -> None:
    """Raises DataError if two splits tell different classes: a label would mean two of them.

    Numbers say nothing of names, so that the one is not compared with the other.
    """
    if theirs is None or told == theirs or _numbered(told) != _numbered(theirs):
        return
    differ = [name for name in (*told, *theirs) if (name in told) != (name in theirs)]
    raise DataError(
        f"{place}: the {split} split has other classes than the {other} split, or in another order "
        f"({_listed(differ or told)}), so that a label would mean two of them: make them equal"
    )


def check_labels(raw: RawData, classes: int, about: str) -> None:
    """Raises DataError for labels that can't be those of a split with so many classes."""
    images, labels = raw.images, raw.labels
    if len(labels) != len(images):
        raise DataError(
            f"{about} files hold {len(images)} images and {len(labels)} labels: "
            "they don't belong together"
        )
    if len(labels) == 0:
        raise DataError(f"{about} files hold no images: fetch them anew")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{about} labels are not all in 0 to {classes - 1}: they go from {labels.min()} to "
            f"{labels.max()}"
        )
    missing = np.setdiff1d(np.arange(classes), labels)
    if len(missing) and len(labels) >= _ENOUGH * classes:
        raise DataError(
            f"{about} labels are of {classes - len(missing)} classes, not of all {classes} (no "
            f"{_listed(missing.tolist())}): they may be coarse labels, or a part of the data set"
        )


def _numbered(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _listed(names: Sequence[object]) -> str:
    listed = ", ".join(shown(name) for name in names[:_LISTED])
    return f"{listed}, …" if len(names) > _LISTED else listed
