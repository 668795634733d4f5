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
METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95", "detection_error")


@dataclass(frozen=True)
class Curve:
    """Cumulative counts at each distinct threshold, from the highest score down."""

    true_positives: NDArray[np.float64]  # in-distribution kept
    false_positives: NDArray[np.float64]  # outliers kept


def threshold_curve(inside: Scores, outside: Scores) -> Curve:
    """Counts kept when everything at or above each distinct score is kept; ties move together."""
    values = np.concatenate([inside, outside])
    order = np.argsort(-values, kind="stable")
    is_in = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    kept_in = np.cumsum(is_in)[last_of_tie]
    return Curve(kept_in, last_of_tie + 1 - kept_in)


def average_precision(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Σ (R_i − R_{i−1}) P_i, as scikit-learn defines it, from cumulative counts."""
    precision = positives / (positives + negatives)
    recall = positives / positives[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


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
    curve = threshold_curve(inside, outside)
    tpr = np.concatenate([[0.0], curve.true_positives / len(inside)])
    fpr = np.concatenate([[0.0], curve.false_positives / len(outside)])
    reverse = threshold_curve(-outside, -inside)
    keeps_95 = np.searchsorted(tpr, 0.95 - 1e-12)
    return {
        "auroc": float(np.trapezoid(tpr, fpr)),
        "aupr_in": average_precision(curve.true_positives, curve.false_positives),
        "aupr_out": average_precision(reverse.true_positives, reverse.false_positives),
        "fpr95": float(fpr[keeps_95]),
        "detection_error": float(np.min((1 - tpr + fpr) / 2)),
    }


def bootstrap_intervals(
    inside: ArrayLike, outside: ArrayLike, *, seed: int, resamples: int = 200
) -> Mapping[str, tuple[float, float]] | None:
    """95 % percentile intervals of the five metrics, resampling each side by itself.

    None where a side has fewer than ten samples: resampled, they say nothing of what wasn't drawn.
    """
    inside, outside = as_scores(inside), as_scores(outside)
    if min(len(inside), len(outside)) < FEWEST_RESAMPLED:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            list(
                detection_metrics(
                    rng.choice(inside, len(inside)), rng.choice(outside, len(outside))
                ).values()
            )
            for _ in range(resamples)
        ]
    )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}
