"""The project's own scores by hand, and those for attacks."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from robusteval.data.datasets import Dataset
from robusteval.detection import logits, odin, prototypes, squeezing, stability
from robusteval.detection.metrics import detection_metrics
from robusteval.detection.registry import find
from robusteval.detection.scoring import scores, scores_together
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.vision import torchvision
from tests.helpers.features import Featured
from tests.helpers.known import pixel_prototypes
from tests.helpers.models import linear_model

MODEL: Any = Featured()
# Three classes, two prototypes each: squared distances of two images.
SQUARED = torch.tensor(
    [[[4.0, 9.0], [16.0, 25.0], [36.0, 1.0]], [[2.0, 2.0], [8.0, 8.0], [2.0, 9.0]]]
)


def test_prototype_ratio_by_hand() -> None:
    """Nearest classes at 1 and 2, and two at √2."""
    assert prototypes.ratio({}, MODEL, SQUARED).tolist() == pytest.approx([-0.5, -1])


def test_prototype_ratio_is_of_different_classes() -> None:
    """Two prototypes of one class are no rivals."""
    squared = torch.tensor([[[1.0, 1.0], [4.0, 9.0]]])
    assert float(prototypes.ratio({}, MODEL, squared)) == pytest.approx(-0.5)


def test_prototype_energy_by_hand() -> None:
    found = prototypes.energy({}, MODEL, SQUARED[:1])
    expected = math.log(sum(math.exp(-d) for d in (4, 9, 16, 25, 36, 1)))
    assert float(found) == pytest.approx(expected)


def test_class_radius_by_hand() -> None:
    """Class 0 reaches to 2, class 1 to 1; an image at 1 of class 0 is half-way out, one at 3 of
    class 1 far outside."""
    model: Any = Featured()
    model.classes = 2
    training = torch.tensor([[1.0, 99.0], [4.0, 99.0], [99.0, 0.25], [99.0, 1.0]])[:, :, None]
    state = prototypes.fit_radius(model, training, torch.tensor([0, 0, 1, 1]), share=1.0)
    assert state["radii"].tolist() == [2, 1]
    asked = torch.tensor([[1.0, 50.0], [50.0, 9.0], [4.0, 50.0]])[:, :, None]
    assert prototypes.radius(state, model, asked).tolist() == pytest.approx([-0.5, -3, -1])
    half = prototypes.fit_radius(model, training, torch.tensor([0, 0, 1, 1]), share=0.5)
    assert half["radii"].tolist() == [1.5, 0.75]


def test_prototype_mahalanobis_by_hand() -> None:
    """Prototypes (0, 0) and (10, 0); around them variances of 4 and 1/4."""
    corners = torch.tensor([[2.0, 0.5], [2.0, -0.5], [-2.0, 0.5], [-2.0, -0.5]])
    features = torch.cat([corners, corners + torch.tensor([10.0, 0.0])])
    model = pixel_prototypes(torch.tensor([[[0.0, 0.0]], [[10.0, 0.0]]]))
    state = prototypes.fit_covariance(model, features, torch.arange(8) // 4)
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [8.0, 1.0]])
    assert prototypes.mahalanobis(state, model, points).tolist() == pytest.approx([0, -1, -16, -5])


def test_prototype_mahalanobis_by_directions() -> None:
    """Where a model compares directions, a longer vector is as near."""
    model = pixel_prototypes(torch.eye(3)[:, None], similarity="cosine")
    features = torch.eye(3).repeat(9, 1) + 0.1 * torch.randn(27, 3)
    state = prototypes.fit_covariance(model, features, torch.arange(27) % 3)
    found = [prototypes.mahalanobis(state, model, f * features) for f in (1, 5)]
    assert found[0].numpy() == pytest.approx(found[1].numpy(), rel=1e-5)


def test_rho_by_hand() -> None:
    """(3, 1, 1, −1): mean 1, standard deviation √2; all equal, there is nothing to be sure of."""
    asked = torch.tensor([[3.0, 1.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0]])
    assert logits.rho({}, MODEL, asked).tolist() == pytest.approx([2**0.5, 0])


def test_rho_of_similarities(digits: Dataset) -> None:
    """On a model of its paper; the logits of another classifier say little by it."""
    model = load_model(find_entry("scpl_digits"), "cpu")
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sides = [scores("scpl_rho", model, images).numpy() for images in (digits.images(), noise)]
    assert detection_metrics(*sides)["auroc"] > 0.8


# For attacks


def test_squeezers_are_the_papers() -> None:
    images = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    expected = median_filter(images.numpy(), size=(1, 1, 2, 2), mode="reflect")
    assert np.array_equal(squeezing.median(images).numpy(), expected)
    assert squeezing.fewer_bits(torch.tensor([0.0, 0.4, 0.6, 1.0]), 1).tolist() == [0, 0, 1, 1]
    assert len(squeezing.fewer_bits(images, 2).unique()) == 4


def test_feature_squeezing_by_hand() -> None:
    """One grey pixel that one bit moves from 0.6 to 1: the softmax of (2x, 0)."""
    model = linear_model(torch.tensor([[2.0], [0.0]]), torch.zeros(2))
    image = torch.full((1, 1, 1, 1), 0.6)
    before, after = (1 / (1 + math.exp(-2 * x)) for x in (0.6, 1.0))
    found = squeezing.score({}, model, image)
    assert float(found) == pytest.approx(-2 * (after - before), rel=1e-5)


def test_margin_stability_by_hand() -> None:
    """Of logits (x, −x) the margin is |2x|: noise of either sign moves it by its mean."""
    model = linear_model(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))
    image = torch.full((1, 1, 1, 1), 0.5)
    expected = 2 * float(stability.noise_for(image).mean())
    assert float(stability.score({}, model, image)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["feature_squeezing", "margin_stability", "odin"])
def test_a_score_is_the_images_own(name: str, ce_digits: Adapter, digits: Dataset) -> None:
    """Whatever stands beside it in a batch, and however often it is asked."""
    images = digits.images(slice(0, 6))
    state = {k: torch.tensor(v) for k, v in next(iter(find(name).settings), {}).items()}
    together = scores(name, ce_digits, images, state)
    alone = torch.cat([scores(name, ce_digits, image[None], state) for image in images])
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-5)
    assert torch.equal(together, scores(name, ce_digits, images, state))


def test_scores_for_attacks_find_what_was_not_made_against_them(
    pcl_digits: Adapter, digits: Dataset
) -> None:
    """Images of PGD on the model alone, 20 steps."""
    images, labels = digits.images(slice(0, 120)), digits.labels[:120]
    moved = images
    for _ in range(20):
        leaf = moved.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(pcl_digits(leaf), labels)
        (slope,) = torch.autograd.grad(loss, leaf)
        moved = images + (moved + 0.02 * slope.sign() - images).clamp(-0.15, 0.15)
        moved = moved.clamp(0, 1)
    right, stays = (pcl_digits(x).argmax(1) == labels for x in (images, moved))
    for name in ("feature_squeezing", "margin_stability"):
        inside = scores(name, pcl_digits, images[right])
        outside = scores(name, pcl_digits, moved[right & ~stays])
        assert detection_metrics(inside, outside)["auroc"] > 0.8


def test_odin_is_pytorch_oods(ce_digits: Adapter, digits: Dataset) -> None:
    torchvision()
    from pytorch_ood.detector import ODIN

    images = digits.images(slice(0, 20))
    state = {"temperature": torch.tensor(1000.0), "eps": torch.tensor(0.0014)}
    expected: Tensor = -ODIN(ce_digits).predict(images)
    found = odin.score(state, ce_digits, images)
    assert found.detach().numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_many_detectors_read_once(pcl_digits: Adapter, digits: Dataset) -> None:
    """Together they say what each says alone, by one pass."""
    passes: list[int] = []

    def count(module: Any, given: Any) -> None:
        passes.append(len(given[0]))

    names = ["energy", "gen", "grad_norm", "prototype_ratio", "prototype_energy", "scpl_rho"]
    images = digits.images(slice(0, 30))
    alone = {name: scores(name, pcl_digits, images) for name in names}
    hook = pcl_digits.module.backbone.register_forward_pre_hook(count)  # type: ignore[union-attr]
    try:
        together = scores_together({name: {} for name in names}, pcl_digits, images)
    finally:
        hook.remove()
    assert passes == [30]
    assert all(torch.equal(alone[name], together[name]) for name in names)
