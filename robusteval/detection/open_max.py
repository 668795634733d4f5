"""OpenMax (Bendale and Boult 2016, arXiv 1511.06233): the probability of a class that isn't known.

Euclidean distances, between logits; the paper mixes them with cosines.  As in libMR, distances are
moved by 10,000 before a Weibull distribution is fitted to the largest of them.
"""

import torch
from torch import Tensor

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_MOVED = 10_000.0
_HALVINGS = 100


def fit(model: Adapter, logits: Tensor, labels: Tensor, tail: float, ranks: float) -> State:
    """Of each class the mean logits (K, K), the smallest distance of the tail (K,) and what was
    fitted to it, shape and scale (K,), of the training samples that are classified correctly.

    Raises ValueError where a class has none, or all are equally far from their mean.
    """
    values = logits.double()
    right = values.argmax(1) == labels
    found = [_of_class(values[right & (labels == k)], int(tail), k) for k in range(model.classes)]
    centres, *rest = (torch.stack(parts) for parts in zip(*found, strict=True))
    return {"centres": centres, **dict(zip(("least", "shape", "scale"), rest, strict=True))}


def _of_class(values: Tensor, tail: int, label: int) -> tuple[Tensor, ...]:
    if not len(values):
        raise ValueError(f"class {label} has no training sample that is classified correctly")
    centre = values.mean(0)
    apart = (values - centre).norm(dim=1)
    farthest = apart.topk(min(tail, len(apart))).values
    least = farthest.amin()
    if farthest.amax() - least < 1e-9 * (1 + least):
        raise ValueError(f"class {label}'s farthest training samples are equally far: no tail")
    return (centre, least, *weibull(farthest - least + _MOVED))


def weibull(values: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of the Weibull distribution under which values (N,), above 0 and not all
    equal, are likeliest.

    The shape c is the zero of Σ xᶜ log x / Σ xᶜ − 1 / c − mean log x, which rises with c.
    """
    logs = values.log()
    top = logs.amax()

    def slope(shape: Tensor) -> Tensor:
        return (shape * (logs - top)).softmax(0) @ logs - 1 / shape - logs.mean()

    low, high = logs.new_tensor(1e-6), logs.new_tensor(1.0)
    while slope(high) < 0:
        high = 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    scale = top + ((low * (logs - top)).exp().mean().log()) / low
    return low, scale.exp()


def score(state: State, model: Adapter, logits: Tensor) -> Tensor:
    """Minus the logarithm of that probability, which orders as the probability does."""
    values = logits.double()
    ranks = min(int(state["ranks"]), values.shape[1])
    apart = (values[:, None] - state["centres"]).square().sum(2).clamp(min=1e-24).sqrt()  # (B, K)
    moved = (apart - state["least"] + _MOVED).clamp(min=1e-12)
    far = -torch.expm1(-(state["shape"] * (moved / state["scale"]).log()).exp())
    top = values.topk(ranks, dim=1).indices
    steps = torch.arange(ranks, 0, -1, dtype=values.dtype, device=values.device) / ranks
    weights = torch.zeros_like(values).scatter(1, top, steps.expand(len(values), -1))
    kept = values * (1 - far * weights)
    unknown = (values - kept).sum(1)
    return torch.cat([unknown[:, None], kept], 1).logsumexp(1) - unknown


DETECTORS = (
    Detector(
        name="open_max",
        title="OpenMax",
        source="Bendale and Boult 2016, arXiv 1511.06233",
        package=OURS,
        reads="logits",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=0,
        settings=tuple({"tail": tail, "ranks": 10} for tail in (20, 10, 50)),
        fit_read=fit,
        score_read=score,
        version=1,
    ),
)
