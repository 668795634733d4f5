"""Images of the user's own as Python gives them: arrays, tensors, a ``Dataset``, a ``DataLoader``.

Pixels are uint8 in [0, 255] or floats in [0, 1].  Four axes are (N, C, H, W), or (N, H, W, C) where
only the last axis can be channels (1, 3 or 4); three are (N, H, W).  Labels are whole numbers (N,).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from robusteval.data.parquet import IMAGE_NAMES, LABEL_NAMES
from robusteval.errors import DataError, RobustevalError, kind_of, reason, shown

Labels = NDArray[np.int64]
Batches = Iterator[tuple[Tensor, Labels]]  # pixels (B, C, H, W), labels (B,)
BATCH = 250  # samples that are read together
_CHANNELS = (1, 3, 4)
_WAYS = "give arrays or tensors (N, C, H, W) with labels (N,), a Dataset or a DataLoader"
_IMAGES = ("pixel_values", *IMAGE_NAMES)


@dataclass(frozen=True)
class Given:
    """Samples before any is chosen.

    ``read``: batches of those rows in their order; of all of them, once, for None.  ``labels`` are
    None where only reading tells them.
    """

    read: Callable[[Labels | None], Batches]
    labels: Labels | None = None
    class_names: tuple[str, ...] | None = None


def given(images: Any, labels: Any = None) -> Given:
    """What was given in the place of images.  Raises DataError for what are no samples."""
    if isinstance(images, DataLoader | TorchDataset):
        if labels is not None:
            raise DataError(f"{kind_of(images)} brings its labels: leave labels= out")
        if isinstance(images, DataLoader):
            return Given(lambda rows: _loaded(images), None, _names_of(images.dataset))
        return _of_dataset(images)
    if labels is None:
        raise DataError("images need labels: pass labels=…, whole numbers from 0 up (N,)")
    pixels, found = _array(images), as_labels(labels)
    if len(pixels) != len(found):
        raise DataError(f"{len(pixels)} images and {len(found)} labels: give one for each image")
    if len(found) == 0:
        raise DataError("there is no image: give one or more")
    return Given(lambda rows: _slices(pixels, found, rows), found)


def _array(images: Any) -> Tensor | NDArray[Any]:
    if isinstance(images, Tensor | np.ndarray):
        found = images
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        try:
            found = torch.stack([*images]) if isinstance(images[0], Tensor) else np.array(images)
        except (TypeError, ValueError, RuntimeError, LookupError) as error:
            raise DataError(f"images: {reason(error)}: {_WAYS}") from None
    else:
        raise DataError(f"images are {kind_of(images)}: {_WAYS}")
    if found.ndim not in (3, 4):
        raise DataError(f"images have shape {tuple(found.shape)}: {_WAYS}")
    _require_dense(found, "images")
    return found


def _require_dense(values: Any, what: str) -> None:
    if isinstance(values, Tensor) and (values.is_meta or values.layout is not torch.strided):
        kind = "on the device meta" if values.is_meta else str(values.layout)[6:]
        raise DataError(f"{what} are {kind}: give dense tensors")


def _slices(pixels: Any, labels: Labels, rows: Labels | None) -> Batches:
    rows = np.arange(len(labels)) if rows is None else rows
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        chosen = pixels[torch.from_numpy(part) if isinstance(pixels, Tensor) else part]
        yield as_pixels(chosen), labels[part]


# A torch ``Dataset``


def _of_dataset(data: Any) -> Given:
    names = _names_of(data)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return Given(lambda rows: _collected(iter(data)), None, names)
    try:
        count = len(data)
    except (TypeError, ValueError) as error:
        raise DataError(f"{kind_of(data)} has no length ({reason(error)}): give it one") from None
    if count == 0:
        raise DataError(f"{kind_of(data)} is empty: give one sample or more")
    told = _told_labels(data, count)

    def read(rows: Labels | None) -> Batches:
        wanted = range(count) if rows is None else rows
        return _collected(data[int(row)] for row in wanted)

    return Given(read, told, names)


def _told_labels(data: Any, count: int) -> Labels | None:
    """The labels that torchvision's data sets keep beside the images, if they can be all."""
    if getattr(data, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        try:
            found = as_labels(getattr(data, name))
        except (AttributeError, DataError):
            continue
        if len(found) == count:
            return found
    return None


def _names_of(data: Any) -> tuple[str, ...] | None:
    names = getattr(data, "classes", None)
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        return None
    return tuple(names) if names and all(name.isprintable() for name in names) else None


def _collected(items: Iterator[Any]) -> Batches:
    """Single samples, some at a time."""
    images: list[Tensor] = []
    labels: list[int] = []
    for item in _guarded(items):
        image, label = _pair(item)
        images.append(_one(image))
        labels.append(_one_label(label))
        if len(images) == BATCH:
            yield _stacked(images), np.array(labels, np.int64)
            images, labels = [], []
    if images:
        yield _stacked(images), np.array(labels, np.int64)


def _one(image: Any) -> Tensor:
    """One image (1, C, H, W): a tensor or an array (C, H, W), (H, W, C) or (H, W), or Pillow's."""
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        grey = image.getbands() in (("1",), ("L",))
        image = np.array(image.convert("L" if grey else "RGB"))  # a copy: torch wants to write
    elif not isinstance(image, Tensor | np.ndarray):
        raise DataError(f"an image is {kind_of(image)}: give tensors, arrays or Pillow's images")
    if image.ndim == 2:
        image = image[None]
    return as_pixels(image[None])


def _one_label(label: Any) -> int:
    """A number, or an array of one."""
    found = as_labels(label.reshape(-1) if isinstance(label, Tensor) else np.ravel(label))
    if len(found) != 1:
        raise DataError(f"a sample has {len(found)} labels: give one, its class")
    return int(found[0])


def _stacked(images: list[Tensor]) -> Tensor:
    first = images[0]
    for image in images:
        if image.shape != first.shape or image.dtype != first.dtype:
            raise _mixed(first, image)
    return torch.cat(images)


def _mixed(first: Tensor, other: Tensor) -> DataError:
    one, two = (f"{tuple(i.shape[1:])} of {str(i.dtype)[6:]}" for i in (first, other))
    return DataError(f"images differ: {one} and {two}: make them one shape and one type")


# A ``DataLoader``


def _loaded(loader: Any) -> Batches:
    for batch in _guarded(iter(loader)):
        images, labels = _pair(batch)
        if not isinstance(images, Tensor | np.ndarray) or images.ndim not in (3, 4):
            raise DataError(
                f"a batch of the loader holds {kind_of(images)} in the images' place: let it give "
                "(images, labels) with images (B, C, H, W)"
            )
        pixels, found = as_pixels(images), as_labels(labels)
        if len(pixels) != len(found):
            raise DataError(f"a batch holds {len(pixels)} images and {len(found)} labels")
        yield pixels, found


def _guarded(items: Iterator[Any]) -> Iterator[Any]:
    """What foreign code raises on the way as one line."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except RobustevalError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            raise DataError(
                f"the data can't be read ({type(error).__name__}: {reason(error)}): mend that"
            ) from None
        yield item


def _pair(item: Any) -> tuple[Any, Any]:
    """Image and label of a pair, or of a mapping by their usual names."""
    if isinstance(item, Mapping):
        image = next((item[name] for name in _IMAGES if name in item), None)
        label = next((item[name] for name in LABEL_NAMES if name in item), None)
        if image is not None and label is not None:
            return image, label
        raise DataError(
            f"a sample has {shown([*item], 200)}: call its image {IMAGE_NAMES[0]} and its label "
            f"{LABEL_NAMES[1]}, or give pairs"
        )
    if isinstance(item, list | tuple) and len(item) >= 2:
        return item[0], item[1]
    raise DataError(f"a sample is {kind_of(item)}: give pairs of image and label")


# Pixels and labels


def as_pixels(images: Any) -> Tensor:
    """Images as (B, C, H, W), uint8 or float32 in [0, 1], in memory of their own.

    Raises DataError for another type, shape or range.
    """
    _require_dense(images, "images")
    try:
        found = torch.as_tensor(images).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"images: {reason(error)}: {_WAYS}") from None
    found = found[:, None] if found.ndim == 3 else found
    if found.ndim != 4 or 0 in found.shape[1:]:
        raise DataError(f"images have shape {tuple(found.shape)}: {_WAYS}")
    if found.shape[3] in _CHANNELS and found.shape[1] not in _CHANNELS:
        found = found.permute(0, 3, 1, 2)
    if found.dtype == torch.uint8:
        return found.contiguous()
    if not found.is_floating_point():
        raise DataError(
            f"images are {str(found.dtype)[6:]}: give uint8 from 0 to 255, or floats from 0 to 1"
        )
    found = found.float().contiguous()
    _require_unit_range(found)
    return found


def _require_unit_range(pixels: Tensor) -> None:
    if not len(pixels):
        return
    low, high = (float(value) for value in pixels.aminmax())
    if low >= 0 and high <= 1:
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("images hold NaN or infinity: give floats from 0 to 1")
    way = (
        "divide by 255, or give uint8"
        if low >= 0
        else "leave out what normalises them, and give mean= and std= to wrap_module"
    )
    raise DataError(f"images go from {low:.3g} to {high:.3g}, and not from 0 to 1: {way}")


def as_labels(labels: Any) -> Labels:
    """Labels (N,) as int64.  Raises DataError for what are no whole numbers from 0 up."""
    if isinstance(labels, Tensor):
        _require_dense(labels, "labels")
        labels = labels.detach().cpu()
        labels = labels.double() if labels.is_floating_point() else labels
    try:
        found = np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise DataError(f"labels: {reason(error)}: give whole numbers (N,)") from None
    if found.ndim != 1:
        advice = ": give each sample's class, as argmax(1) does" if found.ndim == 2 else ""
        raise DataError(f"labels have shape {found.shape}, not (N,){advice}")
    if found.dtype.kind not in "iuf" or not np.all(np.isfinite(found)):
        raise DataError(f"labels are {found.dtype}: give whole numbers from 0 up")
    whole = found.astype(np.int64)
    if (whole != found).any() or (len(whole) and whole.min() < 0):
        wrong = found[(whole != found) | (whole < 0)][0]
        raise DataError(f"labels hold {wrong}: give whole numbers from 0 up")
    return whole
