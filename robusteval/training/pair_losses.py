"""Losses over the pairs and triplets of a batch: by ``pytorch-metric-learning``, or as PCL prints
them (eqs. 14 and 15)."""

from collections.abc import Callable

import torch
from torch import Tensor

OVER_PAIRS = ("contrastive", "triplet", "n_pair")
PairLoss = Callable[..., Tensor]


def pair_loss(name: str, margin: float, form: str = "library") -> PairLoss:
    """A loss of features (B, D) and labels (B,), and of reference ones if these are given.

    ``margin``: triplet's; contrastive has five times as much between negatives.  ``form``:
    "library" is on unit vectors, "paper" on squared distances of the features as they are.
    """
    if name == "contrastive":
        return _contrastive(5 * margin, form)
    if name == "triplet":
        return _triplet(margin, form)
    from pytorch_metric_learning import distances, losses

    lengths_count = distances.DotProductSimilarity(normalize_embeddings=False)
    return losses.NPairsLoss(distance=lengths_count)  # type: ignore[no-any-return]


def contrastive(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """PCL, eq. 14 (Hadsell et al. 2006), averaged over all pairs of the batch.

    ½ ‖f₀ − f₁‖² of a class, ½ max(0, m − ‖f₀ − f₁‖)² of two.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
    squared = (features[first] - features[second]).square().sum(1)
    distances = (squared + 1e-12).sqrt()  # no infinite slope at zero
    apart = (margin - distances).clamp_min(0).square()
    return 0.5 * torch.where(labels[first] == labels[second], squared, apart).mean()


def _contrastive(margin: float, form: str) -> PairLoss:
    if form == "paper":
        return lambda features, labels: contrastive(features, labels, margin)
    from pytorch_metric_learning import losses

    return losses.ContrastiveLoss(pos_margin=0.0, neg_margin=margin)  # type: ignore[no-any-return]


def _triplet(margin: float, form: str) -> PairLoss:
    """Of each sample the hardest triplet, on cosines or, as in eq. 15, on squared distances."""
    from pytorch_metric_learning import distances, losses, miners

    measure = (
        distances.LpDistance(normalize_embeddings=False, p=2, power=2)
        if form == "paper"
        else distances.CosineSimilarity()
    )
    loss = losses.TripletMarginLoss(margin=margin, distance=measure)
    miner = miners.BatchHardMiner(distance=measure)

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
