"""Detectors that go by the nearest training samples.

- ``knn``: distance to the k-th (Sun et al. 2022), between penultimate features of length 1.
- ``nnguide``: the model's energy, guided by the k nearest (Park et al. 2023).
- ``local_intrinsic_dimensionality``: how fast their number grows with the distance (Ma et al.
  2018, Eq. 4).  Of the penultimate features and against all of the training part; the paper takes
  batches of 100, all layers, and a classifier that is trained on attacks.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from robusteval.detection.last_layer import head_of
from robusteval.detection.prepared import prepared
from robusteval.detection.reading import Outputs
from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

NEIGHBOUR = 50  # the paper's for CIFAR-10
_TINY = 1e-12  # below any distance between float32 features


def fit(model: Adapter, features: Tensor, labels: Tensor, k: float = NEIGHBOUR) -> State:
    """The features (N, D) as the model gives them.

    Raises ValueError for fewer than ``k`` of them.
    """
    _require(len(features), k)
    return {"features": features}


def _require(count: int, k: float) -> None:
    if count < k:
        raise ValueError(f"{count} training samples: it needs {k:g} or more")


def _neighbours(state: State) -> int:
    return int(state["k"]) if "k" in state else NEIGHBOUR  # older states don't say


def _directions(features: Tensor) -> Tensor:
    return normalize(features.double(), dim=1)


def score(state: State, model: Adapter, features: Tensor) -> Tensor:
    """Minus the distance to the k-th neighbour: ‖a − b‖² = 2 − 2 a·b for vectors of length 1."""
    known = prepared(_directions, state["features"])
    cosines = _directions(features) @ known.T  # (B, N)
    kth = cosines.topk(_neighbours(state), dim=1).values[:, -1]
    return -_root(2 - 2 * kth)


def _root(squared: Tensor) -> Tensor:
    """The square root, and 0 with a gradient of 0 where nothing is left."""
    left = squared > 0
    return torch.where(left, torch.where(left, squared, 1.0).sqrt(), 0.0)


def fit_guide(model: Adapter, read: Outputs, labels: Tensor, k: float) -> State:
    """Features (N, D) of length 1, times their energies.

    Raises ValueError for fewer than ``k`` of them.
    """
    _require(len(read.features), k)
    guides = _directions(read.features) * _energy(model, read.features)[:, None]
    return {"guides": guides.float()}


def _energy(model: Adapter, features: Tensor) -> Tensor:
    """(B,) Of the linear layer alone: that of distances is below 0, and two such would make up for
    each other."""
    return head_of(model).linear(features).logsumexp(1)


def score_guided(state: State, model: Adapter, read: Outputs) -> Tensor:
    """The energy, times the mean of the k largest products with the guides."""
    products = _directions(read.features) @ prepared(_double, state["guides"]).T
    nearest = products.topk(_neighbours(state), dim=1).values.mean(1)
    return nearest * _energy(model, read.features)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double()


def _squared_lengths(features: Tensor) -> Tensor:
    return features.double().square().sum(1)


def score_dimensionality(state: State, model: Adapter, features: Tensor) -> Tensor:
    """One over the dimensionality: −mean log(r_i / r_k) over the k nearest, which is finite where
    all are equally far."""
    features, known = features.double(), prepared(_double, state["features"])
    # Which are near is told by products, which cost little; how near, by differences.
    lengths = prepared(_squared_lengths, state["features"])
    places = (lengths - 2 * features.detach() @ known.T).topk(
        _neighbours(state), dim=1, largest=False
    )
    apart = _root((features[:, None] - known[places.indices]).square().sum(2)).clamp(min=_TINY)
    return (apart.amax(1, keepdim=True).log() - apart.log()).mean(1)


_of_features = partial(
    Detector,
    package=OURS,
    reads="features",
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,
    own_passes=0,
    version=1,
)
DETECTORS = (
    _of_features(
        name="knn",
        title="k-th nearest neighbour",
        source="Sun et al. 2022, arXiv 2204.06507",
        settings=tuple({"k": k} for k in (NEIGHBOUR, 10, 20, 100, 200)),
        fit_read=fit,
        score_read=score,
    ),
    _of_features(
        name="local_intrinsic_dimensionality",
        title="Local intrinsic dimensionality",
        source="Ma et al. 2018, arXiv 1801.02613",
        settings=tuple({"k": k} for k in (20, 10, 50, 100)),
        fit_read=fit,
        score_read=score_dimensionality,
    ),
    Detector(
        name="nnguide",
        title="Nearest-neighbour guidance",
        source="Park et al. 2023, arXiv 2309.14888",
        package=OURS,
        reads="both",
        needs_prototypes=False,
        needs_linear_head=True,
        gradient=True,
        own_passes=0,
        settings=tuple({"k": k} for k in (10, 1, 50, 100)),
        fit_read=fit_guide,
        score_read=score_guided,
        version=1,
    ),
)
