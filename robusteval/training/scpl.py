"""Supervised contrastive prototype learning: Fostiropoulos and Itti, "Supervised Contrastive
Prototype Learning: Augmentation Free Robust Neural Network" (2022).

A prototype classification head: C prototypes m_i^j per class on features of any dimension D,
trained with the network.  L = L_pl + λ L_norm (eq. 8), with the N-prototype loss L_pl (eq. 9) on
the similarity to the closest prototype of each class and the prototype norm L_norm (eq. 10).  A
sample is classified by its closest prototype (eq. 7, whose minus sign makes its ``sim`` a
distance).

The paper trains without augmentation, and so do the zoo's entries for its tables (``_plain``); the
others, on far shorter schedules, shift their images (and flip those of CIFAR-10).

The entry's ``head.similarity`` is the one of inference.  ``options``: ``similarity``, that of
training, "l2" (the paper's base), "sql2", "l1", "linf", "dot" or "cosine"; ``norm_weight`` is λ
(0.1); ``scale`` multiplies similarities (1).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor

from robusteval.models.head import Similarity
from robusteval.models.network import PrototypeNetwork
from robusteval.models.prototypes import prototype_distances
from robusteval.training.prototype_losses import closest_own, n_prototype, prototype_norm
from robusteval.training.recipe import RECIPES, Option, Recipe


class SCPL(Recipe):
    """The model's prototypes, trained as its weights are."""

    defaults: ClassVar[dict[str, Option]] = {"similarity": "l2", "norm_weight": 0.1, "scale": 1.0}

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"similarity": get_args(Similarity)}
    positive: ClassVar[tuple[str, ...]] = ("scale",)

    def prepare(self, network: PrototypeNetwork) -> None:
        self.require_one_layer(network, "nearest_prototype")

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        return self.trained_prototypes(network)

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        features, prototypes = self.features_and_prototypes(network, layers)
        chosen = cast(Similarity, self.options["similarity"])
        distances = prototype_distances(features, prototypes, chosen)
        distances = distances.masked_fill(~network.own_places(prototypes), torch.inf)
        loss = n_prototype(-self.number("scale") * distances.amin(2), labels)
        own = closest_own(distances, labels, prototypes)
        loss = loss + self.number("norm_weight") * prototype_norm(features, own)
        return loss, network.logits(layers)


RECIPES.add("scpl", SCPL)
