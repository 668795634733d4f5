"""Smallest perturbations: within 1.05 of what is known."""

import pytest
import torch

from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.models.heads import prototype_distances
from robusteval.types import Norm
from tests.test_adaptive import Function, images_near_grey, margins, small_network, threat_of


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 10])
def test_of_linear_models(norm: Norm, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn((classes, 64), generator=generator)
    offset = -weight.sum(1) / 2
    model, images = Function(lambda x: x.flatten(1) @ weight.T + offset), images_near_grey(60)
    logits = model(images)
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = weight[labels][:, None] - weight[None]
    dual = slopes.abs().sum(2) if norm == "Linf" else slopes.norm(dim=2)
    known = (gaps / dual).scatter(1, labels[:, None], torch.inf).amin(1)
    found = smallest(model, images, labels, threat_of(norm, 0.1))
    assert (margins(model, found, labels) > -1e-5).all()  # to float32's last bits
    assert found.min() >= 0
    assert found.max() <= 1
    ratio = norms(found.double() - images.double(), norm) / known.double()
    assert ratio.max() < 1.05
    assert ratio.min() > 1 - 1e-3


def test_of_nearest_prototypes() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = 0.3 + 0.4 * torch.rand((4, 1, 64), generator=generator)
    model = Function(lambda x: -prototype_distances(x.flatten(1), prototypes, "sql2").amin(2))
    images = images_near_grey(60)
    squared = prototype_distances(images.flatten(1), prototypes, "sql2")[:, :, 0]
    labels = squared.argmin(1)
    apart = (prototypes[labels, 0][:, None] - prototypes[None, :, 0]).norm(dim=2)
    known = (squared - squared.gather(1, labels[:, None])) / (2 * apart)
    known = known.scatter(1, labels[:, None], torch.inf).amin(1)
    found = smallest(model, images, labels, threat_of("L2", 1))
    ratio = norms(found - images, "L2") / known
    assert ratio.max() < 1.05
    assert ratio.min() > 1 - 1e-3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_network_breaks_just_beyond_what_was_found(norm: Norm) -> None:
    """Never at nine tenths of the way there, along the same line."""
    network, images = small_network(), images_near_grey(30)
    labels = network(images).argmax(1)
    found = smallest(network, images, labels, threat_of(norm, 1))
    assert (margins(network, found, labels) > 0).all()
    assert (margins(network, images + 0.9 * (found - images), labels) <= 0).all()


def test_what_nothing_breaks_comes_back_as_it_is() -> None:
    model, images = (
        Function(lambda x: torch.stack([x.sum((1, 2, 3)) + 9, 0 * x[:, 0, 0, 0]], 1)),
        images_near_grey(5),
    )
    labels = torch.zeros(5, dtype=torch.long)
    assert torch.equal(smallest(model, images, labels, threat_of("L2", 1)), images)
