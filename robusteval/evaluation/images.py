"""Counted images as they are stored: 16-bit fixed point.

A pixel is k/65535.  Rounding goes towards the clean image, so that a stored image never leaves a
ball around it that the image itself was in; an attack that knows no ball ends on the boundary of
a class, and may need rounding away from the clean image to stay beyond it.  What is stored is
what counts: predictions, norms and digests are of the decoded image.
"""

import hashlib
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVELS = 65535
Stored = NDArray[np.uint16]


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


def decode(stored: Stored) -> Tensor:
    """The counted images, float32 in [0, 1], on the CPU.

    The division is float64's: a float32 one differs in the last bit between devices.
    """
    return torch.from_numpy((stored / np.float64(LEVELS)).astype(np.float32))


def digests(stored: Stored) -> list[bytes]:
    """SHA-256 of each stored image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in stored]
