"""Generalised convolutional prototype learning: Yang et al., "Robust Classification with
Convolutional Prototype Learning" (2018), which SCPL compares itself to as DCE.

L = DCE + λ PL: the distance-based cross-entropy over all prototypes (SCPL, eq. 4, with γ) and the
prototype loss ‖f − m_y‖².  A sample is classified by its closest prototype.  λ = 0 is DCE alone.

``options``: ``gamma`` (0.1), ``encoding_weight`` is λ (0.001).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from robusteval.models.network import PrototypeNetwork
from robusteval.models.prototypes import prototype_distances
from robusteval.training.prototype_losses import (
    closest_own,
    distance_cross_entropy,
    prototype_encoding_cost,
)
from robusteval.training.recipe import RECIPES, Option, Recipe


class GCPL(Recipe):
    """The model's prototypes, trained as its weights are."""

    defaults: ClassVar[dict[str, Option]] = {"gamma": 0.1, "encoding_weight": 1e-3}

    positive: ClassVar[tuple[str, ...]] = ("gamma",)

    def prepare(self, network: PrototypeNetwork) -> None:
        self.require_one_layer(network, "nearest_prototype")

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        return self.trained_prototypes(network)

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        features, prototypes = self.features_and_prototypes(network, layers)
        squared = prototype_distances(features, prototypes, "sql2")
        squared = squared.masked_fill(~network.own_places(prototypes), torch.inf)
        loss = distance_cross_entropy(squared, labels, self.number("gamma"))
        encoding = prototype_encoding_cost(features, closest_own(squared, labels, prototypes))
        loss = loss + self.number("encoding_weight") * encoding
        return loss, network.logits(layers)


RECIPES.add("gcpl", GCPL)
