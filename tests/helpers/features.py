"""Random features with a linear layer, as much of a model as detectors on features ask for."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from robusteval.detection.reading import Outputs, Read
from robusteval.detection.registry import find
from robusteval.models.linear import LinearHead

CLASSES, DIM = 4, 12


class Featured:
    """Its features are given, not computed."""

    classes = CLASSES
    layers = ("features",)
    compares_directions = False

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(CLASSES, DIM, generator=generator)
        self.bias = torch.randn(CLASSES, generator=generator)

    def linear_head(self) -> LinearHead:
        return LinearHead(self.weight, self.bias)

    def logits(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias


class Sides(NamedTuple):
    """Training features (N, D) with their labels (N,), and others (B, D)."""

    model: Any
    train: Tensor
    labels: Tensor
    others: Tensor

    def read(self, features: Tensor, reads: str) -> Read:
        logits = self.model.logits(features)
        return {
            "features": features,
            "logits": logits,
            "both": Outputs(features, logits),
            "distances": torch.cdist(features, self.model.weight).square()[:, :, None],
        }[reads]

    def scores(self, name: str, others: Tensor | None = None, **setting: float) -> Tensor:
        """(B,) Of ``others`` by a detector that is fitted to the training features."""
        record = find(name)
        state = {}
        if record.fit_read is not None:
            read = self.read(self.train, record.reads)
            state = record.fit_to(self.model, read, self.labels, setting or None)
        asked = self.others if others is None else others
        return record.score_of(state, self.model, self.read(asked, record.reads))


def sides(positive: bool = False, seed: int = 0) -> Sides:
    """Two hundred training features around the rows of the layer's weights, as it classifies them;
    ``positive``: as behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    model = Featured(seed)
    labels = torch.arange(200) % CLASSES
    train = model.weight[labels] + torch.randn(200, DIM, generator=generator)
    others = 2 * torch.randn(60, DIM, generator=generator)
    if positive:
        train, others = train.relu(), others.relu()
    return Sides(model, train, labels, others)
