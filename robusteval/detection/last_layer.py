"""Detectors that read penultimate features beside the linear layer that makes logits of them."""

from functools import partial

import torch
from torch import Tensor

from robusteval.detection.reading import Outputs
from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter
from robusteval.models.linear import LinearHead

_TINY = 1e-12


def head_of(model: Adapter) -> LinearHead:
    """In float64."""
    head = model.linear_head()
    assert head is not None, "it was asked for"
    return LinearHead(head.weight.double(), head.bias.double(), head.by_length)


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(1).clamp(min=_TINY**2).sqrt()


def fit_patterns(model: Adapter, read: Outputs, labels: Tensor) -> State:
    """Each class's mean (K, D) of the features that are classified correctly.

    Raises ValueError where a class has none.
    """
    right = read.logits.argmax(1) == labels
    means = []
    for k in range(model.classes):
        members = read.features[right & (labels == k)].double()
        if not len(members):
            raise ValueError(f"class {k} has no training sample that is classified correctly")
        means.append(members.mean(0))
    return {"patterns": torch.stack(means)}


def score_patterns(state: State, model: Adapter, read: Outputs) -> Tensor:
    """The product with the pattern of the predicted class."""
    predicted = read.logits.argmax(1)
    return (read.features.double() * state["patterns"][predicted]).sum(1)


def fit_mean(model: Adapter, features: Tensor, labels: Tensor, **setting: float) -> State:
    """The mean (D,) of all features."""
    return {"mean": features.double().mean(0)}


def score_boundaries(state: State, model: Adapter, features: Tensor) -> Tensor:
    """The mean distance to the other classes' boundaries, over the distance to the mean."""
    head, features = head_of(model), features.double()
    logits, weight = head.logits(features), head.weight
    largest, predicted = logits.max(1)
    between = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    apart = between[predicted]  # (B, K), 0 to itself
    distances = (largest[:, None] - logits) / torch.where(apart > 0, apart, torch.inf)
    regular = _length(features - state["mean"])
    return distances.sum(1) / (logits.shape[1] - 1) / regular


def score_collapse(state: State, model: Adapter, features: Tensor) -> Tensor:
    """How far the centred features go along the predicted class's weights, and α times their sum
    of absolute values."""
    head, features = head_of(model), features.double()
    predicted = head.logits(features).argmax(1)
    centred = features - state["mean"]
    along = (centred * head.weight[predicted]).sum(1) / _length(centred)
    return along + state["alpha"] * features.abs().sum(1)


def fit_subspace(model: Adapter, features: Tensor, labels: Tensor, share: float) -> State:
    """The directions (D, R) beside those of the most spread, and what a length there counts.

    ``share``: of the dimensions that make the principal space; of few the paper takes half.
    Raises ValueError where nothing spreads beside it.
    """
    head, features = head_of(model), features.double()
    origin = -torch.linalg.pinv(head.weight) @ head.bias
    centred = features - origin
    _, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    residual = directions[:, : features.shape[1] - max(1, int(share * features.shape[1]))]
    lengths = (centred @ residual).norm(dim=1).mean()
    if not lengths > 0:
        raise ValueError("no training sample leaves the principal space")
    largest = head.linear(features).amax(1).mean()
    return {"origin": origin, "residual": residual.contiguous(), "alpha": largest / lengths}


def score_virtual_logit(state: State, model: Adapter, features: Tensor) -> Tensor:
    """The energy, less the virtual logit."""
    features = features.double()
    beside = _length((features - state["origin"]) @ state["residual"])
    return head_of(model).logits(features).logsumexp(1) - state["alpha"] * beside


def score_gradient(state: State, model: Adapter, read: Outputs) -> Tensor:
    """Σ |∂L/∂W| of the last layer, L the cross-entropy with the uniform distribution.

    The gradient is (softmax − 1 / K) zᵀ, so its sum is a product of two.
    """
    p = read.logits.double().softmax(1)
    return (p - 1 / p.shape[1]).abs().sum(1) * read.features.double().abs().sum(1)


# A detector that reads features alone, and the layer behind them.
of_features = partial(
    Detector,
    package=OURS,
    reads="features",
    needs_prototypes=False,
    needs_linear_head=True,
    gradient=True,
    own_passes=0,
    version=1,
)
DETECTORS = (
    Detector(
        name="she",
        title="Simplified Hopfield energy",
        source="Zhang et al. 2023, ICLR",
        package=OURS,
        reads="both",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=0,
        settings=(),
        fit_read=fit_patterns,
        score_read=score_patterns,
        version=1,
    ),
    Detector(
        name="grad_norm",
        title="GradNorm",
        source="Huang et al. 2021, arXiv 2110.00218",
        package=OURS,
        reads="both",
        needs_prototypes=False,
        needs_linear_head=True,
        gradient=True,
        own_passes=0,
        settings=(),
        fit_read=None,
        score_read=score_gradient,
        version=1,
    ),
    of_features(
        name="fdbd",
        title="Fast distances to decision boundaries",
        source="Liu and Qin 2024, arXiv 2312.11536",
        settings=(),
        fit_read=fit_mean,
        score_read=score_boundaries,
    ),
    of_features(
        name="nci",
        title="Neural collapse",
        source="Liu and Qin 2025, arXiv 2311.01479",
        settings=tuple({"alpha": a} for a in (0.0, 0.001, 0.01, 0.05, 0.1)),
        fit_read=fit_mean,
        score_read=score_collapse,
    ),
    of_features(
        name="vim",
        title="Virtual-logit matching",
        source="Wang et al. 2022, arXiv 2203.10807",
        settings=tuple({"share": share} for share in (0.5, 0.25, 0.75)),
        fit_read=fit_subspace,
        score_read=score_virtual_logit,
    ),
)
