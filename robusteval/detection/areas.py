"""Two metrics that ask more than the rank of a score: AUTC and OSCR.  Pure functions.

**AUTC** (Humblot-Renaud et al. 2023, arXiv 2306.14658): the mean of the areas under the false
positive and the false negative rate, over thresholds in [0, 1].  A detector may rank well and yet
have no threshold that is easy to choose: that AUROC hides.  The paper takes scores in [0, 1]; here,
as in pytorch-ood, both sides together are brought to [0, 1] first.  Then the areas are means of
scores, ½ (1 − mean_in + mean_out), which is 0 at best.  Equal scores have ½, whatever they are
(pytorch-ood refuses them).  An infinite score stands for ±M in the limit of large M (pytorch-ood
refuses it, too).

**OSCR** (Dhamija et al. 2018, arXiv 1811.04110): the area under the share of inliers that are
accepted *and* of the right class, against the share of outliers that are accepted.  It is at most
the accuracy.  Of a tie half is counted, as for AUROC (in the paper none, so that equal scores would
have 0 in the place of half the accuracy); so does pytorch-ood.
"""

import numpy as np

from robusteval.detection.ranking import Ranking, Scores, after_zero


def normalised(inside: Scores, outside: Scores) -> tuple[Scores, Scores]:
    """Both sides brought to [0, 1], the lowest score of all to 0 and the highest to 1."""
    both = np.concatenate([inside, outside])
    low, high = both.min(), both.max()
    if np.isinf([low, high]).any():
        return _in_the_limit(inside, low, high), _in_the_limit(outside, low, high)
    if low == high:
        return np.full(len(inside), 0.5), np.full(len(outside), 0.5)
    scale = np.ldexp(1.0, -int(np.frexp(max(abs(low), abs(high)))[1]))  # no overflow in high − low
    low, span = low * scale, high * scale - low * scale
    return (inside * scale - low) / span, (outside * scale - low) / span


def _in_the_limit(side: Scores, low: float, high: float) -> Scores:
    """Places of finite scores among infinite ones, which are ±M: all of them fall together."""
    if low == high:
        return np.full(len(side), 0.5)
    finite = 1.0 if np.isfinite(high) else 0.0 if np.isfinite(low) else 0.5
    places = np.where(np.isposinf(side), 1.0, finite)
    return np.asarray(np.where(np.isneginf(side), 0.0, places))


def threshold_area(
    inside: Scores, outside: Scores, weights_in: Scores, weights_out: Scores
) -> Scores:
    """(…) AUTC of scores (N,) and (M,) in [0, 1] under weights (…, N) and (…, M)."""
    mean_in = weights_in @ inside / weights_in.sum(-1)
    mean_out = weights_out @ outside / weights_out.sum(-1)
    return np.asarray((1 - mean_in + mean_out) / 2)


def open_set_area(
    ranking: Ranking, correct: Scores, weights_in: Scores, weights_out: Scores
) -> Scores:
    """(…) OSCR under weights (…, N) and (…, M); ``correct`` (N,): 1 where an inlier's class is
    right, else 0."""
    curve = ranking.curve(weights_in * correct, weights_out)
    accepted = after_zero(curve.true_positives / weights_in.sum(-1, keepdims=True))
    passing = after_zero(curve.false_positives / curve.false_positives[..., -1:])
    return np.asarray(np.trapezoid(accepted, passing))
