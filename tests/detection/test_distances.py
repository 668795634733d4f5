"""Mahalanobis and k-th neighbour: the exact distances."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.detection import knn, mahalanobis
from robusteval.detection.record import Detector, stored_form
from robusteval.detection.registry import find
from robusteval.detection.scoring import scores
from robusteval.models.adapter import Adapter
from robusteval.vision import torchvision

RNG = np.random.default_rng(0)
LABELS = np.arange(240) % 3
# Three classes in eight dimensions, of one covariance that is not round.
FEATURES = RNG.normal(size=(240, 8)) @ RNG.normal(size=(8, 8)) + 5 * RNG.normal(size=(3, 8))[LABELS]
OTHERS = 4 * RNG.normal(size=(60, 8))


class ThreeClasses:
    """As much of a model as a fit on features asks for."""

    classes = 3


MODEL: Any = ThreeClasses()


def both(detector: Detector) -> Tensor:
    """Scores of ``OTHERS`` by a detector that is fitted to ``FEATURES``."""
    assert detector.fit_read is not None
    state = detector.fit_read(MODEL, torch.tensor(FEATURES), torch.tensor(LABELS))
    return detector.score_read(state, MODEL, torch.tensor(OTHERS))


def test_mahalanobis_is_scikit_learns() -> None:
    means = np.stack([FEATURES[k == LABELS].mean(0) for k in range(3)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(FEATURES - means[LABELS])
    squared = np.stack([covariance.mahalanobis(OTHERS - mean) for mean in means])
    assert both(find("mahalanobis")).numpy() == pytest.approx(-squared.min(0), rel=1e-9)


def test_mahalanobis_is_pytorch_oods_but_for_a_factor() -> None:
    """Its covariance is a sum over the samples, and its score half of the distance."""
    torchvision()
    from pytorch_ood.detector import Mahalanobis

    theirs = Mahalanobis(None).fit_features(
        torch.tensor(FEATURES, dtype=torch.float32), torch.tensor(LABELS)
    )
    found = theirs.predict_features(torch.tensor(OTHERS, dtype=torch.float32))
    expected = -2 * len(FEATURES) * found.double()
    assert both(find("mahalanobis")).numpy() == pytest.approx(expected.numpy(), rel=1e-3)


def test_mahalanobis_in_closed_form() -> None:
    """Means (0, 0) and (10, 0); the variances are 4 and 1/4."""
    corners = torch.tensor([[2.0, 0.5], [2.0, -0.5], [-2.0, 0.5], [-2.0, -0.5]])
    features = torch.cat([corners, corners + torch.tensor([10.0, 0.0])])
    model: Any = ThreeClasses()
    model.classes = 2
    state = mahalanobis.fit(model, features, torch.arange(8) // 4)
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [8.0, 1.0]])
    assert mahalanobis.score(state, model, points).tolist() == pytest.approx([0, -1, -16, -5])


def test_mahalanobis_leaves_out_what_never_varies() -> None:
    """A feature that is always the same has no variance to measure by."""
    padded = [torch.tensor(np.pad(f, ((0, 0), (0, 2)))) for f in (FEATURES, OTHERS)]
    state = mahalanobis.fit(MODEL, padded[0], torch.tensor(LABELS))
    found = mahalanobis.score(state, MODEL, padded[1])
    assert found.numpy() == pytest.approx(both(find("mahalanobis")).numpy(), rel=1e-9)


def test_knn_is_scikit_learns() -> None:
    known, asked = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (FEATURES, OTHERS))
    distances, _ = NearestNeighbors(n_neighbors=50).fit(known).kneighbors(asked)
    assert both(find("knn")).numpy() == pytest.approx(-distances[:, -1], abs=1e-12)


def test_knn_in_closed_form() -> None:
    """50 neighbours at a right angle, of any length, then others on the far side."""
    known = torch.tensor([[0.0, 3.0]] * 50 + [[-1.0, 0.0]] * 20)
    state = knn.fit(MODEL, known, torch.zeros(70).long())
    asked = torch.tensor([[7.0, 0.0], [0.0, 1.0]])
    assert knn.score(state, MODEL, asked).tolist() == pytest.approx([-(2**0.5), 0])


def test_too_little_to_be_fitted_to_is_said() -> None:
    with pytest.raises(ValueError, match="class 2 has no training sample"):
        mahalanobis.fit(MODEL, torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="4 training samples"):
        knn.fit(MODEL, torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize("name", ["mahalanobis", "knn"])
def test_scores_have_gradients(name: str) -> None:
    detector = find(name)
    assert detector.fit_read is not None
    state = detector.fit_read(MODEL, torch.tensor(FEATURES), torch.tensor(LABELS))
    asked = torch.tensor(OTHERS, requires_grad=True)
    (found,) = torch.autograd.grad(detector.score_read(state, MODEL, asked).sum(), asked)
    assert torch.isfinite(found).all()
    assert found.any(1).all()


@pytest.mark.parametrize("name", ["mahalanobis", "knn"])
def test_inliers_score_higher(name: str, ce_digits: Adapter, digits: Dataset) -> None:
    train = load_dataset("digits", "train")
    state = find(name).fit(ce_digits, train.images().split(250), train.labels)
    inside = scores(name, ce_digits, digits.images(), state)
    outside = scores(name, ce_digits, torch.rand(200, 1, 8, 8), state)
    above = (inside[:, None] > outside[None]).double().mean()
    assert above > 0.8


@pytest.mark.parametrize(
    "state",
    [
        *({}, 7, {"a": 1}, {1: torch.ones(1)}),
        {"a": torch.tensor([torch.inf])},
        {"a": torch.ones(1).bfloat16()},
    ],
)
def test_what_cannot_be_stored_is_no_state(state: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="its state"):
        stored_form(state)
