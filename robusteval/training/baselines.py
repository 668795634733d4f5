"""What the papers compare with: cross-entropy, alone or with a metric loss on features beside it.

L = L_CE + λ₁ Σ_l L_metric(f_l) + λ₂ Σ_l ‖f_l‖₂ over the layers of ``head.layers``: one layer, or
several for deep supervision (PCL, Table 3).  ``metric``:

- "centre": Wen et al. 2016; the centres are the model's prototypes.
- "contrastive", "triplet", "n_pair": over the pairs of a batch, by ``pytorch-metric-learning``.
  With λ₂ they are SCPL's auxiliary triplet (ATL, eq. 5) and N-pair losses (ANL, eq. 6), the
  latter as Sohn 2016 has it: one pair and one negative of each other class, on dot products.
- "proxy_nca", "proxy_anchor": the proxies are the model's prototypes.

Adversarially trained with ``with_clean``, "triplet" is TLA (Mao et al. 2019): each anchor is an
adversarial image, its positives and negatives are clean ones, and the hardest negative counts.

Where a loss has no centres of its own, the prototypes are the class means of the features, taken
after each epoch, so that prototype-aware attacks and detectors have something true to go by.
``options``: ``metric``, ``weight`` is λ₁ (0.1), ``norm_weight`` λ₂ (0), ``margin`` (0.2).
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.prototype_losses import centre, proxy_anchor, proxy_nca
from robusteval.training.recipe import RECIPES, Option, Recipe, class_means


class CrossEntropy(Recipe):
    """The softmax baseline: PCL's eq. 1, averaged over the batch."""

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        return F.cross_entropy(logits, labels), logits


# Of features (B, D), labels (B,) and centres (K, D).
WITH_CENTRES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "centre": centre,
    "proxy_nca": proxy_nca,
    "proxy_anchor": proxy_anchor,
}
OVER_PAIRS = ("contrastive", "triplet", "n_pair")


class Auxiliary(Recipe):
    """Cross-entropy and a metric loss beside it."""

    defaults: ClassVar[dict[str, Option]] = {
        "metric": "triplet",
        "weight": 0.1,
        "norm_weight": 0.0,
        "margin": 0.2,
    }

    def prepare(self, network: PrototypeNetwork) -> None:
        if network.head.reading != "softmax" or not network.head.layers:
            raise TrainingError('this recipe needs head.reading = "softmax" and head.layers')
        metric = self.options["metric"]
        if metric not in (*WITH_CENTRES, *OVER_PAIRS):
            known = ", ".join((*WITH_CENTRES, *OVER_PAIRS))
            raise TrainingError(f"[training.options] metric {metric!r} is unknown: choose {known}")
        if metric in OVER_PAIRS:
            self.pair_loss = _pair_loss(str(metric), self.number("margin"))

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        trained = self.options["metric"] in WITH_CENTRES
        return self.trained_prototypes(network) if trained else []

    def end_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        if self.options["metric"] in OVER_PAIRS:
            for name, means in class_means(network, data).items():
                network.prototypes[name].data.copy_(means[:, None])

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        loss = F.cross_entropy(logits, labels)
        for name, features in network.supervised_features(layers).items():
            metric = self._metric(features, labels, network.prototypes[name][:, 0])
            loss = loss + self.number("weight") * metric
            if self.number("norm_weight"):
                loss = loss + self.number("norm_weight") * features.norm(dim=1).mean()
        return loss, logits

    def _metric(self, features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        name = str(self.options["metric"])
        if name in WITH_CENTRES:
            return WITH_CENTRES[name](features, labels, centres)
        adversarial = self.settings.adversarial
        half = len(labels) // 2
        paired = adversarial is not None and adversarial.with_clean
        if paired and len(labels) % 2 == 0 and torch.equal(labels[:half], labels[half:]):
            # Clean images first, then their adversarials: the latter are the anchors (TLA).
            found: Tensor = self.pair_loss(
                features[half:], labels[half:], ref_emb=features[:half], ref_labels=labels[:half]
            )
        else:
            found = self.pair_loss(features, labels)
        return found


def _pair_loss(name: str, margin: float) -> Callable[..., Tensor]:
    """The reference implementation of a loss over pairs or triplets, mined in the batch."""
    from pytorch_metric_learning import distances, losses, miners

    if name == "contrastive":
        return losses.ContrastiveLoss(pos_margin=0.0, neg_margin=max(margin, 0.2) * 5)  # type: ignore[no-any-return]
    if name == "n_pair":
        return losses.NPairsLoss()  # type: ignore[no-any-return]
    loss = losses.TripletMarginLoss(margin=margin, distance=distances.CosineSimilarity())
    miner = miners.BatchHardMiner(distance=distances.CosineSimilarity())

    def mined(
        features: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        triplets = miner(features, labels, ref_emb, ref_labels)
        found: Tensor = loss(features, labels, triplets, ref_emb, ref_labels)
        return found

    return mined


RECIPES.add("ce", CrossEntropy)
RECIPES.add("auxiliary", Auxiliary)
