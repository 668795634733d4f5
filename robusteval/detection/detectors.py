"""Detector scores: higher means more in-distribution, for every detector here."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from robusteval.catalogue import Catalogue
from robusteval.models.adapter import Adapter
from robusteval.vision import torchvision


class Detector(Protocol):
    """Images (B, C, H, W) in [0, 1] to scores (B,), higher = more in-distribution."""

    def __call__(self, model: Adapter, images: Tensor) -> Tensor: ...


DETECTORS: Catalogue[Detector] = Catalogue("detector")


def _of_logits(name: str) -> Detector:
    """A detector of pytorch-ood that reads logits; its scores rise for outliers, ours fall.

    In float64: in float32 the largest probability is 1 from a gap of 17 on, and many scores tie.
    """

    def score(model: Adapter, images: Tensor) -> Tensor:
        torchvision()  # pytorch-ood imports it
        from pytorch_ood import detector

        outlier_score: Callable[[Tensor], Tensor] = getattr(detector, name).score
        return -outlier_score(model(images).double())

    return score


def _nearest_prototype(model: Adapter, images: Tensor) -> Tensor:
    """Minus the distance to the nearest prototype of any class."""
    return -model.distances(images).flatten(1).amin(1)


DETECTORS.add("max_softmax", _of_logits("MaxSoftmax"))
DETECTORS.add("max_logit", _of_logits("MaxLogit"))
DETECTORS.add("energy", _of_logits("EnergyBased"))
DETECTORS.add("nearest_prototype", _nearest_prototype)

NEEDS_PROTOTYPES = ("nearest_prototype",)


def detectors_for(names: Sequence[str], has_prototypes: bool) -> tuple[str, ...]:
    """Those of the detectors that a model can have."""
    return tuple(n for n in names if has_prototypes or n not in NEEDS_PROTOTYPES)


@torch.no_grad()
def scores(name: str, model: Adapter, images: Tensor, batch_size: int = 250) -> Tensor:
    """A detector's scores (N,) in float64 on the CPU, batch by batch."""
    detector = DETECTORS.get(name)
    parts = [detector(model, batch).double().cpu() for batch in images.split(batch_size)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
