"""What every reader returns, and how the parts of a split become a whole."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robusteval.data.files import shown
from robusteval.data.shape import Shape
from robusteval.errors import DataError

__all__ = ["RawData", "Shape", "joined"]


@dataclass(frozen=True)
class RawData:
    """uint8 images (N, C, H, W), int64 labels (N,), and class names if the files tell them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None = None


_TWICE = 0.1  # of a file's samples: public data sets hold a few samples twice


def joined(files: Sequence[Path], parts: Sequence[RawData]) -> RawData:
    """The parts of a split, one from each file, as a whole.

    Raises DataError if two hold the same samples, in whatever order, or name their classes
    differently.
    """
    seen: dict[bytes, Path] = {}
    for file, part in zip(files, parts, strict=True):
        if part.class_names != parts[0].class_names:
            raise DataError(
                f"{shown(files[0])} and {shown(file)} name their classes differently, "
                "so that their labels mean different things: fetch both anew"
            )
        rows = _rows(part)
        twice = [row for row in rows if row in seen]
        if len(twice) > _TWICE * len(rows):
            raise DataError(
                f"{shown(seen[twice[0]])} and {shown(file)} hold the same samples, which would "
                "count twice: fetch the right one anew"
            )
        seen.update(dict.fromkeys(rows, file))
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return RawData(images, labels, parts[0].class_names)


def _rows(part: RawData) -> list[bytes]:
    """A digest of each sample, its label included."""
    pairs = zip(part.images, part.labels, strict=True)
    return [hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs]
