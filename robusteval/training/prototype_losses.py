"""Losses on prototypes and proxies, named by their papers' equations.  Pure functions.

Features are (B, D), labels (B,), prototypes (K, M, D): M of each of K classes.  Losses are means
over the batch.  ``places`` (K, M), bool, says which of these a class has of its own, where not all
of them are (see ``PrototypeNetwork.own_places``).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def n_prototype(similarities: Tensor, labels: Tensor) -> Tensor:
    """L_pl: SCPL, eq. 9, for similarities (B, K) to the closest prototype of each class.

    log(1 + Σ_{i≠y} exp(s_i − s_y)), which is the cross-entropy of the similarities.  Higher is
    closer; where eq. 7 writes −min of a similarity, it means a distance.
    """
    own = similarities.gather(1, labels[:, None])
    mask = F.one_hot(labels, similarities.shape[1]).bool()
    gaps = (similarities - own).masked_fill(mask, 0.0)  # the own class is the logarithm's 1: exp(0)
    return gaps.logsumexp(1).mean()


def closest_own(distances: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """m_y (B, D): of each sample's class the prototype that is closest by ``distances`` (B, K, M),
    whatever they are measured in."""
    rows = torch.arange(len(labels), device=labels.device)
    return prototypes[labels, distances[rows, labels].argmin(1)]


def prototype_norm(features: Tensor, own: Tensor) -> Tensor:
    """L_norm: SCPL, eq. 10: ‖h − m_y‖₂ to the own prototypes m_y (B, D)."""
    found: Tensor = (features - own).norm(dim=1)
    return found.mean()


def prototype_encoding_cost(features: Tensor, own: Tensor) -> Tensor:
    """The prototype loss of GCPL (Yang et al. 2018): ‖f − m_y‖² to the own prototypes (B, D)."""
    return (features - own).square().sum(1).mean()


def distance_cross_entropy(squared: Tensor, labels: Tensor, gamma: float = 1.0) -> Tensor:
    """DCE of GCPL (SCPL, eq. 4): cross-entropy over all prototypes at −γ·d, summed by class.

    ``squared``: squared distances (B, K, M).  −log Σ_m p_{y,m}.
    """
    logits = (-gamma * squared).flatten(1).log_softmax(1).view_as(squared)
    by_class = logits.logsumexp(2)
    return F.nll_loss(by_class, labels)


def soft_triple(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    scale: float = 20.0,
    gamma: float = 0.1,
    margin: float = 0.01,
    places: Tensor | None = None,
) -> Tensor:
    """SoftTriple (Qian et al. 2019): MPAT, eq. 3, on unit features and unit prototypes.

    S'_c = Σ_k softmax_k(x·w_ck / γ) x·w_ck; the own class's is lowered by the margin δ, and all
    are scaled by λ before the cross-entropy.
    """
    unit = F.normalize(features, dim=1)
    cosines = torch.einsum("bd,kmd->bkm", unit, F.normalize(prototypes, dim=2))
    shares = cosines / gamma
    if places is not None:
        shares = shares.masked_fill(~places, -torch.inf)
    similarities = (shares.softmax(2) * cosines).sum(2)
    own = F.one_hot(labels, len(prototypes)).to(similarities.dtype)
    return F.cross_entropy(scale * (similarities - margin * own), labels)


def soft_triple_regulariser(prototypes: Tensor, places: Tensor | None = None) -> Tensor:
    """Σ_j R(w_j¹…w_j^M) / (C·M(M−1)): MPAT, eq. 4, with R = Σ_{s<t} √(2 − 2 w_s·w_t).

    That is the sum of distances between a class's unit prototypes; it lets redundant ones merge.
    The root is Qian et al.'s (their eq. 9): the text at hand of MPAT, a page turned into plain
    text, shows none.  Zero for M = 1.  With ``places`` M is each class's own number.
    """
    classes, count, _ = prototypes.shape
    if count == 1:
        return prototypes.new_zeros(())
    if places is not None:
        each = [
            soft_triple_regulariser(w[None, own]) for w, own in zip(prototypes, places, strict=True)
        ]
        return torch.stack(each).mean()
    unit = F.normalize(prototypes, dim=2)
    products = unit @ unit.transpose(1, 2)
    first, second = torch.triu_indices(count, count, 1)
    distances = (2 - 2 * products[:, first, second] + 1e-5).sqrt()  # no infinite slope at zero
    return distances.sum() / (classes * count * (count - 1))


def proxy_nca(features: Tensor, labels: Tensor, proxies: Tensor, scale: float = 3.0) -> Tensor:
    """Proxy-NCA (Movshovitz-Attias et al. 2017, eq. 6), proxies (K, D).

    −log(exp(−d_y) / Σ_{z≠y} exp(−d_z)) with d the squared distance of vectors of length
    ``scale``.  The own proxy is not in the denominator, as the paper has it.
    """
    first = scale * F.normalize(features, dim=1)
    second = scale * F.normalize(proxies, dim=1)
    squared = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").square()
    own = F.one_hot(labels, len(proxies)).bool()
    others = (-squared).masked_fill(own, -torch.inf).logsumexp(1)
    return (squared[own] + others).mean()


def proxy_anchor(
    features: Tensor, labels: Tensor, proxies: Tensor, alpha: float = 32.0, margin: float = 0.1
) -> Tensor:
    """Proxy-Anchor (Kim et al. 2020, eq. 4), proxies (K, D), s the cosine.

    The mean over proxies with a positive sample in the batch of
    log(1 + Σ_{x of p} exp(−α(s − δ))), plus the mean over all proxies of
    log(1 + Σ_{x not of p} exp(α(s + δ))).
    """
    cosines = F.normalize(features, dim=1) @ F.normalize(proxies, dim=1).T
    own = F.one_hot(labels, len(proxies)).bool()
    present = own.any(0)
    positive = _softplus_sum((-alpha * (cosines - margin)).masked_fill(~own, -torch.inf))
    negative = _softplus_sum((alpha * (cosines + margin)).masked_fill(own, -torch.inf))
    return positive[present].sum() / present.sum() + negative.mean()


def centre(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Centre loss (Wen et al. 2016, eq. 2), halved and averaged: ½‖f − c_y‖², centres (K, D)."""
    return 0.5 * (features - centres[labels]).square().sum(1).mean()


def centre_steps(features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Zero, with the gradient by which centre loss moves its centres (K, D).

    Wen et al. 2016, eq. 4: Σ_{i: y_i = j} (c_j − f_i) / (1 + n_j), n_j of a batch.  It does not
    shrink with the loss's weight, or centres would stay where they began.  Features get none.
    """
    shares = 1 / (1 + torch.bincount(labels, minlength=len(centres))[labels])
    apart = (features.detach() - centres[labels]).square().sum(1)
    found = 0.5 * (shares * apart).sum()
    return found - found.detach()


def repulsion(centres: Tensor, metric: str) -> Tensor:
    """What DRP's eq. 5 minimises: −Σ_{i<j} d(c_i, c_j) for centres (K, D), in "l2" or "linf"."""
    first, second = torch.triu_indices(len(centres), len(centres), 1)
    order = 2.0 if metric == "l2" else torch.inf
    distances: Tensor = (centres[first] - centres[second]).norm(p=order, dim=1)
    return -distances.sum()


def repulsive_fit(similarities: Tensor) -> Tensor:
    """DRP, eq. 6, averaged: (1 − s)² for similarities (B,) to the own prototype.

    The equation writes a distance d.  With it samples come to lie at distance 1; with a similarity
    in [0, 1] at the prototype.
    """
    return (1 - similarities).square().mean()


def _softplus_sum(values: Tensor) -> Tensor:
    """log(1 + Σ_b exp(v_b)) over the batch, for each column."""
    summed: Tensor = torch.cat([values, torch.zeros_like(values[:1])]).logsumexp(0)
    return summed
