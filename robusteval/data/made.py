"""Outlier images that no data set holds: noise, crops of photographs, and what is made of a run's
own images.  They come batch by batch, so that memory doesn't grow with their number.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset, to_unit_range
from robusteval.data.raw import Shape

Images = Iterator[Tensor]  # batches (B, C, H, W) in [0, 1]
BATCH = 250
_GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601 luma
_BLUR = 8  # the shorter side is so many standard deviations of the blur


def parts_of(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    """Rows, a batch at a time."""
    return (rows[i : i + BATCH] for i in range(0, len(rows), BATCH))


def _sizes(count: int) -> Iterator[int]:
    return (len(part) for part in parts_of(range(count)))


def gaussian_noise(count: int, shape: Shape, seed: int) -> Images:
    """Pixels from N(0.5, 1), cut to [0, 1]: the noise of ODIN (Liang et al. 2018) and SCPL."""
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


def blurred(inliers: Dataset, count: int, seed: int) -> Images:
    """The first ``count`` inliers under a Gaussian blur whose standard deviation is an eighth of
    the shorter side: colours and their places stay, no object does.  Nothing of it is random."""
    side = min(inliers.info.shape.height, inliers.info.shape.width)
    kernel = _bell(side / _BLUR, side)
    for rows in parts_of(range(min(count, len(inliers)))):
        images = inliers.images(torch.as_tensor(rows))
        yield _along(_along(images, kernel, 3), kernel, 2).clamp(0, 1)


def _bell(deviation: float, side: int) -> Tensor:
    """(2 R + 1,) A Gaussian that sums to 1, cut at three standard deviations or at the image."""
    reach = max(1, min(math.ceil(3 * deviation), side - 1))
    places = torch.arange(-reach, reach + 1, dtype=torch.float32)
    bell = torch.exp(-places.square() / (2 * deviation**2))
    return bell / bell.sum()


def _along(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Images convolved with a kernel along one axis, mirrored at their edges."""
    turned = images.movedim(axis, -1)  # (B, C, S, L)
    reach = min(len(kernel) // 2, turned.shape[-1] - 1)
    kernel = kernel[len(kernel) // 2 - reach :][: 2 * reach + 1]
    rows = F.pad(turned.flatten(0, 2)[:, None], (reach, reach), mode="reflect")  # (B C S, 1, L')
    found = F.conv1d(rows, (kernel / kernel.sum())[None, None])
    return found.view(turned.shape).movedim(-1, axis)


def permuted(inliers: Dataset, count: int, seed: int) -> Images:
    """The first ``count`` inliers, the pixels of each in a random order of its own: colours stay,
    their places don't."""
    generator = torch.Generator().manual_seed(seed)
    for rows in parts_of(range(min(count, len(inliers)))):
        images = inliers.images(torch.as_tensor(rows))
        pixels = images.flatten(2)  # (B, C, H W)
        order = torch.rand((len(images), 1, pixels.shape[2]), generator=generator).argsort(2)
        yield pixels.gather(2, order.expand_as(pixels)).view_as(images)


def fit_shape(images: Tensor, shape: Shape) -> Tensor:
    """Images (B, C, H, W) in [0, 1] to another shape: grey or three equal channels, resized."""
    if images.shape[1] != shape.channels:
        one = (images * _GREY).sum(1, keepdim=True) if images.shape[1] == 3 else images
        images = one.expand(-1, shape.channels, -1, -1)
    if images.shape[2:] != (shape.height, shape.width):
        size = (shape.height, shape.width)
        images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return images.clamp(0, 1).contiguous()


MADE: dict[str, Callable[[int, Shape, int], Images]] = {
    "gaussian_noise": gaussian_noise,
    "uniform_noise": uniform_noise,
    "photo_crops": photo_crops,
}
MADE_OF_INLIERS: dict[str, Callable[[Dataset, int, int], Images]] = {
    "blurred": blurred,
    "permuted": permuted,
}
