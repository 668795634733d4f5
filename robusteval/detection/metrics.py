"""How well a score separates in-distribution from out-of-distribution.  Pure functions.

One convention: a higher score means more in-distribution.  The positive class is
in-distribution, except for AUPR-Out.  FPR@95TPR is the share of outliers that pass at the
threshold which keeps at least 95 % of the in-distribution samples; detection error is the
smallest ½(FNR + FPR) over all thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
FEWEST_RESAMPLED = 10
# The metrics, and the most that each can be.
HIGHEST = {"auroc": 1.0, "aupr_in": 1.0, "aupr_out": 1.0, "fpr95": 1.0, "detection_error": 0.5}
METRICS = tuple(HIGHEST)
_MOST_AT_ONCE = 5_000  # weights: few samples are resampled together, and all stays in the cache
_BIASED = ("aupr_in", "aupr_out", "detection_error")


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
            (counts[..., -1:] - _after_zero(counts[..., :-1]))[..., ::-1]
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


def average_precision(positives: Scores, negatives: Scores) -> Scores:
    """Σ (R_i − R_{i−1}) P_i, as scikit-learn defines it, from cumulative counts (…, T)."""
    precision = positives / (positives + negatives)
    recall = positives / positives[..., -1:]
    return np.asarray(np.sum(np.diff(recall, prepend=0.0) * precision, axis=-1))


def _after_zero(values: Scores) -> Scores:
    """(…, T + 1) Values (…, T) after a zero."""
    return np.concatenate([np.zeros((*values.shape[:-1], 1)), values], axis=-1)


def as_scores(values: Any) -> Scores:
    """Numbers of any type, in an array, a list or a tensor, as float64 (N,): a difference of bytes
    would wrap around, and halves tie.  Raises ValueError for anything else."""
    if hasattr(values, "detach"):  # a tensor, which NumPy may not know the type of
        values = values.detach().cpu()
        values = values if values.is_complex() else values.double()
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"scores are of type {found.dtype}: pass real numbers")
    if found.ndim != 1:
        raise ValueError(f"scores of shape {found.shape}: pass one for each sample, (N,)")
    if np.ma.is_masked(values):
        raise ValueError("some scores are masked: leave them out")
    return found.astype(np.float64, copy=False)


def detection_metrics(inside: ArrayLike, outside: ArrayLike) -> dict[str, float]:
    """The five metrics, each in [0, 1], of scores (N,) and (M,) of any type of number.

    Raises ValueError for an empty side, and for scores of another shape or that are not finite.
    """
    inside, outside = as_scores(inside), as_scores(outside)
    if not len(inside) or not len(outside):
        raise ValueError("detection metrics need samples on both sides")
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        raise ValueError("detection metrics need finite scores")
    curve = Ranking.of(inside, outside).curve(np.ones(len(inside)), np.ones(len(outside)))
    return dict(zip(METRICS, map(float, _metrics(curve)), strict=True))


def _metrics(curve: Curve) -> Scores:
    """(…, 5) The metrics, in the order of ``METRICS``."""
    kept_in, kept_out, reverse = curve.true_positives, curve.false_positives, curve.reverse
    tpr = _after_zero(kept_in / kept_in[..., -1:])
    fpr = _after_zero(kept_out / kept_out[..., -1:])
    keeps_95 = np.sum(tpr < 0.95 - 1e-12, axis=-1, keepdims=True)  # rates rise: its place
    found = {
        "auroc": np.trapezoid(tpr, fpr),
        "aupr_in": average_precision(kept_in, kept_out),
        "aupr_out": average_precision(reverse.true_positives, reverse.false_positives),
        "fpr95": np.take_along_axis(fpr, keeps_95, axis=-1)[..., 0],
        "detection_error": np.min((1 - tpr + fpr) / 2, axis=-1),
    }
    return np.stack([found[name] for name in METRICS], axis=-1)


def bootstrap_intervals(
    inside: ArrayLike, outside: ArrayLike, *, seed: int, resamples: int = 250
) -> Mapping[str, tuple[float, float]] | None:
    """95 % intervals of the five metrics, each side resampled by itself.

    By the Bayesian bootstrap (Rubin 1981, The Annals of Statistics 9(1)): weights in the place of
    draws, since doubles of a sample would raise average precision.  Once over the samples alone,
    and once with half a sample more at either end of each side, for what was not drawn: a share k
    of n gets Jeffreys' Beta(k + ½, n − k + ½), so that no separation is certain.  The interval
    holds both pairs of 2.5 and 97.5 % percentiles, and the estimate.  Average precision and
    detection error, a minimum over thresholds, are biased on few samples: theirs goes as far to
    both sides as to the farther one.  Tried on 32 known pairs of sides, of 12 to 400 samples, the
    intervals hold the truth in 98 % of cases on average (detection error: 94 %) and in no pair in
    fewer than 90 % (detection error, where sides hardly differ: 75 %).

    None where a side has fewer than ten samples: resampled, they say nothing of what wasn't drawn.
    """
    inside, outside = as_scores(inside), as_scores(outside)
    if min(len(inside), len(outside)) < FEWEST_RESAMPLED:
        return None
    rng = np.random.default_rng(seed)
    values = detection_metrics(inside, outside)
    drawn = np.concatenate(
        [
            _resampled(rng, inside, outside, resamples),
            _resampled(rng, _with_ends(inside), _with_ends(outside), resamples, ends=0.5),
        ]
    )
    bounds = np.percentile(drawn.reshape(2, resamples, -1), [2.5, 97.5], axis=1)
    intervals = {}
    for i, (name, value) in enumerate(values.items()):
        low, high = float(bounds[..., i].min()), float(bounds[..., i].max())
        if name in _BIASED:
            reach = max(value - low, high - value)
            low, high = max(value - reach, 0.0), min(value + reach, HIGHEST[name])
        # Rounded, since the last digits of sums are the machine's.
        intervals[name] = min(round(low, 6), value), max(round(high, 6), value)
    return intervals


def _with_ends(side: Scores) -> Scores:
    return np.concatenate([[-np.inf], side, [np.inf]])


def _resampled(
    rng: np.random.Generator,
    inside: Scores,
    outside: Scores,
    resamples: int,
    ends: float = 1.0,
) -> Scores:
    """(resamples, 5) The metrics under random weights, exponential or, at both ends, gamma."""

    def weights(count: int) -> Scores:
        drawn = rng.standard_exponential(count)
        drawn[[0, -1]] = rng.standard_gamma(ends, 2)
        drawn *= count / drawn.sum()
        return drawn

    ranking = Ranking.of(inside, outside)
    sizes = len(inside), len(outside)
    at_once = max(1, _MOST_AT_ONCE // sum(sizes))
    found = []
    for start in range(0, resamples, at_once):
        drawn = [tuple(map(weights, sizes)) for _ in range(start, min(start + at_once, resamples))]
        found.append(_metrics(ranking.curve(*map(np.stack, zip(*drawn, strict=True)))))
    return np.concatenate(found)
