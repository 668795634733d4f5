"""What an attack maximises: per-sample losses (B,), among them margins, which tell by their sign
whether the model is fooled."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.errors import AttackError


def require_finite(logits: Tensor) -> None:
    """Raises AttackError for NaN or infinite logits: a margin or argmax would read a class from
    them."""
    if not torch.isfinite(logits).all():
        raise AttackError(
            "the model's logits on attacked images are NaN or infinite, which is not a prediction"
        )


def of_class(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit (B,) of one class each (B,), of logits (B, K)."""
    return logits.gather(1, classes[:, None])[:, 0]


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y (B,) for logits (B, K): above zero only where misclassified, and below it
    only where not; a tie is 0."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


def distance_margin(distances: Tensor, labels: Tensor) -> Tensor:
    """Nearest own prototype's distance less the nearest other one's (B,), for (B, K, M)."""
    return logit_margin(-distances.amin(2), labels)


def joint_loss(logits: Tensor, squared: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy plus prototype conformity at every supervised depth: PCL, eqs. 5, 8 and 9.

    ``squared``: for each depth the squared distances (B, K, M).  A sample is held to the nearest of
    its class's prototypes (PCL has one).  The centre–centre term of eq. 5 is constant in the
    images and is left out.
    """
    total = F.cross_entropy(logits, labels, reduction="none")
    own = F.one_hot(labels, logits.shape[1])
    for distances in squared.values():
        nearest = distances.amin(2)
        others = ((1 - own) * nearest).sum(1) / (logits.shape[1] - 1)
        total = total + (own * nearest).sum(1) - others
    return total
