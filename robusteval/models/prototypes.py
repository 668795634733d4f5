"""Prototypes: distances, similarities, and pooling several prototypes to a class.

Pure functions of features (B, D) and prototypes (K, M, D): K classes, M prototypes each.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.models.head import Pooling, Similarity

_ORDERS = {"l2": 2.0, "sql2": 2.0, "l1": 1.0, "linf": math.inf}


def prototype_distances(features: Tensor, prototypes: Tensor, similarity: Similarity) -> Tensor:
    """Distances (B, K, M) from features (B, D) to prototypes (K, M, D).

    ``l2``, ``sql2`` (squared), ``l1`` and ``linf`` are what they say, computed from differences:
    the expanded form of the square loses digits to cancellation.  ``dot`` is −⟨f, w⟩ and
    ``cosine`` is 1 − cos(f, w), so that smaller is always closer.
    """
    classes, per_class, _ = prototypes.shape
    flat = prototypes.flatten(0, 1).to(features.dtype)
    if similarity == "dot":
        distances = -(features @ flat.T)
    elif similarity == "cosine":
        distances = 1 - F.normalize(features, dim=1) @ F.normalize(flat, dim=1).T
    else:
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(features, flat, p=_ORDERS[similarity], compute_mode=mode)
        if similarity == "sql2":
            distances = distances.square()
    return distances.view(-1, classes, per_class)


def pool_to_classes(similarities: Tensor, pooling: Pooling, temperature: float = 1.0) -> Tensor:
    """Similarities (B, K, M), higher is closer, to class scores (B, K).

    ``max``: the nearest prototype speaks for its class.  ``mean``: their average.
    ``logsumexp``: t·log Σ exp(s/t).  ``softmax``: Σ softmax(s/t)·s, as SoftTriple has it
    (Qian et al. 2019, eq. 7, with t = γ).
    """
    if pooling == "max":
        return similarities.amax(2)
    if pooling == "mean":
        return similarities.mean(2)
    scaled = similarities / temperature
    if pooling == "logsumexp":
        return temperature * scaled.logsumexp(2)
    return (scaled.softmax(2) * similarities).sum(2)
