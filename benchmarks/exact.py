"""Smallest perturbations that are known exactly, the range [0, 1] of pixels included.

By quadratic and linear programs where the nearest of several prototypes decides, and by dynamic
programming where pixels are quantised first: nothing here knows of gradients or of attacks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from robusteval.types import Norm

Array = Any  # of numpy, float64
_GREYS = 16  # steps between black and white in ``digits``


def prototype_radii(prototypes: Tensor, images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """The norm (B,), float64, of the smallest perturbation of images (B, C, H, W) in [0, 1] after
    which a prototype of another class is nearest, of prototypes (K, M, C·H·W).

    The least over others' prototypes of the way to where each is nearer than any own one (Voráček
    and Hein 2022): an intersection of half-spaces, one for each own prototype, and of the box.
    """
    known = prototypes.double().numpy()
    into, below = {"L2": (shortest, _unboxed), "Linf": (flattest, _flattest_into_each)}[norm]
    found = []
    for image, label in zip(images.double().flatten(1).numpy(), labels.tolist(), strict=True):
        own = known[label]
        others = np.delete(known, label, axis=0).reshape(-1, known.shape[2])
        found.append(_least(image, own, others, into, below))
    return torch.tensor(found, dtype=torch.float64)


def _least(
    image: Array,
    own: Array,
    others: Array,
    into: Callable[[Array, Array, Array], float],
    below: Callable[[Array, Array, Array], float],
) -> float:
    """Over the others, those first whose cheaper bound from ``below`` is smallest."""
    ways = []
    for other in others:  # |x + d − other|² <= |x + d − own|² for each own one
        slopes = 2 * (other - own)
        least = (other**2).sum() - (own**2).sum(1) - slopes @ image
        ways.append((below(slopes, least, image), slopes, least))
    best = np.inf
    for bound, slopes, least in sorted(ways, key=lambda way: way[0]):
        if bound >= best:
            break
        best = min(best, into(slopes, least, image))
    return float(best)


def _unboxed(slopes: Array, least: Array, image: Array) -> float:
    """The L2 norm of the shortest d with slopes · d >= least (Lawson and Hanson 1974, LDP)."""
    stacked = np.vstack([slopes.T, least[None]])
    wanted = np.zeros(len(stacked))
    wanted[-1] = 1
    solved, _ = nnls(stacked, wanted, maxiter=100 * len(stacked))
    residual = stacked @ solved - wanted
    if np.linalg.norm(residual) < 1e-9:  # no d does
        return np.inf
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def shortest(slopes: Array, least: Array, image: Array) -> float:
    """The same of d that keep image + d in [0, 1], which is two more half-spaces for each pixel."""
    eye = np.eye(len(image))
    walls = np.concatenate([-image, image - 1])
    return _unboxed(np.vstack([slopes, eye, -eye]), np.concatenate([least, walls]), image)


def flattest(slopes: Array, least: Array, image: Array) -> float:
    """The L∞ norm of the smallest such d, by linear programming over (d, its norm)."""
    pixels = len(image)
    eye, ones = np.eye(pixels), np.ones((pixels, 1))
    below = np.vstack(
        [
            np.hstack([-slopes, np.zeros((len(slopes), 1))]),
            np.hstack([eye, -ones]),
            np.hstack([-eye, -ones]),
        ]
    )
    bound = np.concatenate([-least, np.zeros(2 * pixels)])
    walls = [*zip(-image, 1 - image, strict=True), (0, None)]
    solved = linprog(np.append(np.zeros(pixels), 1), below, bound, bounds=walls)
    return float(solved.fun) if solved.success else np.inf


def _flattest_into_each(slopes: Array, least: Array, image: Array) -> float:
    """At least so large: the largest of the half-spaces' own, each without the others."""
    return max(_flattest_into(slope, gap, image) for slope, gap in zip(slopes, least, strict=True))


def _flattest_into(slope: Array, gap: float, image: Array) -> float:
    """The smallest t at which pixels, each moved by t or as far as it can, gain ``gap``."""
    if gap <= 0:
        return 0.0
    room = np.where(slope > 0, 1 - image, image)
    order = np.argsort(room)
    room, weight = room[order], np.abs(slope)[order]
    still = weight.sum() - np.concatenate([[0], weight.cumsum()[:-1]])  # not yet at their end
    gained = np.concatenate([[0], (still * np.diff(room, prepend=0)).cumsum()])
    place = int(np.searchsorted(gained, gap))
    if place == len(gained):
        return np.inf
    start = room[place - 2] if place > 1 else 0.0
    return float(start + (gap - gained[place - 1]) / still[place - 1])


def quantised(images: Tensor, levels: int) -> Tensor:
    """Pixels in [0, 1] as one of so many levels from 0 to 1: by two, one bit; the sums of a
    thermometer code's bits otherwise."""
    return (images * levels).floor().clamp(max=levels - 1) / (levels - 1)


def broken_behind_quantiser(
    means: Tensor, images: Tensor, labels: Tensor, norm: Norm, eps: float, levels: int
) -> Tensor:
    """Whether a perturbation of that norm exists (B,) after which another class's mean (K, D) is
    nearest to the quantised images, whose pixels are multiples of 1/16.

    Each pixel may take any level whose nearest value is within reach, and adds to each class's gain
    by itself: in L∞ the best is taken for each, in L2 the best for each cost that all of them have
    together, in squares of a sixteenth, which is a knapsack of whole numbers.
    """
    greys = (images.double().flatten(1) * _GREYS).round().numpy()  # (B, D)
    values = np.arange(levels) / (levels - 1)
    steps = _steps_to(greys, levels)  # (B, D, L): sixteenths from each pixel to each level
    known = means.double().numpy()
    squared = (values[None, None] - known[:, :, None]) ** 2  # (K, D, L)
    own = squared[labels.numpy()]  # (B, D, L)
    best = np.full(len(images), -np.inf)
    for other in range(len(known)):
        gains = np.where((labels.numpy() == other)[:, None, None], -np.inf, own - squared[other])
        if norm == "Linf":
            most = np.where(steps <= _GREYS * eps, gains, -np.inf).max(2).sum(1)
        else:
            most = _most_for(steps**2, gains, int((_GREYS * eps) ** 2))
        best = np.maximum(best, most)
    return torch.from_numpy(best > 0)


def _steps_to(greys: Array, levels: int) -> Array:
    """How many sixteenths lie between each pixel (B, D) and each level: (B, D, L)."""
    width = _GREYS / levels
    first, last = np.arange(levels) * width, (np.arange(levels) + 1) * width
    last[-1] = np.inf  # white belongs to the last
    moved = np.maximum(first - greys[:, :, None], greys[:, :, None] - last)
    return np.maximum(moved, 0)


def _most_for(costs: Array, gains: Array, most: int) -> Array:
    """The largest sum of gains (B,), one level of each pixel (B, D, L), for costs of ``most``."""
    table = np.zeros((len(costs), most + 1))  # by what may be spent
    for pixel in range(costs.shape[1]):
        options: Sequence[Array] = []
        for level in range(costs.shape[2]):
            spent = np.arange(most + 1)[None] - costs[:, pixel, level, None].astype(int)
            before = np.take_along_axis(table, np.maximum(spent, 0), 1)
            gained = before + gains[:, pixel, level, None]
            options = [*options, np.where(spent >= 0, gained, -np.inf)]
        table = np.maximum.reduce(options)
    return table[:, -1]
