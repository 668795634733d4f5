"""Smallest perturbations: within 1.05 of what is known."""

import pytest
import torch

import robusteval.attacks.smallest as smallest_module
from robusteval.attacks.counting import Counted
from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.data.datasets import Dataset
from robusteval.models.acceleration import static_batch
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.types import Norm
from tests.helpers.known import (
    Function,
    images_near_grey,
    linear,
    margins,
    nearest_prototypes,
    small_network,
    threat_of,
)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_of_linear_models(norm: Norm, classes: int) -> None:
    known = linear(norm, classes)
    found = smallest(known.model, known.images, known.labels, threat_of(norm, 0.1))
    assert (margins(known.model, found, known.labels) > -1e-5).all()  # to float32's last bits
    assert found.min() >= 0
    assert found.max() <= 1
    ratios = known.ratios(found)
    assert ratios.max() < 1.05
    assert ratios.min() > 1 - 1e-3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_of_more_samples_than_a_batch(norm: Norm) -> None:
    """Each with its own target, wherever it stands among those that are left."""
    known = linear(norm, 10, count=2 * static_batch() + 30)
    found = smallest(known.model, known.images, known.labels, threat_of(norm, 0.1))
    assert known.ratios(found).max() < 1.05


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("per_class", [1, 3])
def test_of_nearest_prototypes(norm: Norm, per_class: int) -> None:
    known = nearest_prototypes(norm, per_class)
    ratios = known.ratios(smallest(known.model, known.images, known.labels, threat_of(norm, 1)))
    assert ratios.max() < 1.05
    assert ratios.min() > 1 - 1e-3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_of_several_prototypes_the_nearest_need_not_be_the_closest_to_winning(
    norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Driven towards classes alone, one of forty samples stays at a longer way than it need."""
    known = nearest_prototypes(norm, 3)
    monkeypatch.setattr(smallest_module, "linear_on_pieces", lambda *_: None)
    given = (known.model, known.images, known.labels, threat_of(norm, 1))
    assert known.ratios(smallest(*given)).max() < 1.02
    monkeypatch.setattr(PrototypeAdapter, "prototypes_per_class", 1)
    assert known.ratios(smallest(*given)).max() > 1.05


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_network_breaks_just_beyond_what_was_found(norm: Norm) -> None:
    """Never at nine tenths of the way there, along the same line."""
    network, images = small_network(), images_near_grey(30)
    labels = network(images).argmax(1)
    found = smallest(network, images, labels, threat_of(norm, 1))
    assert (margins(network, found, labels) > 0).all()
    assert (margins(network, images + 0.9 * (found - images), labels) <= 0).all()


def test_in_l2_what_breaks_in_larger_balls_leads_to_smaller_perturbations(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a trained model whose gradients inside the ball lead astray."""
    model, data = load_model(find_entry("mpat_at_digits")), digits.balanced_subset(60)
    right = model(data.images()).argmax(1) == data.labels
    images, labels, threat = data.images()[right], data.labels[right], threat_of("L2", 1)
    lengths = []
    for share in (smallest_module._WIDE_SHARE["L2"], 0.0):
        monkeypatch.setitem(smallest_module._WIDE_SHARE, "L2", share)
        found = smallest(model, images, labels, threat)
        assert (margins(model, found, labels) > 0).all()
        lengths.append(norms(found - images, "L2"))
    assert lengths[0].mean() < 0.93 * lengths[1].mean()


def test_what_nothing_breaks_comes_back_as_it_is() -> None:
    model, images = (
        Function(lambda x: torch.stack([x.sum((1, 2, 3)) + 9, 0 * x[:, 0, 0, 0]], 1)),
        images_near_grey(5),
    )
    labels = torch.zeros(5, dtype=torch.long)
    assert torch.equal(smallest(model, images, labels, threat_of("L2", 1)), images)


def test_no_images() -> None:
    for norm in ("Linf", "L2"):
        none = torch.empty((0, 1, 8, 8))
        found = smallest(small_network(), none, torch.empty(0).long(), threat_of(norm, 1))
        assert found.shape == none.shape


def test_a_rough_form_hides_no_success() -> None:
    """A form whose margins are too low by what it may be off: norms are as without it."""
    known = linear("L2", 3)
    plain = Adapter(known.model, 3)

    def lowered(images: torch.Tensor) -> torch.Tensor:
        logits = known.model(images)
        own = torch.nn.functional.one_hot(known_labels(images), 3)
        return logits + 0.01 * logits.abs().amax(1, keepdim=True) * own

    def known_labels(images: torch.Tensor) -> torch.Tensor:
        apart = (images.flatten(1)[:, None] - known.images.flatten(1)[None]).square().sum(2)
        return known.labels[apart.argmin(1)]

    counted = Counted(plain, len(known.images), fast=Adapter(Function(lowered), 3))
    found = smallest(counted, known.images, known.labels, threat_of("L2", 1))
    assert known.ratios(found).max() < 1.05
