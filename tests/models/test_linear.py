"""The linear layer behind features: exactly the model's logits, up to a constant of each sample."""

from typing import Any

import pytest
import torch
from torch import nn

from robusteval import wrap_module
from robusteval.attacks.counting import Counted
from robusteval.data.datasets import Dataset
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from tests.helpers.known import pixel_prototypes

IMAGES = torch.rand(20, 1, 2, 3, generator=torch.Generator().manual_seed(0))
PROTOTYPES = torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(1))


def off_by(model: Adapter, images: torch.Tensor) -> torch.Tensor:
    """(B, K) What the linear layer says, less the model's logits and less the mean of that."""
    head = model.linear_head()
    assert head is not None
    features, logits = model.embed_and_logits(images)
    apart = features @ head.weight.T + head.bias - logits
    return apart - apart.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("similarity", "pooling", "per_class"),
    [("sql2", "max", 1), ("sql2", "logsumexp", 1), ("sql2", "mean", 3), ("dot", "max", 1)],
)
def test_prototypes_that_classify_linearly(similarity: Any, pooling: Any, per_class: int) -> None:
    model = pixel_prototypes(PROTOTYPES[:, :per_class], similarity=similarity, pooling=pooling)
    assert off_by(model, IMAGES).abs().max() < 1e-5
    head = model.linear_head()
    assert head is not None
    features, logits = model.embed_and_logits(IMAGES)
    assert head.logits(features).numpy() == pytest.approx(logits.double().numpy(), abs=1e-5)
    assert model.parts.linear_head


@pytest.mark.parametrize(
    ("similarity", "pooling", "per_class"),
    [("cosine", "max", 1), ("l2", "max", 1), ("sql2", "max", 3), ("sql2", "softmax", 2)],
)
def test_prototypes_that_do_not(similarity: Any, pooling: Any, per_class: int) -> None:
    model = pixel_prototypes(PROTOTYPES[:, :per_class], similarity=similarity, pooling=pooling)
    assert model.linear_head() is None
    assert not model.parts.linear_head


@pytest.mark.parametrize("name", ["ce_digits", "pcl_digits", "gcpl_digits"])
def test_the_zoos(name: str, digits: Dataset) -> None:
    model = load_model(find_entry(name), "cpu")
    assert off_by(model, digits.images(slice(0, 40))).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["ce_digits", "pcl_digits", "gcpl_digits", "scpl_digits"])
def test_one_pass_gives_what_several_do(name: str, digits: Dataset) -> None:
    """To the bit."""
    model, images = load_model(find_entry(name), "cpu"), digits.images(slice(0, 40))
    features, logits = model.embed_and_logits(images)
    assert torch.equal(features, model.embed(images))
    assert torch.equal(logits, model(images))
    squared = model.squared_of(features)
    assert (squared is None) == (not model.layers)
    if squared is not None:
        assert torch.equal(squared, model.logits_and_distances(images)[1][model.layers[-1]])


def test_a_plain_modules_features_are_its_logits() -> None:
    plain = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), classes=3)
    features, logits = plain.embed_and_logits(IMAGES)
    assert torch.equal(features, logits)
    assert plain.linear_head() is None
    assert plain.squared_of(features) is None
    assert plain.activations(IMAGES) == {}


def test_prototypes_beside_a_module_say_nothing_of_its_layer() -> None:
    """Its logits come of whatever it does."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4))
    own = wrap_module(module, prototypes=PROTOTYPES, features="1")
    assert own.linear_head() is None
    features, logits = own.embed_and_logits(IMAGES)
    assert torch.equal(features, own.embed(IMAGES))
    assert torch.equal(logits, own(IMAGES))


def test_counted_passes_are_counted_once(pcl_digits: Adapter, digits: Dataset) -> None:
    images = digits.images(slice(0, 5)).requires_grad_()
    counted = Counted(pcl_digits, len(images))
    features, logits = counted.embed_and_logits(images)
    (features.sum() + logits.sum()).backward()  # type: ignore[no-untyped-call]
    assert counted.forward_passes.tolist() == counted.backward_passes.tolist() == [1] * 5
    assert counted.compares_directions == pcl_digits.compares_directions
    assert counted.has_features
    assert torch.equal(counted.squared_of(features), pcl_digits.squared_of(features))  # type: ignore[arg-type]
