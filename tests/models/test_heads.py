"""Distances, similarities and pooling in closed form; gradients against finite differences."""

import math

import pytest
import torch

from robusteval.models.prototypes import pool_to_classes, prototype_distances
from tests.helpers.known import pixel_prototypes

FEATURE = torch.tensor([[3.0, -4.0]])
PROTOTYPES = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[6.0, -8.0]]])  # K = 3, M = 1


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [
        ("l2", [5.0, 4.0, 5.0]),
        ("sql2", [25.0, 16.0, 25.0]),
        ("l1", [7.0, 4.0, 7.0]),
        ("linf", [4.0, 4.0, 4.0]),
        ("dot", [0.0, -9.0, -50.0]),
        ("cosine", [1.0, 1 - 3 / 5, 0.0]),
    ],
)
def test_distances_by_hand(similarity: str, expected: list[float]) -> None:
    distances = prototype_distances(FEATURE, PROTOTYPES, similarity)  # type: ignore[arg-type]
    assert distances.shape == (1, 3, 1)
    torch.testing.assert_close(distances[0, :, 0], torch.tensor(expected))


def test_squared_distances_keep_their_digits() -> None:
    features = torch.full((1, 64), 1000.0)
    near = features.clone()
    near[0, 0] += 0.25
    distance = prototype_distances(features, near[None], "sql2")
    assert float(distance) == pytest.approx(0.0625, rel=1e-6)


def test_pooling_of_several_prototypes() -> None:
    similarities = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])  # K = 2, M = 2
    assert pool_to_classes(similarities, "max").tolist() == [[3.0, 2.0]]
    assert pool_to_classes(similarities, "mean").tolist() == [[2.0, 2.0]]
    t = 0.5
    expected = t * math.log(math.exp(1 / t) + math.exp(3 / t))
    pooled = pool_to_classes(similarities, "logsumexp", t)
    assert float(pooled[0, 0]) == pytest.approx(expected, rel=1e-6)
    a, b = math.exp(1 / t), math.exp(3 / t)
    soft = pool_to_classes(similarities, "softmax", t)
    assert float(soft[0, 0]) == pytest.approx((a * 1 + b * 3) / (a + b), rel=1e-6)


def test_unit_vector_prototypes_read_the_largest_feature() -> None:
    """With prototypes e₁…e_K, squared distance is ‖f‖² + 1 − 2 f_k: logits by hand."""
    model = pixel_prototypes(torch.eye(4)[:, None], similarity="sql2")
    images = torch.tensor([0.1, 0.9, 0.3, 0.2]).view(1, 1, 2, 2)
    square = float(images.square().sum())
    expected = [-(square + 1 - 2 * f) for f in (0.1, 0.9, 0.3, 0.2)]
    torch.testing.assert_close(model(images), torch.tensor([expected]))
    assert int(model(images).argmax()) == 1
    assert model.distances(images).shape == (1, 4, 1)
    torch.testing.assert_close(model.embed(images), images.flatten(1))


def test_the_nearest_of_a_classs_prototypes_speaks_for_it() -> None:
    prototypes = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[0.5, 0.4], [9.0, 9.0]]])
    model = pixel_prototypes(prototypes, similarity="l2")
    logits = model(torch.tensor([[[[0.9, 0.9]]]]))
    expected = [[-math.hypot(0.1, 0.1), -math.hypot(0.4, 0.5)]]
    torch.testing.assert_close(logits, torch.tensor(expected))


@pytest.mark.parametrize("similarity", ["l2", "sql2", "l1", "linf", "dot", "cosine"])
@pytest.mark.parametrize("pooling", ["max", "mean", "logsumexp", "softmax"])
def test_gradients_against_finite_differences(similarity: str, pooling: str) -> None:
    torch.manual_seed(1)
    prototypes = torch.randn(3, 2, 5, dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def scores(f: torch.Tensor) -> torch.Tensor:
        distances = prototype_distances(f, prototypes, similarity)  # type: ignore[arg-type]
        return pool_to_classes(-distances, pooling, 0.7)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(scores, (features,), eps=1e-6, atol=1e-6)


def test_no_nan_where_a_feature_meets_its_prototype() -> None:
    for similarity in ("l2", "sql2", "l1", "linf"):
        features = torch.ones(1, 3, requires_grad=True)
        distances = prototype_distances(features, torch.ones(1, 1, 3), similarity)  # type: ignore[arg-type]
        distances.sum().backward()
        assert distances.item() == pytest.approx(0, abs=1e-5)
        assert features.grad is not None
        assert features.grad.tolist() == [[0.0, 0.0, 0.0]], similarity
