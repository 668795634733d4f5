"""Multi-prototype adversarial training through metric learning (MPAT).

L = L_CE + λ₁ L_SoftTriple + λ₂ L_norm (eq. 5): cross-entropy on the classifier, SoftTriple (eq. 3)
with its regulariser τ (eq. 4) on K prototypes per class at the embedding, and weight decay, which
is the optimiser's here.  The paper names two, λ₂ of 0.001 (0.005 on MNIST) and an optimiser's of
5e-4 (Section 4.2); entries take the latter alone.  Both together, with L_norm = ‖θ‖², are a
``weight_decay`` of 2 λ₂ + 5e-4.  The network trains on whatever the loop crafts:
PGD, Free or Fast adversarial training.

A class starts with many prototypes, and the closest are merged by their L2 distance as unit
vectors, at the end of an epoch.  Merged prototypes are kept in their places with one value, their
mean after each step, so that their number never grows.  In eqs. 3 and 4 such a one counts as often
as it was merged, which keeps its share of the softmax.

Only directions enter eqs. 3 and 4, so prototypes are held at unit length, and they learn at a rate
of their own: at the network's they would stay where they began, and none would ever merge.

``options``: ``prototype_lr`` (1); ``triple_weight`` is λ₁ (0.5); ``scale`` λ (20), ``gamma`` γ
(0.1) and ``margin`` δ (0.01) of eq. 3; ``tau`` of eq. 4 (0.2); ``merge_distance`` (0.1), 0 for no
merging; ``merge_from``, the first epoch (counted from 0) after which prototypes merge (5).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset
from robusteval.models.network import PrototypeNetwork
from robusteval.training.prototype_losses import soft_triple, soft_triple_regulariser
from robusteval.training.recipe import RECIPES, Option, Recipe


def merge_prototypes(prototypes: Tensor, distance: float) -> Tensor:
    """Prototypes (K, M, D) with those of a class closer than ``distance`` put at their mean.

    Distances are between unit vectors, and chains merge: if a is close to b and b to c, all three
    become one.
    """
    merged = prototypes.clone()
    for own in merged:
        unit = F.normalize(own, dim=1)
        for group in _chains(torch.cdist(unit, unit) < distance):
            own[group] = own[group].mean(0)
    return merged


def averaging(prototypes: Tensor) -> Tensor:
    """Weights (K, M, M) by which each prototype becomes the mean of those that are equal to it."""
    same = (prototypes[:, :, None] == prototypes[:, None]).all(3).to(prototypes)
    return same / same.sum(2, keepdim=True)


def _chains(near: Tensor) -> list[list[int]]:
    """Groups of indices (M,) that are connected by a symmetric relation (M, M)."""
    left, groups = set(range(len(near))), []
    while left:
        group, grown = set(), {min(left)}
        while grown:
            group |= grown
            grown = {j for i in grown for j in torch.nonzero(near[i])[:, 0].tolist()} - group
        left -= group
        groups.append(sorted(group))
    return groups


class MPAT(Recipe):
    """A classifier beside prototypes, both on the embedding."""

    defaults: ClassVar[dict[str, Option]] = {
        "prototype_lr": 1.0,
        "triple_weight": 0.5,
        "scale": 20.0,
        "gamma": 0.1,
        "margin": 0.01,
        "tau": 0.2,
        "merge_distance": 0.1,
        "merge_from": 5,
    }

    positive: ClassVar[tuple[str, ...]] = ("scale", "gamma", "prototype_lr")

    def prepare(self, network: PrototypeNetwork) -> None:
        self.require_one_layer(network, "softmax")
        self.to_unit_length(network)

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        return self.trained_prototypes(network, self.number("prototype_lr"))

    def start_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        self.joined = {name: averaging(p.detach()) for name, p in network.prototypes.items()}

    @torch.no_grad()
    def after_step(self, network: PrototypeNetwork) -> None:
        for name, prototypes in network.prototypes.items():
            prototypes.copy_(self.joined[name] @ prototypes)
        self.to_unit_length(network)

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        features, prototypes = self.features_and_prototypes(network, layers)
        logits = network.logits(layers)
        triple = soft_triple(
            features,
            labels,
            prototypes,
            self.number("scale"),
            self.number("gamma"),
            self.number("margin"),
        )
        metric = triple + self.number("tau") * soft_triple_regulariser(prototypes)
        return F.cross_entropy(logits, labels) + self.number("triple_weight") * metric, logits

    @torch.no_grad()
    def end_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        if self.number("merge_distance") and epoch >= self.number("merge_from"):
            for prototypes in network.prototypes.values():
                prototypes.copy_(merge_prototypes(prototypes, self.number("merge_distance")))
            self.to_unit_length(network)


RECIPES.add("mpat", MPAT)
