"""What accepting fewer samples gains, and curves short enough to be drawn.  Pure functions.

One convention: a higher score means more in-distribution, and the lowest scores are rejected first.
"""

import numpy as np
from numpy.typing import NDArray

from robusteval.detection.ranking import Curve, Ranking, Scores, rates

Points = tuple[Scores, Scores]  # x and y, (T,) each


def accuracy_rejection(scores: Scores, correct: NDArray[np.bool_]) -> Points:
    """Shares of rejected samples, from 0 up, and the accuracy of those that are accepted.

    Equal scores are rejected together; the last point accepts the highest scores alone.  Both are
    empty where there are no samples.
    """
    if len(scores) == 0:
        return np.empty(0), np.empty(0)
    order = np.argsort(scores, kind="stable")
    ranked, right = scores[order], correct[order]
    first = np.append(0, np.flatnonzero(ranked[1:] != ranked[:-1]) + 1)  # of each tie
    kept = len(scores) - first
    right_from = np.cumsum(right[::-1])[::-1][first]  # right ones among those kept
    return first / len(scores), right_from / kept


def roc(inside: Scores, outside: Scores) -> Points:
    """False and true positive rates, from (0, 0) to (1, 1)."""
    tpr, fpr = rates(_curve(inside, outside))
    return fpr, tpr


def precision_recall(inside: Scores, outside: Scores) -> Points:
    """Recall, which rises, and precision; inliers are the positives."""
    curve = _curve(inside, outside)
    kept = curve.true_positives + curve.false_positives
    return curve.true_positives / curve.true_positives[-1], curve.true_positives / kept


def _curve(inside: Scores, outside: Scores) -> Curve:
    return Ranking.of(inside, outside).curve(np.ones(len(inside)), np.ones(len(outside)))


def thinned(points: Points, most: int = 40) -> list[list[float]]:
    """At most so many [x, y] that lie evenly along a curve, its ends among them."""
    x, y = points
    if len(x) > most:
        along = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
        places = np.searchsorted(along, np.linspace(0, along[-1], most))
        chosen = np.unique(np.append(np.minimum(places, len(x) - 1), [0, len(x) - 1]))
        x, y = x[chosen], y[chosen]
    return [[float(f"{a:.4g}"), float(f"{b:.4g}")] for a, b in zip(x, y, strict=True)]
