"""Mahalanobis distance to the nearest class mean (Lee et al. 2018, arXiv 1807.03888, Eq. 2).

Of the penultimate features alone, and without the paper's perturbation of the input: the score is
its M(x) = max_c −(f(x) − μ_c)ᵀ Σ⁻¹ (f(x) − μ_c), with one covariance Σ for all classes.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_ROUNDING = torch.finfo(torch.float32).eps


def fit(model: Adapter, features: Tensor, labels: Tensor) -> State:
    """Means (K, D) and the shared covariance (D, D), both in float64.

    The covariance is kept, not its inverse, which would magnify the last bits of the features.
    Raises ValueError where a class has no sample.
    """
    features = features.double()
    members = one_hot(labels, model.classes).double()  # (N, K)
    counts = members.sum(0)
    if (counts == 0).any():
        raise ValueError(f"class {int(counts.argmin())} has no training sample")
    means = members.T @ features / counts[:, None]
    centred = features - means[labels]
    return {"means": means, "covariance": centred.T @ centred / len(features)}


def score(state: State, model: Adapter, features: Tensor) -> Tensor:
    """Minus the squared distance to the nearest mean.

    Directions in which the training data spread no wider than float32 rounds tell nothing, and are
    left out, as a pseudo-inverse does.
    """
    spread, directions = torch.linalg.eigh(state["covariance"])
    kept = spread > spread[-1] * (len(spread) * _ROUNDING) ** 2
    whitening = directions[:, kept] / spread[kept].sqrt()  # (D, R)
    found, means = features.double() @ whitening, state["means"] @ whitening
    apart = torch.cdist(found, means, compute_mode="donot_use_mm_for_euclid_dist")
    return -apart.amin(1).square()


DETECTORS = (
    Detector(
        name="mahalanobis",
        title="Mahalanobis distance",
        source="Lee et al. 2018, arXiv 1807.03888",
        package=OURS,
        reads="features",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=0,
        settings=(),
        fit_read=fit,
        score_read=score,
        version=1,
    ),
)
