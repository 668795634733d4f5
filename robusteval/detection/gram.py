"""Gram matrices of inner layers (Sastry and Oore 2020, arXiv 1912.12510): how far their row sums
leave the range that training samples of the predicted class have.

Row sums, as in the authors' code; the paper's text has the upper triangle.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_POWERS = range(1, 11)
_BATCH = 250  # images
_VALIDATED = 10  # one of so many training samples says how far a layer leaves its range as a rule
_OFFSET = 1e-6  # the authors', against ranges that end at 0
_TINY = 1e-30
_RANGE = "range."


def row_sums(maps: Tensor) -> Tensor:
    """(P, B, C) Of the Gram matrices of maps (B, C, H, W), or of vectors (B, C), at each power:
    their p-th roots.

    Without the matrices: Σ_j ⟨f_i, f_j⟩ = ⟨f_i, Σ_j f_j⟩.
    """
    flat = maps.double().flatten(2) if maps.dim() > 2 else maps.double()[:, :, None]
    found = []
    for power in _POWERS:
        raised = flat**power
        sums = (raised * raised.sum(1, keepdim=True)).sum(2)
        size = sums.abs()
        rooted = torch.where(size > _TINY, size, _TINY) ** (1 / power)
        found.append(torch.where(size > _TINY, sums.sign() * rooted, 0.0))
    return torch.stack(found)


def fit(model: Adapter, images: Tensor, labels: Tensor) -> State:
    """Of each layer the ranges (2, P, K, C) and its mean deviation.

    Raises ValueError for a model that doesn't show its inner layers, and where a class has no
    sample.
    """
    validated = _validated(labels, model.classes)
    ranges = _ranges(model, images[~validated], labels[~validated])
    if not ranges:
        raise ValueError("the model doesn't show its inner layers")
    for place in ranges.values():
        if (missing := ~torch.isfinite(place[0, 0]).all(1)).any():
            raise ValueError(f"class {int(missing.int().argmax())} has no training sample")
    state = {f"{_RANGE}{layer}": place for layer, place in ranges.items()}
    deviations = [
        torch.stack([_deviation(sums, ranges[layer][:, :, of]) for layer, sums in found.items()], 1)
        for found, of in _by_batches(model, images[validated], labels[validated])
    ]  # (B, L) each
    means = torch.cat(deviations).mean(0) if deviations else torch.ones(len(ranges))
    return {**state, "means": torch.where(means > 0, means, 1.0)}


def _validated(labels: Tensor, classes: int) -> Tensor:
    """(N,) Every tenth of each class."""
    places = torch.stack([(labels == k).cumsum(0) for k in range(classes)], 1)
    return places.gather(1, labels[:, None])[:, 0] % _VALIDATED == 0


def _by_batches(
    model: Adapter, images: Tensor, labels: Tensor
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    for part, of in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        if len(part):
            yield {name: row_sums(maps) for name, maps in model.activations(part).items()}, of


def _ranges(model: Adapter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of each layer the least and the greatest row sums of each class, (2, P, K, C)."""
    found: dict[str, Tensor] = {}
    for layers, of in _by_batches(model, images, labels):
        for name, sums in layers.items():
            if name not in found:
                ends = sums.new_tensor([torch.inf, -torch.inf]).view(2, 1, 1, 1)
                shape = 2, len(sums), model.classes, sums.shape[2]
                found[name] = ends.expand(shape).clone()
            for label in of.unique().tolist():
                low, high = found[name][:, :, label]  # (P, C) each
                low.copy_(torch.minimum(low, sums[:, of == label].amin(1)))
                high.copy_(torch.maximum(high, sums[:, of == label].amax(1)))
    return found


def _deviation(sums: Tensor, ranges: Tensor) -> Tensor:
    """(B,) How far row sums (P, B, C) are outside of ranges (2, P, B, C), over the ends."""
    low, high = ranges
    below = (low - sums).relu() / (low + _OFFSET).abs()
    above = (sums - high).relu() / (high + _OFFSET).abs()
    deviation: Tensor = (below + above).sum((0, 2))
    return deviation


def score(state: State, model: Adapter, images: Tensor) -> Tensor:
    """Minus the sum of all layers' deviations, each over its mean one on training data."""
    predicted = model(images).argmax(1)
    layers = model.activations(images)
    deviations = [
        _deviation(row_sums(maps), state[f"{_RANGE}{name}"][:, :, predicted])
        for name, maps in layers.items()
    ]
    return -(torch.stack(deviations, 1) / state["means"]).sum(1)


DETECTORS = (
    Detector(
        name="gram",
        title="Gram matrices",
        source="Sastry and Oore 2020, arXiv 1912.12510",
        package=OURS,
        reads="images",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=2,
        settings=(),
        fit_read=fit,
        score_read=score,
        version=1,
    ),
)
