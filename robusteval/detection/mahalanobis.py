"""Mahalanobis distance to the nearest class mean, and how much nearer it is than the mean of all.

Of the penultimate features alone, and without the paper's perturbation of the input: the score of
Lee et al. (Eq. 2) is M(x) = max_c −(f(x) − μ_c)ᵀ Σ⁻¹ (f(x) − μ_c), with one covariance Σ for all
classes.  Ren et al. take off the distance to one Gaussian of all training data.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from robusteval.detection.prepared import prepared
from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_ROUNDING = torch.finfo(torch.float32).eps


def class_means(classes: int, features: Tensor, labels: Tensor) -> Tensor:
    """(K, D) The means of features (N, D).  Raises ValueError where a class has no sample."""
    members = one_hot(labels, classes).double()  # (N, K)
    counts = members.sum(0)
    if (counts == 0).any():
        raise ValueError(f"class {int(counts.argmin())} has no training sample")
    return members.T @ features / counts[:, None]


def whitening_of(covariance: Tensor) -> Tensor:
    """(D, R) What differences are multiplied by, so that their length is Mahalanobis'.

    Directions in which the training data spread no wider than float32 rounds tell nothing, and are
    left out, as a pseudo-inverse does.
    """
    spread, directions = torch.linalg.eigh(covariance)
    kept = spread > spread[-1] * (len(spread) * _ROUNDING) ** 2
    whitening: Tensor = directions[:, kept] / spread[kept].sqrt()
    return whitening


def fit(model: Adapter, features: Tensor, labels: Tensor) -> State:
    """Means (K, D) and the shared covariance (D, D), both in float64.

    The covariance is kept, not its inverse, which would magnify the last bits of the features.
    Raises ValueError where a class has no sample.
    """
    features = features.double()
    means = class_means(model.classes, features, labels)
    centred = features - means[labels]
    return {"means": means, "covariance": centred.T @ centred / len(features)}


def score(state: State, model: Adapter, features: Tensor) -> Tensor:
    """Minus the squared distance to the nearest mean."""
    return to_nearest(features.double(), state["means"], state["covariance"])


def to_nearest(features: Tensor, centres: Tensor, covariance: Tensor) -> Tensor:
    """(B,) Minus the squared distance of features (B, D) to the nearest of ``centres`` (C, D)."""
    whitening = prepared(whitening_of, covariance)
    found, whitened = features @ whitening, centres @ whitening
    apart = torch.cdist(found, whitened, compute_mode="donot_use_mm_for_euclid_dist")
    return -apart.amin(1).square()


def fit_relative(model: Adapter, features: Tensor, labels: Tensor) -> State:
    """As ``fit``, with the mean (D,) and the covariance (D, D) of all training data."""
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    background = {"mean": mean, "background": centred.T @ centred / len(features)}
    return {**fit(model, features, labels), **background}


def score_relative(state: State, model: Adapter, features: Tensor) -> Tensor:
    """The squared distance to the mean of all, less that to the nearest class mean."""
    whitening = prepared(whitening_of, state["background"])
    apart = (features.double() - state["mean"]) @ whitening
    return apart.square().sum(1) + score(state, model, features)


_of_features = partial(
    Detector,
    package=OURS,
    reads="features",
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,
    own_passes=0,
    settings=(),
    version=1,
)
DETECTORS = (
    _of_features(
        name="mahalanobis",
        title="Mahalanobis distance",
        source="Lee et al. 2018, arXiv 1807.03888",
        fit_read=fit,
        score_read=score,
    ),
    _of_features(
        name="relative_mahalanobis",
        title="Relative Mahalanobis distance",
        source="Ren et al. 2021, arXiv 2106.09022",
        fit_read=fit_relative,
        score_read=score_relative,
    ),
)
