"""What the papers compare with: cross-entropy, alone or with a metric loss on features beside it.

L = L_CE + λ₁ Σ_l L_metric(f_l) + λ₂ Σ_l ‖f_l‖₂ over the layers of ``head.layers``: one layer, or
several for deep supervision (PCL, Tables 9 and 10).  ``metric``:

- "centre": Wen et al. 2016; the centres are the model's prototypes, and move by steps of their own.
- "contrastive", "triplet", "n_pair": over the pairs of a batch, by ``pytorch-metric-learning``.
  With λ₂ they are SCPL's auxiliary triplet (ATL, eq. 5) and N-pair losses (ANL, eq. 6), the
  latter as Sohn 2016 has it: one pair and one negative of each other class, on dot products.
  The equations' L_norm sums over the samples of a triplet; here it is a mean over the batch.
- "proxy_nca", "proxy_anchor": the proxies are the model's prototypes.  Their losses see only
  directions, so proxies are held at unit length and learn at a rate of their own.

With ``anchors`` = "adversarial", "triplet" is TLA (Mao et al. 2019): each anchor is an adversarial
image, its positive and its negative are the hardest of the clean ones.  Cross-entropy is on both
halves of the batch.

Cross-entropy on a softmax classifier is part of all of them.  PCL's Table 10 trains contrastive and
triplet losses without either; here models differ in the metric loss alone.

Where a loss has no centres of its own, the prototypes are the class means of the features, taken
after each epoch, so that prototype-aware attacks and detectors have something true to go by.
``options``: ``metric``, ``weight`` is λ₁ (0.1), ``norm_weight`` λ₂ (0); ``margin`` (0.2), which is
triplet's on cosines, and a fifth of contrastive's between negatives; ``prototype_lr`` (1) of
proxies, and of centres, where it is α (0.5 in Wen et al.); ``anchors``, "batch" or "adversarial".
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.prototype_losses import centre, centre_steps, proxy_anchor, proxy_nca
from robusteval.training.recipe import RECIPES, Option, Recipe, class_means


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
OVER_PAIRS = ("contrastive", "triplet", "n_pair")


class Auxiliary(Recipe):
    """Cross-entropy and a metric loss beside it."""

    defaults: ClassVar[dict[str, Option]] = {
        "metric": "triplet",
        "weight": 0.1,
        "norm_weight": 0.0,
        "margin": 0.2,
        "prototype_lr": 1.0,
        "anchors": "batch",
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "metric": ("centre", *OF_DIRECTIONS, *OVER_PAIRS),
        "anchors": ("batch", "adversarial"),
    }
    positive: ClassVar[tuple[str, ...]] = ("prototype_lr",)

    def prepare(self, network: PrototypeNetwork) -> None:
        if network.head.reading != "softmax" or not network.head.layers:
            raise TrainingError('this recipe needs head.reading = "softmax" and head.layers')
        metric = self.options["metric"]
        if metric in OVER_PAIRS:
            self.pair_loss = _pair_loss(str(metric), self.number("margin"))
        elif network.head.prototypes_per_class != 1:
            raise TrainingError(f"{metric} has one prototype per class")
        self._check_anchors()
        self.after_step(network)

    @property
    def is_stored(self) -> bool:
        return self.options["metric"] not in OVER_PAIRS  # such a loss is the whole batch's

    def _check_anchors(self) -> None:
        anchors, adversarial = self.options["anchors"], self.settings.adversarial
        paired = adversarial is not None and adversarial.with_clean and adversarial.attack != "free"
        if anchors == "adversarial" and not (paired and self.options["metric"] == "triplet"):
            raise TrainingError(
                'anchors = "adversarial" (TLA) needs metric = "triplet" and adversarial training '
                "with_clean, by another attack than free"
            )

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        metric = self.options["metric"]
        if metric in OF_DIRECTIONS:
            return self.trained_prototypes(network, self.number("prototype_lr"))
        if metric == "centre":
            centres = list(network.prototypes.values())
            return [{"params": centres, "lr": self.number("prototype_lr")}]
        return []

    def after_step(self, network: PrototypeNetwork) -> None:
        if self.options["metric"] in OF_DIRECTIONS:
            self.to_unit_length(network)

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
            centres = network.prototypes[name][:, 0]
            loss = loss + self.number("weight") * self._metric(features, labels, centres)
            if self.options["metric"] == "centre":
                loss = loss + centre_steps(features, labels, centres)
            if self.number("norm_weight"):
                loss = loss + self.number("norm_weight") * features.norm(dim=1).mean()
        return loss, logits

    def _metric(self, features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        name = str(self.options["metric"])
        if name == "centre":
            return centre(features, labels, centres.detach())
        if name in OF_DIRECTIONS:
            return OF_DIRECTIONS[name](features, labels, centres)
        half = len(labels) // 2
        mixed = len(labels) % 2 == 0 and torch.equal(labels[:half], labels[half:])
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


def _pair_loss(name: str, margin: float) -> Callable[..., Tensor]:
    """The reference implementation of a loss over pairs or triplets, mined in the batch."""
    from pytorch_metric_learning import distances, losses, miners

    if name == "contrastive":
        return losses.ContrastiveLoss(pos_margin=0.0, neg_margin=5 * margin)  # type: ignore[no-any-return]
    if name == "n_pair":
        lengths_count = distances.DotProductSimilarity(normalize_embeddings=False)
        return losses.NPairsLoss(distance=lengths_count)  # type: ignore[no-any-return]
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
