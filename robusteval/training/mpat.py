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
as it was merged, which keeps its share of the softmax.  ``[trained] prototypes_left`` says how many
different ones a training left in each class.

Only directions enter eqs. 3 and 4, so prototypes are held at unit length, and they learn at a rate
of their own: at the network's they would stay where they began, and none would ever merge.

``options``: ``prototype_lr`` (1); ``triple_weight`` is λ₁ (0.5); ``gamma`` γ (0.1) of eq. 3 and
``tau`` of eq. 4 (0.2), the two that the paper gives; ``scale`` λ (20) and ``margin`` δ (0.01) of
eq. 3, from Qian et al. 2019; ``merge_distance`` (0.1), 0 for no merging; ``merge_from``, the first
epoch (counted from 0) after which prototypes merge (5); ``merge_least``, the number that merging
leaves in each class (1): one for all classes, or a list with one for each.  The paper gives none of
the three, and says of CIFAR10-2 that ten merge to three and four (Section 5).  Without such a least
number a small τ·λ₁ is enough to pull all prototypes of a class together.  τ stops where merging
does: from ``merge_from`` on it acts in a class only while more of it than its least number are out
of each other's reach, ``merge_distance``, or it would pull those together too, until they are
equal.  Where that distance is 2, everything is in reach, and τ acts until ``merge_from`` alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.prototype_losses import soft_triple, soft_triple_regulariser
from robusteval.training.recipe import RECIPES, Option, Recipe


def merge_prototypes(
    prototypes: Tensor,
    distance: float,
    least: Sequence[int] | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Prototypes (K, M, D) with those of a class closer than ``distance`` put at their mean.

    Distances are between unit vectors, and chains merge: if a is close to b and b to c, all three
    become one.  The closest merge first, and as many as ``least`` says stay in each class (1).
    ``places`` (K, M): those that a class has of its own; the others stay as they are.
    """
    merged = prototypes.clone()
    for k, own in enumerate(merged):
        here = torch.arange(len(own)) if places is None else torch.nonzero(places[k])[:, 0].cpu()
        unit = F.normalize(own[here], dim=1)
        for group in _groups(_apart(unit), distance, least[k] if least else 1):
            rows = here[group]
            own[rows] = own[rows].mean(0)
    return merged


def averaging(prototypes: Tensor, places: Tensor | None = None) -> Tensor:
    """Weights (K, M, M) by which each prototype becomes the mean of those that are equal to it,
    and stand in ``places`` (K, M) of their own."""
    same = (prototypes[:, :, None] == prototypes[:, None]).all(3).to(prototypes)
    if places is not None:
        same = same * places[:, None]
    return same / same.sum(2, keepdim=True)


def _apart(unit: Tensor) -> Tensor:
    """Distances (M, M) that are exactly zero between equal vectors."""
    return torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")


def _groups(distances: Tensor, distance: float, least: int) -> list[list[int]]:
    """Groups of indices by distances (M, M): those nearer than ``distance``, or joined by a chain
    of such, the nearest first, as long as more than ``least`` groups are left.

    Prototypes that are equal are one already.
    """
    groups = {i: [i] for i in range(len(distances))}
    first, second = torch.triu_indices(len(distances), len(distances), 1)
    between = distances[first, second].cpu()
    for pair in between.argsort(stable=True).tolist():
        if not between[pair] < distance:
            break
        one, other = groups[int(first[pair])], groups[int(second[pair])]
        left = len({id(group) for group in groups.values()})
        if one is other or (left <= least and between[pair] > 0):
            continue
        joined = sorted(one + other)
        groups |= dict.fromkeys(joined, joined)
    return list({id(group): group for group in groups.values()}.values())


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
        "merge_least": 1,
    }
    lists: ClassVar[tuple[str, ...]] = ("merge_least",)

    positive: ClassVar[tuple[str, ...]] = ("scale", "gamma", "prototype_lr")

    def prepare(self, network: PrototypeNetwork) -> None:
        self.require_one_layer(network, "softmax")
        self._least(network)  # so that a wrong number is refused early
        self.to_unit_length(network)

    def _least(self, network: PrototypeNetwork) -> list[int]:
        """The number of prototypes that merging leaves in each class.  Raises TrainingError."""
        told = self.options["merge_least"]
        least = told if isinstance(told, list) else [told] * network.classes
        pairs = list(zip(least, network.counts, strict=False))
        if len(least) != network.classes or any(n != int(n) or not 1 <= n <= m for n, m in pairs):
            raise TrainingError(
                f"[training.options] merge_least = {told!r}: it takes a whole number from 1 to "
                f"head.prototypes_per_class, or a list of one for each of {network.classes} classes"
            )
        return [int(n) for n in least]

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        return self.trained_prototypes(network, self.number("prototype_lr"))

    def start_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        self.joined = {
            name: averaging(p.detach(), network.own_places(p))
            for name, p in network.prototypes.items()
        }

    @torch.no_grad()
    def after_step(self, network: PrototypeNetwork) -> None:
        for name, prototypes in network.prototypes.items():
            prototypes.copy_(self.joined[name] @ prototypes)
        self.to_unit_length(network)

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        features, prototypes = self.features_and_prototypes(network, layers)
        places = network.own_places(prototypes) if len(set(network.counts)) > 1 else None
        logits = network.logits(layers)
        triple = soft_triple(
            features,
            labels,
            prototypes,
            self.number("scale"),
            self.number("gamma"),
            self.number("margin"),
            places,
        )
        spread = self._regulariser(network, prototypes, places, epoch)
        metric = triple + self.number("tau") * spread
        return F.cross_entropy(logits, labels) + self.number("triple_weight") * metric, logits

    def _regulariser(
        self,
        network: PrototypeNetwork,
        prototypes: Tensor,
        places: Tensor | None,
        epoch: int,
    ) -> Tensor:
        """Eq. 4 over the classes that have more prototypes than must stay; of all is its mean."""
        if not self._merges(epoch):
            return soft_triple_regulariser(prototypes, places)
        each = zip(prototypes.detach(), self._least(network), strict=True)
        acts = torch.tensor([self._are_more(own, least) for own, least in each])
        if not acts.any():
            return prototypes.new_zeros(())
        acts = acts.to(prototypes.device)
        own_places = None if places is None else places[acts]
        of_these = soft_triple_regulariser(prototypes[acts], own_places)
        return of_these * acts.float().mean()

    def _merges(self, epoch: int) -> bool:
        """Whether prototypes merge at the end of an epoch."""
        return bool(self.number("merge_distance")) and epoch >= self.number("merge_from")

    def _are_more(self, own: Tensor, least: int) -> bool:
        """Whether more of a class's prototypes (M, D) than must stay are out of merging's reach;
        nothing stops τ where one may be left."""
        return least == 1 or len(_groups(_apart(own), self.number("merge_distance"), 1)) > least

    @torch.no_grad()
    def end_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        if self._merges(epoch):
            for prototypes in network.prototypes.values():
                places = network.own_places(prototypes)
                distance, least = self.number("merge_distance"), self._least(network)
                prototypes.copy_(merge_prototypes(prototypes, distance, least, places))
            network.fill_places()
            self.to_unit_length(network)


RECIPES.add("mpat", MPAT)
