"""Losses as pure functions, named by their equations."""

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_distances(features: Tensor, centres: Tensor) -> Tensor:
    """‖f_i − w_j‖² (B, K) for features (B, D) and centres (K, D)."""
    return torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist").square()


def prototype_conformity(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """L_PC as PCL's eq. 5 prints it, averaged over the batch instead of summed.

    ‖f_i − w_y‖² − 1/(k−1) Σ_{j≠y} (‖f_i − w_j‖² + ‖w_y − w_j‖²), for features (B, D), labels (B,)
    and centres (K, D).  The squares of f cancel, so the loss is affine in the features and
    unbounded below: it needs a bound from elsewhere.  ``bounded_conformity`` is what the
    authors' code minimises instead.
    """
    classes = len(centres)
    own = F.one_hot(labels, classes).to(features.dtype)
    to_centres = squared_distances(features, centres)
    between = squared_distances(centres, centres)[labels]
    attraction = (own * to_centres).sum(1)
    repulsion = ((1 - own) * (to_centres + between)).sum(1) / (classes - 1)
    return (attraction - repulsion).mean()


def bounded_conformity(
    features: Tensor,
    labels: Tensor,
    attraction_centres: Tensor,
    repulsion_centres: Tensor,
    repulsion_weight: float = 1e-4,
) -> Tensor:
    """L_PC as the authors' code weighs it: a mean attraction less 1e-4 of a mean repulsion.

    Attraction is the mean of ‖f_i − w_y‖²; repulsion the mean over all other classes of
    ‖f_i − v_j‖², with centres v of its own; distances are clamped to [1e-12, 1e12] and there is no
    centre–centre term.  Shapes as in ``prototype_conformity``.
    """
    own = F.one_hot(labels, len(attraction_centres)).bool()
    near = squared_distances(features, attraction_centres)[own].clamp(1e-12, 1e12)
    far = squared_distances(features, repulsion_centres)[~own].clamp(1e-12, 1e12)
    return near.mean() - repulsion_weight * far.mean()
