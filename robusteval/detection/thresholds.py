"""The score from which a detector accepts."""

import numpy as np
from numpy.typing import NDArray

TPR = 0.95  # the field's


def threshold_at(inside: NDArray[np.float64], tpr: float = TPR) -> float:
    """The largest score t such that a share ``tpr`` of inliers' scores (N,), or more, is t or
    above: whoever scores t is accepted.

    Raises ValueError for no scores, or a share outside (0, 1].
    """
    if not len(inside):
        raise ValueError("a threshold needs inliers' scores")
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr = {tpr}: choose a share above 0, up to 1")
    most_rejected = int(np.floor((1 - tpr) * len(inside) + 1e-9))
    return float(np.sort(inside)[most_rejected])
