"""Detectors that change penultimate features, or the weights that read them, and take the energy of
the logits that follow.

The papers' features are behind a ReLU.  Where a model's are not, ASH, SCALE and LTS sum up only
what is above 0, as LTS has it: else their factors have no bound.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robusteval.detection.last_layer import head_of, of_features
from robusteval.detection.record import Score, State
from robusteval.models.adapter import Adapter

Shape = Callable[[State, Tensor], Tensor]
_TINY = 1e-12


def fit_mask(model: Adapter, features: Tensor, labels: Tensor, sparsity: float) -> State:
    """The weights (K, D) that contribute most to logits on average; the others are 0.

    ``sparsity``: the share that is left out.
    """
    weight = head_of(model).weight
    contributions = features.double().mean(0) * weight
    kept = contributions > contributions.flatten().quantile(sparsity)
    return {"weight": torch.where(kept, weight, 0.0)}


def score_masked(state: State, model: Adapter, features: Tensor) -> Tensor:
    """DICE: the energy by these weights."""
    masked = head_of(model)._replace(weight=state["weight"])
    return masked.logits(features).logsumexp(1)


def fit_highest(model: Adapter, features: Tensor, labels: Tensor, high: float) -> State:
    """The activation that a share of ``high`` of all is below."""
    return {"highest": features.double().flatten().quantile(high)}


def clipped(state: State, features: Tensor) -> Tensor:
    """ReAct: no activation above that."""
    return features.minimum(state["highest"])


def fit_both(model: Adapter, features: Tensor, labels: Tensor, low: float, high: float) -> State:
    """Two activations, which these shares of all are below."""
    lowest = {"lowest": features.double().flatten().quantile(low)}
    return {**fit_highest(model, features, labels, high), **lowest}


def rectified(state: State, features: Tensor) -> Tensor:
    """VRA: none above the higher, and 0 in the place of those below the lower.

    pytorch-ood lifts those to the lower one instead, and has two of them for each feature.
    """
    return torch.where(features < state["lowest"], 0.0, clipped(state, features))


def fit_nothing(model: Adapter, features: Tensor, labels: Tensor, **setting: float) -> State:
    """What was chosen is all."""
    return {}


def _largest(features: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D) The features without all but the largest, ``share`` of which are left out; and the sum
    of all over the sum of these (B, 1)."""
    dim = features.shape[1]
    left = max(1, dim - round(float(share) * dim))
    values, places = features.topk(left, dim=1)
    positive = features.clamp(min=0).sum(1, keepdim=True)
    ratio = positive / values.clamp(min=0).sum(1, keepdim=True).clamp(min=_TINY)
    return torch.zeros_like(features).scatter(1, places, values), ratio


def pruned(state: State, features: Tensor) -> Tensor:
    """ASH-S: only the largest, made larger by as much as was pruned."""
    largest, ratio = _largest(features, state["share"])
    return largest * ratio.exp()


def scaled(state: State, features: Tensor) -> Tensor:
    """SCALE: all, made larger by as much as ASH-S would prune."""
    _, ratio = _largest(features, state["share"])
    return features * ratio.exp()


def _energy_of(shape: Shape) -> Score:
    def score(state: State, model: Adapter, features: Tensor) -> Tensor:
        return head_of(model).logits(shape(state, features.double())).logsumexp(1)

    return score


def score_scaled_logits(state: State, model: Adapter, features: Tensor) -> Tensor:
    """LTS: the energy of the logits, times that ratio squared."""
    _, ratio = _largest(features.double(), state["share"])
    return (head_of(model).logits(features) * ratio.square()).logsumexp(1)


DETECTORS = (
    of_features(
        name="dice",
        title="DICE",
        source="Sun and Li 2022, arXiv 2111.09805",
        settings=tuple({"sparsity": p} for p in (0.9, 0.1, 0.3, 0.5, 0.7)),
        fit_read=fit_mask,
        score_read=score_masked,
    ),
    of_features(
        name="react",
        title="ReAct",
        source="Sun et al. 2021, arXiv 2111.12797",
        settings=tuple({"high": share} for share in (0.9, 0.85, 0.95, 0.99)),
        fit_read=fit_highest,
        score_read=_energy_of(clipped),
    ),
    of_features(
        name="vra",
        title="Variational rectified activation",
        source="Xu et al. 2023, arXiv 2302.11716",
        settings=(
            *({"low": low, "high": 0.95} for low in (0.6, 0.5, 0.3, 0.1)),
            {"low": 0.1, "high": 0.99},
        ),
        fit_read=fit_both,
        score_read=_energy_of(rectified),
    ),
    of_features(
        name="ash",
        title="ASH-S",
        source="Djurisic et al. 2023, arXiv 2209.09858",
        settings=tuple({"share": share} for share in (0.9, 0.65, 0.8, 0.95)),
        fit_read=fit_nothing,
        score_read=_energy_of(pruned),
    ),
    of_features(
        name="scale",
        title="SCALE",
        source="Xu et al. 2024, arXiv 2310.00227",
        settings=tuple({"share": share} for share in (0.85, 0.65, 0.75, 0.95)),
        fit_read=fit_nothing,
        score_read=_energy_of(scaled),
    ),
    of_features(
        name="lts",
        title="Logit scaling",
        source="Djurisic et al. 2024, arXiv 2409.01175",
        settings=tuple({"share": share} for share in (0.95, 0.65, 0.8, 0.9)),
        fit_read=fit_nothing,
        score_read=score_scaled_logits,
    ),
)
