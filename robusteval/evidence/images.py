"""Counted images as they are stored: 16-bit fixed point.

A pixel is k/65535.  Rounding goes towards the clean image, so that a stored image never leaves a
ball around it that the image itself was in.  Where that undoes a success, it is to the nearest
levels in the ball; an attack that knows no ball ends on the boundary of a class, and may need
rounding away from the clean image to stay beyond it.  What is stored is
what counts: predictions, norms and digests are of the decoded image.
"""

import hashlib
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robusteval.types import ThreatModel

LEVELS = 65535
Stored = NDArray[np.uint16]


_SLACK = 0.03  # of a level: half of the tolerance that float32 pixels need
_SHRINKINGS = 4  # rounding makes a perturbation longer by next to nothing
Rounding = Literal["inward", "nearest", "outward"]


def encode(images: Tensor, clean: Tensor, rounding: Rounding) -> Stored:
    """Images (B, C, H, W) in [0, 1] as uint16; ``inward`` rounds towards ``clean``."""
    values = images.detach().cpu().double().numpy() * LEVELS
    origin = clean.detach().cpu().double().numpy() * LEVELS
    rounded = np.rint(values)
    if rounding != "nearest":
        above, below = (np.floor, np.ceil) if rounding == "inward" else (np.ceil, np.floor)
        rounded = np.where(values > origin, above(values), rounded)
        rounded = np.where(values < origin, below(values), rounded)
    stored: Stored = rounded.clip(0, LEVELS).astype(np.uint16)
    return stored


def encode_within(
    images: Tensor, clean: Tensor, threat: ThreatModel, dither: int | None = None
) -> Stored:
    """Images (B, C, H, W) of a threat's ball as uint16, to the nearest levels that are in it.

    Rounding inward takes up to a level from every pixel, and undoes successes that are nearly ties
    where a model is steep; this takes next to nothing.  ``dither``, a seed, moves each pixel by up
    to half a level first: of several such images one may keep what another loses.
    """
    origin = clean.detach().cpu().double().numpy() * LEVELS
    moved = images.detach().cpu().double().numpy() * LEVELS - origin
    noise: Any = 0.0
    if dither is not None:
        noise = np.random.default_rng(dither).uniform(-0.5, 0.5, moved.shape)
    radius = threat.radius * LEVELS
    if threat.norm == "Linf":
        least, most = np.ceil(origin - radius - _SLACK), np.floor(origin + radius + _SLACK)
        rounded = np.rint(origin + moved + noise).clip(least, most)
    else:
        scale = np.ones((len(moved), 1, 1, 1))
        for _ in range(_SHRINKINGS):
            rounded = np.rint(origin + scale * moved + noise).clip(0, LEVELS)
            length = np.sqrt(np.square(rounded - origin).sum((1, 2, 3), keepdims=True))
            scale *= np.minimum(radius / np.maximum(length, 1e-12), 1.0)
    stored: Stored = rounded.clip(0, LEVELS).astype(np.uint16)
    return stored


def decode(stored: Stored) -> Tensor:
    """The counted images, float32 in [0, 1], on the CPU.

    The division is float64's: a float32 one differs in the last bit between devices.
    """
    return torch.from_numpy((stored / np.float64(LEVELS)).astype(np.float32))


def digests(stored: Stored) -> list[bytes]:
    """SHA-256 of each stored image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in stored]
