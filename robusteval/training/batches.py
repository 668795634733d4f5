"""Shuffled, augmented batches from pixels in memory."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset


def batches(
    data: Dataset, size: int, augment: Sequence[str], padding: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of (images (B, C, H, W) in [0, 1], labels (B,)); a last batch of one is dropped."""
    order = torch.randperm(len(data), generator=generator)
    for rows in order.split(size):
        if len(rows) == 1:
            return
        images = data.images(rows)
        if "flip" in augment:
            images = random_flip(images, generator)
        if "crop" in augment:
            images = random_crop(images, padding, generator)
        yield images, data.labels[rows]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to ``padding`` pixels each way, zeros coming in."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows = shifts[0] + torch.arange(height)  # (B, H)
    columns = shifts[1] + torch.arange(width)  # (B, W)
    each = torch.arange(count).view(-1, 1, 1, 1)
    planes = torch.arange(channels).view(1, -1, 1, 1)
    return padded[each, planes, rows.view(count, 1, -1, 1), columns.view(count, 1, 1, -1)]
