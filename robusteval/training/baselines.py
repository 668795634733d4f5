"""What the papers compare with: cross-entropy, alone or with a metric loss on features beside it.

L = L_CE + λ₁ Σ_l L_metric(f_l) + λ₂ Σ_l ‖f_l‖₂ over the layers of ``head.layers``: one layer, or
several for deep supervision (PCL, Tables 9 and 10).  ``metric``:

- "centre": Wen et al. 2016; the centres are the model's prototypes, and move by steps of their own.
- "contrastive", "triplet", "n_pair": over the pairs of a batch, by ``pytorch-metric-learning``: the
  first on distances of unit vectors, averaged over the pairs that aren't zero, the second on
  cosines.  ``form`` = "paper" has PCL's eqs. 14 and 15 instead: squared, on the features as they
  are.  With λ₂ they are SCPL's auxiliary triplet (ATL, eq. 5) and N-pair losses (ANL, eq. 6), the
  latter as Sohn 2016 has it: one pair and one negative of each other class, on dot products.
  The equations' L_norm sums over the samples of a triplet; here it is a mean over the batch.
- "proxy_nca", "proxy_anchor": the proxies are the model's prototypes.  Their losses see only
  directions, so proxies are held at unit length and learn at a rate of their own.
- "softmax": a cross-entropy of its own at each of the layers, by a linear classifier that only
  training has (PCL's deep softmax supervision, Table 10).

With ``anchors`` = "adversarial", "triplet" is TLA (Mao et al. 2019): each anchor is an adversarial
image, its positive and its negative are the hardest of the clean ones.  Cross-entropy is on both
halves of the batch.

Cross-entropy on a softmax classifier is part of all of them, so that models differ in the metric
loss alone.  PCL's Table 10 trains contrastive and triplet losses without either, and doesn't say
how such a model is read: ``ce_weight`` = 0 goes with ``head.reading`` = "nearest_prototype", the
nearest class mean.

Where a loss has no centres of its own, the prototypes are the class means of the features, taken
after each epoch, so that prototype-aware attacks and detectors have something true to go by.
``options``: ``metric``, ``weight`` is λ₁ (0.1), ``norm_weight`` λ₂ (0); ``margin`` (0.2), which is
triplet's on cosines, and a fifth of contrastive's between negatives; ``prototype_lr`` (1) of
proxies, and of centres, where it is α (0.5 in Wen et al.); ``anchors``, "batch" or "adversarial";
``form``, "library" or "paper"; ``ce_weight`` (1).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.pair_losses import OVER_PAIRS, pair_loss
from robusteval.training.prototype_losses import centre, centre_steps, proxy_anchor, proxy_nca
from robusteval.training.recipe import RECIPES, Option, Recipe, class_means, is_paired


class CrossEntropy(Recipe):
    """The softmax baseline: PCL's eq. 1, averaged over the batch."""

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        return F.cross_entropy(logits, labels), logits


# Of features (B, D), labels (B,) and proxies (K, D).
OF_DIRECTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "proxy_nca": proxy_nca,
    "proxy_anchor": proxy_anchor,
}
SOFTMAX = "softmax"
WITHOUT_CENTRES = (*OVER_PAIRS, SOFTMAX)


class Auxiliary(Recipe):
    """Cross-entropy and a metric loss beside it."""

    defaults: ClassVar[dict[str, Option]] = {
        "metric": "triplet",
        "weight": 0.1,
        "norm_weight": 0.0,
        "margin": 0.2,
        "prototype_lr": 1.0,
        "anchors": "batch",
        "form": "library",
        "ce_weight": 1.0,
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "metric": ("centre", *OF_DIRECTIONS, *WITHOUT_CENTRES),
        "anchors": ("batch", "adversarial"),
        "form": ("library", "paper"),
    }
    positive: ClassVar[tuple[str, ...]] = ("prototype_lr",)

    def prepare(self, network: PrototypeNetwork) -> None:
        reading = "softmax" if self.number("ce_weight") else "nearest_prototype"
        if network.head.reading != reading or not network.head.layers:
            raise TrainingError(
                f'this recipe needs head.reading = "{reading}" and head.layers'
                + ("" if self.number("ce_weight") else ", with ce_weight = 0")
            )
        metric = self.options["metric"]
        if metric in OVER_PAIRS:
            form = str(self.options["form"])
            self.pair_loss = pair_loss(str(metric), self.number("margin"), form)
        elif metric == SOFTMAX:
            self.classifiers = _classifiers(network)
        elif network.head.prototypes_per_class != 1:
            raise TrainingError(f"{metric} has one prototype per class")
        self._check_form()
        self._check_anchors()
        self.after_step(network)

    @property
    def is_stored(self) -> bool:
        return self.options["metric"] not in WITHOUT_CENTRES  # of pairs, or by other classifiers

    def _check_anchors(self) -> None:
        anchors, adversarial = self.options["anchors"], self.settings.adversarial
        paired = adversarial is not None and adversarial.with_clean and adversarial.attack != "free"
        if anchors == "adversarial" and not (paired and self.options["metric"] == "triplet"):
            raise TrainingError(
                'anchors = "adversarial" (TLA) needs metric = "triplet" and adversarial training '
                "with_clean, by another attack than free"
            )

    def _check_form(self) -> None:
        metric, form = self.options["metric"], self.options["form"]
        if form == "paper" and metric not in ("contrastive", "triplet"):
            raise TrainingError(f'form = "paper" is of contrastive and triplet, not of {metric}')
        if not self.number("ce_weight") and metric not in OVER_PAIRS:
            raise TrainingError(f"ce_weight = 0 goes with a loss over pairs, not with {metric}")

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        metric = self.options["metric"]
        if metric in OF_DIRECTIONS:
            return self.trained_prototypes(network, self.number("prototype_lr"))
        if metric == "centre":
            centres = list(network.prototypes.values())
            return [{"params": centres, "lr": self.number("prototype_lr")}]
        return [self._as_weights(self.classifiers)] if metric == SOFTMAX else []

    def _as_weights(self, module: nn.Module) -> dict[str, Any]:
        """A group that trains a module as the network's weights are trained."""
        return {
            "params": list(module.parameters()),
            "lr": self.settings.lr,
            "warms_up": True,
            "momentum": self.settings.momentum,
            "nesterov": self.settings.momentum > 0,
            "weight_decay": self.settings.weight_decay,
        }

    def after_step(self, network: PrototypeNetwork) -> None:
        if self.options["metric"] in OF_DIRECTIONS:
            self.to_unit_length(network)

    def end_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        if self.options["metric"] in WITHOUT_CENTRES:
            for name, means in class_means(network, data).items():
                network.prototypes[name].data.copy_(means[:, None])

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        loss = self.number("ce_weight") * F.cross_entropy(logits, labels)
        for name, features in network.supervised_features(layers).items():
            centres = network.prototypes[name][:, 0]
            loss = loss + self.number("weight") * self._at(name, features, labels, centres)
            if self.options["metric"] == "centre":
                loss = loss + centre_steps(features, labels, centres)
            if self.number("norm_weight"):
                loss = loss + self.number("norm_weight") * features.norm(dim=1).mean()
        return loss, logits

    def _at(self, layer: str, features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        if self.options["metric"] == SOFTMAX:
            return F.cross_entropy(self.classifiers[layer](features), labels)
        return self._metric(features, labels, centres)

    def _metric(self, features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        name = str(self.options["metric"])
        if name == "centre":
            return centre(features, labels, centres.detach())
        if name in OF_DIRECTIONS:
            return OF_DIRECTIONS[name](features, labels, centres)
        half, mixed = len(labels) // 2, is_paired(labels)
        if self.options["anchors"] == "adversarial" and mixed:
            # Clean images first, then their adversarials; while those are crafted, and before
            # adversarial training begins, a batch holds one kind only.
            found: Tensor = self.pair_loss(
                features[half:], labels[half:], ref_emb=features[:half], ref_labels=labels[:half]
            )
        else:
            if mixed:  # N-pair takes a class's first sample for its anchor: of either kind
                order = torch.randperm(len(labels)).to(labels.device)
                features, labels = features[order], labels[order]
            found = self.pair_loss(features, labels)
        return found


def _classifiers(network: PrototypeNetwork) -> nn.ModuleDict:
    sizes = {name: prototypes.shape[2] for name, prototypes in network.prototypes.items()}
    return nn.ModuleDict({name: nn.Linear(size, network.classes) for name, size in sizes.items()})


RECIPES.add("ce", CrossEntropy)
RECIPES.add("auxiliary", Auxiliary)
