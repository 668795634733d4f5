"""What can't be fitted or scored is said in one clear line, or has a defined score."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robusteval import wrap_module
from robusteval.data.datasets import Dataset
from robusteval.detection.reading import Outputs, Read
from robusteval.detection.registry import DETECTORS, find
from robusteval.detection.scoring import scores, scores_together
from robusteval.errors import AttackError, ScoreError
from robusteval.models.adapter import Adapter
from tests.helpers.features import CLASSES, DIM, Featured, Sides, sides

SIDES = sides()
OF_FEATURES = [
    d.name
    for d in DETECTORS.own()
    if d.reads not in ("images", "distances") and d.name != "prototype_mahalanobis"
]
FITTED = [name for name in OF_FEATURES if find(name).needs_training_data]
# Those that a class without a sample stops: the others don't ask which class a sample is of.
OF_CLASSES = ["mahalanobis", "relative_mahalanobis", "gmm", "she", "open_max"]
OF_NEIGHBOURS = {"knn": 50, "local_intrinsic_dimensionality": 20, "nnguide": 10}


def fit(name: str, read: Read, labels: Tensor) -> Any:
    return find(name).fit_to(SIDES.model, read, labels)


def told(name: str, features: Tensor, labels: Tensor) -> str:
    """Why it can't be fitted, in one line."""
    with pytest.raises(ValueError, match=r"\w") as error:
        fit(name, SIDES.read(features, find(name).reads), labels)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", FITTED)
def test_no_training_data(name: str) -> None:
    assert told(name, torch.empty(0, DIM), torch.empty(0).long()) == "there are no training samples"


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_training_data_that_are_not_finite(name: str, bad: float) -> None:
    train = SIDES.train.clone()
    train[7, 3] = bad
    assert told(name, train, SIDES.labels) == "the model gives NaN or infinity on training data"


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_class_is_missing(name: str) -> None:
    kept = SIDES.labels != 2
    assert "class 2" in told(name, SIDES.train[kept], SIDES.labels[kept])


@pytest.mark.parametrize("name", OF_NEIGHBOURS)
def test_fewer_samples_than_neighbours(name: str) -> None:
    needed = OF_NEIGHBOURS[name]
    reason = told(name, SIDES.train[: needed - 1], SIDES.labels[: needed - 1])
    assert reason == f"{needed - 1} training samples: it needs {needed} or more"


@pytest.mark.parametrize("name", FITTED)
def test_one_training_sample(name: str) -> None:
    """It is fitted to that, or says why not; the score is a number."""
    one, label = SIDES.train[:1], SIDES.labels[:1]
    try:
        state = fit(name, SIDES.read(one, find(name).reads), label)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
        return
    found = find(name).score_of(state, SIDES.model, SIDES.read(SIDES.others, find(name).reads))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", FITTED)
def test_equal_training_samples(name: str) -> None:
    same = Sides(SIDES.model, SIDES.train[:1].expand(200, -1), SIDES.labels, SIDES.others)
    try:
        found = same.scores(name)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", FITTED)
def test_a_detector_that_was_not_fitted(name: str) -> None:
    with pytest.raises(AttackError, match=f"{name} was not fitted"):
        find(name).score_of({}, SIDES.model, SIDES.read(SIDES.others, find(name).reads))


@pytest.mark.parametrize("name", OF_FEATURES)
def test_one_image_and_none(name: str) -> None:
    """One has the score that it has among others."""
    whole = SIDES.scores(name)
    assert float(SIDES.scores(name, SIDES.others[:1])) == pytest.approx(float(whole[0]), rel=1e-6)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_an_image_on_which_the_model_gives_nan(name: str) -> None:
    others = SIDES.others.clone()
    others[5, 0] = torch.nan
    with pytest.raises(ScoreError, match=name):
        SIDES.scores(name, others)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_features_that_are_all_zero(name: str) -> None:
    assert torch.isfinite(SIDES.scores(name, torch.zeros(3, DIM))).all()


def test_no_images(pcl_digits: Adapter, digits: Dataset) -> None:
    none = digits.images(slice(0, 0))
    assert scores("energy", pcl_digits, none).shape == (0,)
    assert scores_together({}, pcl_digits, none) == {}


def test_inner_layers_that_are_not_shown() -> None:
    plain = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), classes=2)
    with pytest.raises(ValueError, match="inner layers"):
        find("gram").fit(plain, [torch.rand(20, 1, 2, 2)], torch.arange(20) % 2)


def test_covariances_too_large_to_keep() -> None:
    model: Any = Featured()
    model.classes = 1000
    with pytest.raises(ValueError, match="too many to keep"):
        find("gmm").fit_to(model, torch.rand(10, 100), torch.zeros(10).long())


def test_a_read_of_both_is_of_as_many() -> None:
    found = Outputs(torch.ones(3, DIM), torch.ones(3, CLASSES))
    assert find("grad_norm").score_of({}, SIDES.model, found).shape == (3,)
