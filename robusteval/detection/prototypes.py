"""Detectors that go by distances to prototypes.

Distances are Euclidean, between unit vectors where a model compares directions only.  Only
``nearest_prototype`` takes the model's own measure.  They are (N, K, M), M prototypes a class.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from robusteval.detection.mahalanobis import to_nearest
from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_TINY = 1e-24  # squared


def nearest_prototype(state: State, model: Adapter, images: Tensor) -> Tensor:
    """Minus the distance to the nearest prototype of any class."""
    return -model.distances(images).flatten(1).amin(1)


def ratio(state: State, model: Adapter, squared: Tensor) -> Tensor:
    """Minus the distance to the nearest class over that to the second nearest: from −1, where an
    image is between two, to 0."""
    nearest = squared.double().amin(2).topk(2, dim=1, largest=False).values.clamp(min=_TINY)
    return -(nearest[:, 0] / nearest[:, 1]).sqrt()


def energy(state: State, model: Adapter, squared: Tensor) -> Tensor:
    """log Σ exp(−d²) over all prototypes."""
    return (-squared.double()).flatten(1).logsumexp(1)


def fit_radius(model: Adapter, squared: Tensor, labels: Tensor, share: float) -> State:
    """Each class's radius (K,): its nearest prototype is so near to a ``share`` of its samples.

    Raises ValueError where a class has no sample, or all are at its prototypes.
    """
    apart = squared.double().amin(2).gather(1, labels[:, None])[:, 0].sqrt()
    radii = []
    for label in range(model.classes):
        if not len(of_class := apart[labels == label]):
            raise ValueError(f"class {label} has no training sample")
        radii.append(of_class.quantile(share))
        if not radii[-1] > 0:
            raise ValueError(f"all training samples of class {label} are at its prototypes")
    return {"radii": torch.stack(radii)}


def radius(state: State, model: Adapter, squared: Tensor) -> Tensor:
    """Minus the distance to the nearest class, over its radius: −1 where its region ends."""
    nearest, label = squared.double().amin(2).min(1)
    return -nearest.clamp(min=_TINY).sqrt() / state["radii"][label]


def fit_covariance(model: Adapter, features: Tensor, labels: Tensor) -> State:
    """Prototypes (K, M, D) and the covariance (D, D) around each sample's own, its class's nearest.

    Raises ValueError where the model doesn't show its prototypes.
    """
    vectors = model.prototype_vectors().get(model.layers[-1])
    if vectors is None:
        raise ValueError("the model doesn't show its prototypes")
    directions = torch.tensor(model.compares_directions, device=features.device)
    found, prototypes = _placed(features, directions), vectors.double()
    of_class = prototypes[labels]  # (N, M, D)
    nearest = (found[:, None] - of_class).square().sum(2).argmin(1)
    centred = found - of_class[torch.arange(len(labels), device=labels.device), nearest]
    return {
        "prototypes": prototypes,
        "directions": directions,
        "covariance": centred.T @ centred / len(features),
    }


def _placed(features: Tensor, directions: Tensor) -> Tensor:
    """Features where prototypes are: as unit vectors where only directions are compared."""
    return normalize(features.double(), dim=1) if bool(directions) else features.double()


def mahalanobis(state: State, model: Adapter, features: Tensor) -> Tensor:
    """Minus the squared Mahalanobis distance to the nearest prototype."""
    found = _placed(features, state["directions"])
    return to_nearest(found, state["prototypes"].flatten(0, 1), state["covariance"])


_of_prototypes = partial(
    Detector,
    package=OURS,
    needs_prototypes=True,
    needs_linear_head=False,
    gradient=True,
    version=1,
)
_of_distances = partial(_of_prototypes, reads="distances", own_passes=0)
DETECTORS = (
    _of_prototypes(
        name="nearest_prototype",
        title="Distance to the nearest prototype",
        source="Yang et al. 2018, arXiv 1805.03438",
        reads="images",
        own_passes=1,
        settings=(),
        fit_read=None,
        score_read=nearest_prototype,
    ),
    _of_distances(
        name="prototype_ratio",
        title="Ratio of the two nearest classes",
        source="Mendes Júnior et al. 2017, Machine Learning 106",
        settings=(),
        fit_read=None,
        score_read=ratio,
    ),
    _of_distances(
        name="prototype_energy",
        title="Energy over prototypes",
        source="Liu et al. 2020, arXiv 2010.03759, of distances",
        settings=(),
        fit_read=None,
        score_read=energy,
    ),
    _of_distances(
        name="class_radius",
        title="Radius of a class's region",
        source="Mustafa et al. 2019, arXiv 1904.00887, Eq. 7",
        settings=tuple({"share": share} for share in (1.0, 0.95, 0.9)),
        fit_read=fit_radius,
        score_read=radius,
    ),
    _of_prototypes(
        name="prototype_mahalanobis",
        title="Mahalanobis distance around prototypes",
        source="Lee et al. 2018, arXiv 1807.03888, of prototypes",
        reads="features",
        own_passes=0,
        settings=(),
        fit_read=fit_covariance,
        score_read=mahalanobis,
    ),
)
