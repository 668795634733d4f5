"""Density of a Gaussian for each class (Mukhoti et al. 2023, arXiv 2102.11582), with the class
shares as weights."""

import math

import torch
from torch import Tensor

from robusteval.detection.mahalanobis import class_means
from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_JITTER = 1e-6  # on the diagonal, as pytorch-ood has it
_MOST = 2**22  # numbers of all covariances: a state is stored


def fit(model: Adapter, features: Tensor, labels: Tensor) -> State:
    """Means (K, D), Cholesky factors of the covariances (K, D, D) and log shares (K,), float64.

    Raises ValueError where a class has no sample, a covariance can't be factorised, or all of them
    are too large to be kept.
    """
    classes, dim = model.classes, features.shape[1]
    if classes * dim * dim > _MOST:
        raise ValueError(
            f"{classes} covariances of {dim} features are more than {_MOST} numbers, too many to "
            "keep"
        )
    features = features.double()
    means = class_means(classes, features, labels)
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)
    factors = [_factor(features[labels == k] - means[k], k) for k in range(classes)]
    return {"means": means, "factors": torch.stack(factors), "log_shares": shares.log()}


def _factor(centred: Tensor, label: int) -> Tensor:
    covariance = centred.T @ centred / len(centred)
    jitter = _JITTER * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance + jitter)
    if failed:
        raise ValueError(f"the covariance of class {label} is singular")
    return factor


def score(state: State, model: Adapter, features: Tensor) -> Tensor:
    """The log density."""
    factors = state["factors"]  # (K, D, D)
    apart = (features.double()[None] - state["means"][:, None]).mT  # (K, D, B)
    squared = torch.linalg.solve_triangular(factors, apart, upper=False).square().sum(1)  # (K, B)
    log_det = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = log_det + features.shape[1] * math.log(2 * math.pi)
    log_density: Tensor = state["log_shares"][:, None] - (squared + constant[:, None]) / 2
    return log_density.logsumexp(0)


DETECTORS = (
    Detector(
        name="gmm",
        title="Density of class Gaussians",
        source="Mukhoti et al. 2023, arXiv 2102.11582",
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
