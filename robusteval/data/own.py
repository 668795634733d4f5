"""Data sets of the user's own: from Python, or at a path, with what a run needs to know of them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.data.choice import First, Samples
from robusteval.data.datasets import Dataset, load_known
from robusteval.data.entry import DatasetInfo, usual_threats
from robusteval.data.files import shown
from robusteval.data.given import Batches, Given, Labels, given
from robusteval.data.known import DATASETS, info_at
from robusteval.data.paths import given_at
from robusteval.data.raw import Shape
from robusteval.data.spool import Spool
from robusteval.data.subsets import chosen_rows
from robusteval.errors import DataError

_LONGEST_NAME = 100


def own_name(wanted: str) -> str:
    """What a report calls own data: never as it calls a known data set.

    >>> own_name("my photos"), own_name("mnist")
    ('my photos', 'mnist (own)')
    """
    name = re.sub(r"\s+", " ", wanted).strip()[:_LONGEST_NAME]
    if not name.isprintable() or not name:
        raise DataError(f"data are called {wanted!r}: give a name of printable text")
    return f"{name} (own)" if name in DATASETS else name


def own_data(images: Any, labels: Any, name: str, samples: Samples, at_most: bool) -> Dataset:
    """What Python gave in the place of images and labels: see ``data.given``.

    ``class_names`` stay empty where nothing tells them.  Raises DataError.
    """
    return _dataset(given(images, labels), own_name(name), samples, at_most)


def own_data_at(
    path: Path, name: str | None, samples: Samples, at_most: bool, data_dir: Path | None = None
) -> Dataset:
    """The data at a path: see ``data.paths``; or those of a data set's entry (.toml).

    Raises DataError.
    """
    if path.suffix.lower() == ".toml":
        info = info_at(path)
        data = load_known(replace(info, name=own_name(name or info.name)), "test", data_dir)
        whole = replace(data, info=replace(data.info, own=True, test_samples=len(data)))
        return whole.choose(samples, at_most)
    called = own_name(name or shown(path.resolve().stem) or "data")
    return _dataset(given_at(path), called, samples, at_most)


def of_classes(data: Dataset, classes: int, names: Sequence[str] | None = None) -> Dataset:
    """Own data as those of a model that tells so many classes apart.

    Raises DataError where the data have others.
    """
    told = tuple(names) if names is not None else data.class_names
    if told and len(told) != classes:
        listed = ", ".join(map(shown, told[:12])) + (", …" if len(told) > 12 else "")
        raise DataError(
            f"{data.info.name} has {len(told)} classes ({listed}), the model {classes}: "
            "give it the data that it was trained for"
        )
    if (most := int(data.labels.max())) >= classes:
        raise DataError(
            f"{data.info.name} has a label {most}, the model {classes} classes: labels go from 0 "
            f"to {classes - 1}"
        )
    told = told or tuple(map(str, range(classes)))
    return replace(data, info=replace(data.info, classes=classes), class_names=told)


def _dataset(found: Given, name: str, samples: Samples, at_most: bool) -> Dataset:
    if found.labels is not None:
        rows = chosen_rows(found.labels, samples, name, at_most)
        pixels, labels = _read(found.read(rows))
        if (labels != found.labels[rows]).any():
            raise DataError(
                f"{name} gives other labels where images are read than it lists: mend that"
            )
        total = len(found.labels)
    else:
        most = samples.count if isinstance(samples, First) else None
        pixels, labels = _read(_no_more_than(found.read(None), most))
        total, rows = len(labels), chosen_rows(labels, samples, name, at_most)
        pixels = pixels.take(torch.from_numpy(rows))
        labels = labels[rows]
    shape = Shape(*pixels.shape)
    info = DatasetInfo(
        name=name,
        title="given by the user",
        shape=shape,
        classes=len(found.class_names or ()) or max(2, int(labels.max()) + 1),
        test_samples=total,
        threats=usual_threats(shape.channels),
        outliers=("photo_crops",),
        far=("photo_crops",),
        own=True,
    )
    names, indices = found.class_names or (), torch.from_numpy(rows)
    return Dataset(info, "test", pixels, torch.from_numpy(labels), names, indices)


def _read(batches: Batches) -> tuple[Spool, Labels]:
    """All batches, on disk: memory holds one of them."""
    spool, labels = None, []
    for images, found in batches:
        spool = spool or Spool(tuple(images.shape[1:]), images.dtype)
        _require_alike(spool, images)
        spool.append(images)
        labels.append(found)
    if spool is None or not len(spool):
        raise DataError("the data hold no image: give one or more")
    return spool, np.concatenate(labels)


def _require_alike(spool: Spool, images: Tensor) -> None:
    if spool.shape != tuple(images.shape[1:]) or spool.dtype != images.dtype:
        one = f"{spool.shape} of {str(spool.dtype)[6:]}"
        other = f"{tuple(images.shape[1:])} of {str(images.dtype)[6:]}"
        raise DataError(f"images differ: {one} and {other}: make them one shape and one type")


def _no_more_than(batches: Batches, most: int | None) -> Iterator[tuple[Tensor, Labels]]:
    """A stream is read no further than it must be."""
    done = 0
    for images, labels in batches:
        left = len(images) if most is None else most - done
        yield images[:left], labels[:left]
        done += len(images)
        if most is not None and done >= most:
            return
