"""Scores of two sides in one order, and what is kept at each threshold.

One convention: a higher score means more in-distribution.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Cumulative counts at each of T distinct thresholds, from the highest score down: (T,), or
    (R, T) for R resamples at once."""

    true_positives: Scores  # in-distribution kept
    false_positives: Scores  # outliers kept

    @property
    def reverse(self) -> "Curve":
        """What is kept from the lowest score up, outliers as positives."""
        kept_in, kept_out = (
            (counts[..., -1:] - after_zero(counts[..., :-1]))[..., ::-1]
            for counts in (self.true_positives, self.false_positives)
        )
        return Curve(kept_out, kept_in)


@dataclass(frozen=True)
class Ranking:
    """The scores of both sides in one order, from the highest down; ties move together."""

    order: NDArray[np.intp]  # (n_in + n_out,) places in the two sides joined
    last_of_tie: NDArray[np.intp]

    @classmethod
    def of(cls, inside: Scores, outside: Scores) -> "Ranking":
        values = np.concatenate([inside, outside])
        order = np.argsort(-values, kind="stable")
        ranked = values[order]
        return cls(order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(values) - 1))

    def curve(self, weights_in: Scores, weights_out: Scores) -> Curve:
        """Weights (…, n_in) and (…, n_out) kept when everything at or above each distinct score is
        kept."""
        sides = (
            [weights_in, np.zeros_like(weights_out)],
            [np.zeros_like(weights_in), weights_out],
        )
        kept = (np.take(np.concatenate(side, axis=-1), self.order, axis=-1) for side in sides)
        return Curve(*(np.take(np.cumsum(k, axis=-1), self.last_of_tie, axis=-1) for k in kept))


def after_zero(values: Scores) -> Scores:
    """(…, T + 1) Values (…, T) after a zero."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), values], axis=-1)


def rates(curve: Curve) -> tuple[Scores, Scores]:
    """(…, T + 1) True and false positive rates, which begin at 0 and end at 1."""
    kept = curve.true_positives, curve.false_positives
    tpr, fpr = (after_zero(counts / counts[..., -1:]) for counts in kept)
    return tpr, fpr
