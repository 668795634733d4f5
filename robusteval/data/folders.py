"""One folder per class, images below folders, and Tiny ImageNet's own archive."""

import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robusteval.data.files import (
    entries,
    is_folder,
    is_visible,
    parsing,
    read_bytes,
    shown,
    unreadable,
)
from robusteval.data.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, decode_all
from robusteval.data.raw import RawData, Shape
from robusteval.errors import DataError


def class_folders(root: Path) -> list[Path]:
    """The folders of a split in the order of their labels: by number if all are whole numbers,
    else by text.  Hidden folders, and those that systems leave, are none.

    Raises DataError if two names are the same number, or a name is no text.
    """
    found = [path for path in entries(root) if is_folder(path)]
    for path in found:
        if not path.name.isprintable():
            raise DataError(f"class folder {shown(path)} has a name that is not text: rename it")
    if not all(re.fullmatch("[0-9]+", path.name) for path in found):
        return found
    found.sort(key=lambda path: int(path.name))
    for one, other in pairwise(found):
        if int(one.name) == int(other.name):
            raise DataError(
                f"class folders {one.name} and {other.name} of {shown(root)} are the same number: "
                "keep one"
            )
    return found


def read_folders(root: Path, shape: Shape) -> RawData:
    """One folder per class, in the order of ``class_folders``; files in sorted order."""
    files, labels, names = listed_images(root)
    return RawData(decode_all(files, shape, any_size=False), labels, names)


def listed_images(root: Path) -> tuple[list[Path], NDArray[np.int64], tuple[str, ...]]:
    """The same without reading: files, their labels (N,), and the classes' names."""
    classes = class_folders(root)
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = image_files(folder)
        if not found:
            raise DataError(
                f"class folder {shown(folder)} holds no images: put some in, or remove it"
            )
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{shown(root)} has no class folders with images in them")
    return files, np.array(labels, np.int64), tuple(p.name for p in classes)


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, in sorted order, but for hidden ones.

    What has an image's name is taken for one, be it a folder or a FIFO, so that reading it says
    what it is.  Raises DataError for a folder that can't be read or is met twice, by a link.
    """
    found, met = [], set()
    with parsing(f"folder {shown(folder)} can't be read", "give another one"):
        for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in met:
                raise DataError(
                    f"{shown(place)} is a link to a folder that is read already: remove the link"
                )
            met.add((status.st_dev, status.st_ino))
            folders[:] = [name for name in folders if is_visible(name)]
            found += [Path(place, name) for name in (*folders, *names) if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    """Also of kinds that can't be read here: to leave them out would say nothing of it."""
    end = os.path.splitext(name)[1].lower()
    return is_visible(name) and (end in IMAGE_SUFFIXES or end in UNREAD_SUFFIXES)


def _refuse(error: OSError) -> None:
    raise unreadable(Path(error.filename), error)


def read_tiny_imagenet_val(root: Path, shape: Shape) -> RawData:
    """The layout of the original archive: ``images/`` and ``val_annotations.txt``."""
    rows = _annotations(root)
    names = tiny_imagenet_classes(root)
    images = decode_all([root / "images" / file for file, _ in rows], shape, any_size=False)
    index = {name: k for k, name in enumerate(names)}
    return RawData(images, np.array([index[w] for _, w in rows], np.int64), names)


def tiny_imagenet_classes(root: Path) -> tuple[str, ...]:
    """The classes that the list names, sorted by text."""
    return tuple(sorted({name for _, name in _annotations(root)}))


def _annotations(root: Path) -> list[tuple[str, str]]:
    """Each image's file and class.  Raises DataError for a list that is none."""
    listing = root / "val_annotations.txt"
    advice = "fetch it anew"
    with parsing(f"{shown(listing)} is not a list of files and classes", advice):
        lines = read_bytes(listing).decode("utf-8").splitlines()
        rows = [(file, name) for file, name, *_ in (s.split("\t") for s in lines if s.strip())]
    for file, _ in rows:
        if "/" in file or file in ("", ".", ".."):
            raise DataError(
                f"{shown(listing)} names {shown(file)!r}, not a file of images/: {advice}"
            )
    if len({file for file, _ in rows}) < len(rows):
        raise DataError(f"{shown(listing)} names a file twice: {advice}")
    return rows
