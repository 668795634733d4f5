"""Images that belong to none of a data set's classes: other data sets, photographs, noise.

They come batch by batch, so that memory doesn't grow with their number.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset, class_order, load_dataset, to_unit_range
from robusteval.data.entry import MADE_TITLES
from robusteval.data.files import is_folder, shown
from robusteval.data.folders import image_files
from robusteval.data.images import decode_all
from robusteval.data.raw import Shape
from robusteval.errors import DataError

Images = Iterator[Tensor]  # batches (B, C, H, W) in [0, 1]
BATCH = 250
NOISE = ("gaussian_noise", "uniform_noise")
_GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601 luma


def gaussian_noise(count: int, shape: Shape, seed: int) -> Images:
    """Pixels from N(0.5, 1), cut to [0, 1]: the noise set of ODIN (Liang et al. 2018)."""
    generator = torch.Generator().manual_seed(seed)
    for size in _sizes(count):
        noise = torch.randn((size, *astuple(shape)), generator=generator)
        yield (0.5 + noise).clamp(0, 1)


def uniform_noise(count: int, shape: Shape, seed: int) -> Images:
    """Pixels from U[0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    for size in _sizes(count):
        yield torch.rand((size, *astuple(shape)), generator=generator)


def photo_crops(count: int, shape: Shape, seed: int) -> Images:
    """Square crops, 48 to 240 pixels wide, of the two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(p).permute(2, 0, 1) for p in load_sample_images().images]
    rng = np.random.default_rng(seed)
    for size in _sizes(count):
        crops = []
        for _ in range(size):
            photograph = photographs[rng.integers(len(photographs))]
            side = int(rng.integers(48, 241))
            top = int(rng.integers(photograph.shape[1] - side + 1))
            left = int(rng.integers(photograph.shape[2] - side + 1))
            crop = photograph[:, top : top + side, left : left + side]
            crops.append(fit_shape(to_unit_range(crop[None]), shape))
        yield torch.cat(crops)


def folder_images(folder: Path, count: int, shape: Shape, seed: int) -> Images:
    """Up to ``count`` images drawn from a folder.  Raises DataError if it holds none."""
    files = check_folder(folder)
    chosen = sorted(np.random.default_rng(seed).permutation(len(files))[:count])
    for part in _parts(chosen):
        yield to_unit_range(torch.from_numpy(decode_all([files[i] for i in part], shape)))


def dataset_images(
    name: str, count: int, shape: Shape, seed: int, data_dir: Path | None = None
) -> Images:
    """Up to ``count`` test images of another data set, balanced over its classes."""
    data = load_dataset(name, "test", data_dir)
    subset = data.balanced_subset(min(count, len(data)), seed)
    for part in _parts(range(len(subset))):
        yield fit_shape(subset.images(torch.as_tensor(part)), shape)


def _parts(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def _sizes(count: int) -> Iterator[int]:
    return (len(part) for part in _parts(range(count)))


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
    names: Sequence[str | Path], count: int, shape: Shape, seed: int, data_dir: Path | None = None
) -> dict[str, str]:
    """SHA-256 of the outlier images that a run of so many samples takes, but for made ones.

    Each is read on the way.  Raises DataError for one that can't be.
    """
    found = {}
    for name in names:
        if name not in MADE_TITLES:
            digest = hashlib.sha256()
            for batch in outlier_batches(name, count, shape, seed, data_dir):
                # As bytes: resizing may differ in a float's last bit from machine to machine.
                digest.update((255 * batch).round().to(torch.uint8).numpy().tobytes())
            found[str(name)] = digest.hexdigest()
    return found


def fit_shape(images: Tensor, shape: Shape) -> Tensor:
    """Images (B, C, H, W) in [0, 1] to another shape: grey or three equal channels, resized."""
    if images.shape[1] != shape.channels:
        one = (images * _GREY).sum(1, keepdim=True) if images.shape[1] == 3 else images
        images = one.expand(-1, shape.channels, -1, -1)
    if images.shape[2:] != (shape.height, shape.width):
        size = (shape.height, shape.width)
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return images.clamp(0, 1).contiguous()


_MADE: dict[str, Callable[[int, Shape, int], Images]] = {
    "gaussian_noise": gaussian_noise,
    "uniform_noise": uniform_noise,
    "photo_crops": photo_crops,
}


def outlier_names(dataset: Dataset, natural: int, data_dir: Path | None) -> list[str]:
    """The first ``natural`` natural outlier sets whose data are there, then the noises.

    Raises DataError for data that are there and can't be used: to leave them out without a word
    would change what is measured.
    """
    there = (n for n in dataset.info.outliers if n in MADE_TITLES or _is_there(n, data_dir))
    return [*islice(there, natural), *NOISE]


def _is_there(name: str, data_dir: Path | None) -> bool:
    try:
        return class_order(name, "test", data_dir) is not None
    except DataError as error:
        raise DataError(f"outlier set {name} can't be used: {error}") from None


def outlier_batches(
    name: str | Path, count: int, shape: Shape, seed: int, data_dir: Path | None = None
) -> Images:
    """Up to ``count`` outlier images in batches, float32 (B, C, H, W) in [0, 1], of a shape.

    ``name``: a data set or a made set; a Path is a folder of images.
    """
    if isinstance(name, Path):
        return folder_images(name, count, shape, seed)
    if name in MADE_TITLES:
        return _MADE[name](count, shape, seed)
    return dataset_images(name, count, shape, seed, data_dir)
