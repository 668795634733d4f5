"""Losses on prototypes: cases worked out by hand, finite differences, a reference library."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as reference
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import Tensor

from robusteval.models.prototypes import prototype_distances
from robusteval.training import prototype_losses as L

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn((12, 6), generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3] * 3)
PROTOTYPES = torch.randn((4, 3, 6), generator=GENERATOR, dtype=torch.float64)
PROXIES = PROTOTYPES[:, 0]


def test_n_prototype_by_hand() -> None:
    """log(1 + e^{1−3} + e^{0−3}) and log(1 + e^{2−1} + e^{0})."""
    similarities = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 1.0]])
    labels = torch.tensor([0, 1])
    first = math.log(1 + math.exp(-2) + math.exp(-3))
    second = math.log(1 + math.exp(1) + 1)
    assert float(L.n_prototype(similarities, labels)) == pytest.approx((first + second) / 2)
    cross_entropy = F.cross_entropy(similarities, labels)
    torch.testing.assert_close(L.n_prototype(similarities, labels), cross_entropy)


def closest(features: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """By L2."""
    return L.closest_own(prototype_distances(features, prototypes, "l2"), labels, prototypes)


def test_the_closest_is_by_the_distance_that_is_asked() -> None:
    """(2, 2) is 2.8 from the origin in L2 and 4 in L1; (5, 1.5) is 3.04 and 3.5."""
    prototypes = torch.tensor([[[0.0, 0.0], [5.0, 1.5]]])
    features, labels = torch.tensor([[2.0, 2.0]]), torch.tensor([0])
    for similarity, own in (("l2", [0.0, 0.0]), ("l1", [5.0, 1.5])):
        distances = prototype_distances(features, prototypes, similarity)  # type: ignore[arg-type]
        assert L.closest_own(distances, labels, prototypes).tolist() == [own]


def test_distances_to_the_closest_own_prototype_by_hand() -> None:
    prototypes = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [9.0, 9.0]]])
    features = torch.tensor([[3.0, 0.0], [1.0, 2.0]])
    labels = torch.tensor([0, 1])  # 3 to (0, 0), 4 to (3, 4); 2 to (1, 0)
    own = closest(features, labels, prototypes)
    assert own.tolist() == [[0, 0], [1, 0]]
    assert float(L.prototype_norm(features, own)) == pytest.approx(2.5)
    assert float(L.prototype_encoding_cost(features, own)) == pytest.approx(6.5)
    assert float(L.centre(features, labels, prototypes[:, 0])) == pytest.approx(0.5 * (9 + 4) / 2)


def test_centres_move_by_steps_of_their_own() -> None:
    """Wen et al., eq. 4: two samples of class 0 and one of class 1; class 2 stays; no value."""
    features = torch.tensor([[3.0, 0.0], [0.0, 3.0], [4.0, 4.0]], requires_grad=True)
    centres = torch.tensor([[0.0, 0.0], [2.0, 4.0], [9.0, 9.0]], requires_grad=True)
    found = L.centre_steps(features, torch.tensor([0, 0, 1]), centres)
    assert found.item() == 0
    found.backward()  # type: ignore[no-untyped-call]
    assert centres.grad is not None
    expected = [[-3 / 3, -3 / 3], [-2 / 2, 0], [0, 0]]
    torch.testing.assert_close(centres.grad, torch.tensor(expected))
    assert features.grad is None or not features.grad.any()


def test_distance_cross_entropy_by_hand() -> None:
    """Two classes of two prototypes: the own two of four exponentials."""
    squared = torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])
    own = math.exp(-0.5) + math.exp(-1.0)
    total = own + 1 + math.exp(-2.0)
    loss = L.distance_cross_entropy(squared, torch.tensor([0]), gamma=0.5)
    assert float(loss) == pytest.approx(-math.log(own / total))


def test_repulsive_fit_by_hand() -> None:
    assert float(L.repulsive_fit(torch.tensor([1.0, 0.5, 0.0]))) == pytest.approx(1.25 / 3)


def test_soft_triple_of_one_prototype_is_a_cosine_softmax() -> None:
    cosines = F.normalize(FEATURES, dim=1) @ F.normalize(PROXIES, dim=1).T
    margin = 0.2 * F.one_hot(LABELS, 4)
    expected = F.cross_entropy(5.0 * (cosines - margin), LABELS)
    found = L.soft_triple(FEATURES, LABELS, PROXIES[:, None], scale=5.0, margin=0.2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("scale", "gamma", "margin"), [(20.0, 0.1, 0.01), (5.0, 0.5, 0.2)])
def test_soft_triple_against_the_reference(scale: float, gamma: float, margin: float) -> None:
    theirs = reference.SoftTripleLoss(
        num_classes=4, embedding_size=6, centers_per_class=3, la=scale, gamma=gamma, margin=margin
    ).double()
    theirs.fc.data.copy_(PROTOTYPES.flatten(0, 1).T)  # (D, K·M), class by class
    found = L.soft_triple(FEATURES, LABELS, PROTOTYPES, scale, gamma, margin)
    torch.testing.assert_close(found, theirs(FEATURES, LABELS), rtol=1e-6, atol=1e-9)


def test_soft_triples_regulariser_against_the_reference() -> None:
    theirs = SparseCentersRegularizer(num_classes=4, centers_per_class=3).double()
    expected = theirs(PROTOTYPES.flatten(0, 1))
    found = L.soft_triple_regulariser(PROTOTYPES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert float(L.soft_triple_regulariser(PROXIES[:, None])) == 0
    pair = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # a right angle: √2 apart
    assert float(L.soft_triple_regulariser(pair)) == pytest.approx(math.sqrt(2) / 2, rel=1e-4)


def test_proxy_nca_against_the_reference() -> None:
    """Theirs keeps the own proxy in the denominator: log(e^−d_y + Σ) instead of log Σ."""
    theirs = reference.ProxyNCALoss(num_classes=4, embedding_size=6, softmax_scale=9).double()
    theirs.proxies.data.copy_(PROXIES)
    squared = 9 * torch.cdist(F.normalize(FEATURES, dim=1), F.normalize(PROXIES, dim=1)).square()
    own = squared.gather(1, LABELS[:, None])[:, 0]
    others = (-squared).masked_fill(F.one_hot(LABELS, 4).bool(), -torch.inf).logsumexp(1)
    with_own = torch.logaddexp(others, -own)
    torch.testing.assert_close(theirs(FEATURES, LABELS), (own + with_own).mean())
    torch.testing.assert_close(L.proxy_nca(FEATURES, LABELS, PROXIES), (own + others).mean())


def test_proxy_anchor_against_the_reference() -> None:
    theirs = reference.ProxyAnchorLoss(num_classes=4, embedding_size=6).double()
    theirs.proxies.data.copy_(PROXIES)
    for rows in (slice(None), slice(0, 3)):  # all classes in the batch, and one missing
        found = L.proxy_anchor(FEATURES[rows], LABELS[rows], PROXIES)
        torch.testing.assert_close(found, theirs(FEATURES[rows], LABELS[rows]))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "n_prototype": lambda f, p: L.n_prototype(-torch.cdist(f, p[:, 0]), LABELS),
    "prototype_norm": lambda f, p: L.prototype_norm(f, closest(f, LABELS, p)),
    "prototype_encoding_cost": lambda f, p: L.prototype_encoding_cost(f, closest(f, LABELS, p)),
    "distance_cross_entropy": lambda f, p: L.distance_cross_entropy(
        torch.cdist(f, p.flatten(0, 1)).square().view(12, 4, 3), LABELS
    ),
    "soft_triple": lambda f, p: L.soft_triple(f, LABELS, p),
    "soft_triple_regulariser": lambda f, p: L.soft_triple_regulariser(p) + 0 * f.sum(),
    "proxy_nca": lambda f, p: L.proxy_nca(f, LABELS, p[:, 0]),
    "proxy_anchor": lambda f, p: L.proxy_anchor(f, LABELS, p[:, 0]),
    "centre": lambda f, p: L.centre(f, LABELS, p[:, 0]),
    "repulsive_fit": lambda f, p: L.repulsive_fit((f * p[0, 0]).sum(1).sigmoid()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(name: str) -> None:
    features, prototypes = FEATURES.clone().requires_grad_(), PROTOTYPES.clone().requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[name], (features, prototypes), eps=1e-6, atol=1e-5)


# The power of the scale of features and prototypes that a loss grows by.
POWERS = {
    **dict.fromkeys(("soft_triple", "soft_triple_regulariser", "proxy_nca", "proxy_anchor"), 0),
    **{"prototype_norm": 1, "prototype_encoding_cost": 2, "centre": 2},
}


@pytest.mark.parametrize("name", POWERS)
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_losses_grow_as_a_power_of_the_scale(name: str, factor: float) -> None:
    """Those of directions alone not at all, however small or large features are."""
    found = LOSSES[name](factor * FEATURES, factor * PROTOTYPES)
    expected = factor ** POWERS[name] * LOSSES[name](FEATURES, PROTOTYPES)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_cross_entropies_of_distances_far_out_and_close_by() -> None:
    """Far out the largest gap is all there is; at a point every class has an equal share."""
    assert POWERS.keys() | {"n_prototype", "distance_cross_entropy", "repulsive_fit"} == set(LOSSES)
    apart = torch.cdist(FEATURES, PROTOTYPES.flatten(0, 1)).view(12, 4, 3)
    own, rows = F.one_hot(LABELS, 4).bool(), torch.arange(12)
    for name, distances in (
        ("n_prototype", 1e4 * apart[:, :, 0]),
        ("distance_cross_entropy", 1e6 * apart.square().amin(2)),
    ):
        factor = 1e4 if name == "n_prototype" else 1e3
        found = LOSSES[name](factor * FEATURES, factor * PROTOTYPES)
        others = distances.masked_fill(own, torch.inf).amin(1)
        gaps = (distances[rows, LABELS] - others).clamp_min(0)
        torch.testing.assert_close(found, gaps.mean(), rtol=1e-6, atol=1e-6)
        shrunk = LOSSES[name](1e-9 * FEATURES, 1e-9 * PROTOTYPES)
        assert float(shrunk) == pytest.approx(math.log(4), rel=1e-6)
