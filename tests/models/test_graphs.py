"""Replayed passes: the same function and gradients, whatever order a caller takes them in.

CUDA graphs themselves are tested in test_cuda.py; here a recording is played that writes over its
outputs, as they do, and remembers one forward pass only.
"""

import copy

import pytest
import torch
from torch import Tensor

from robusteval.models.acceleration import Acceleration, accelerated
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.backbones import resnet_small
from robusteval.models.graphs import Function, GraphedAdapter, Recorded
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork

SIZES = (4, 8)


class Played:
    """A recording without an accelerator."""

    def __init__(self, function: Function, images: Tensor) -> None:
        self.function, self.images, self.replays = function, images.clone(), 0
        with torch.no_grad():
            self.outputs = tuple(torch.full_like(v, torch.nan) for v in function(self.images))

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.images[: len(images)] = images
        for mine, now in zip(self.outputs, self.function(self.images), strict=True):
            mine.copy_(now)
        self.replays += 1
        return self.outputs

    def backward(self, slopes: tuple[Tensor | None, ...]) -> Tensor:
        full = [torch.zeros_like(values) for values in self.outputs]
        for mine, given in zip(full, slopes, strict=True):
            if given is not None:
                mine[: len(given)] = given
        with torch.enable_grad():
            at = self.images.clone().requires_grad_()
            (found,) = torch.autograd.grad(self.function(at), at, full)
        return found


@pytest.fixture(scope="module")
def model() -> PrototypeAdapter:
    torch.manual_seed(0)
    backbone = resnet_small(3, widths=(4, 8, 8), stem=4, embedding=6)
    head = Head(reading="nearest_prototype", layers=["stage2", "fc"], prototypes_per_class=2)
    return PrototypeAdapter(PrototypeNetwork(backbone, head, 3, [0.4] * 3, [0.3] * 3))


@pytest.fixture
def replayed(model: PrototypeAdapter) -> GraphedAdapter:
    return GraphedAdapter(copy.deepcopy(model.module), SIZES, Played)


def images_of(count: int, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def loss(model: Adapter, images: Tensor) -> Tensor:
    """Reads logits and every layer's distances."""
    logits, squared = model.logits_and_distances(images)
    return logits.square().sum() + sum(d.sqrt().sum() for d in squared.values())


def slope(model: Adapter, images: Tensor) -> Tensor:
    at = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(model, at), at)
    return found


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9, 20])
def test_any_number_of_images(
    model: PrototypeAdapter, replayed: GraphedAdapter, count: int
) -> None:
    """Fewer than the smallest size, between sizes, more than the largest: several parts, whose
    forward passes all come before the first backward one."""
    images = images_of(count)
    with torch.no_grad():
        torch.testing.assert_close(replayed(images), model(images))
        (logits, squared), (expected, distances) = (
            m.logits_and_distances(images) for m in (replayed, model)
        )
    torch.testing.assert_close(logits, expected)
    assert list(squared) == list(distances)
    for layer in squared:
        torch.testing.assert_close(squared[layer], distances[layer])
    torch.testing.assert_close(slope(replayed, images), slope(model, images))
    assert {size for _, (size, *_) in replayed._recordings} <= set(SIZES)


def test_a_batch_takes_the_smallest_recording_that_holds_it(replayed: GraphedAdapter) -> None:
    for count, size in ((2, 4), (6, 8)):
        replayed(images_of(count))
        assert (False, (size, 3, 8, 8)) in replayed._recordings
    assert len(replayed._recordings) == 2


def test_outputs_are_the_callers_own(replayed: GraphedAdapter) -> None:
    first = replayed(images_of(4))
    before = first.clone()
    replayed(images_of(4, 1))
    assert torch.equal(first, before)


def test_going_back_after_another_forward_pass(
    model: PrototypeAdapter, replayed: GraphedAdapter
) -> None:
    """And the wrong way round: the recording goes to the images again first."""
    points = [images_of(4, seed).requires_grad_() for seed in range(3)]
    sums = [loss(replayed, at) for at in points]
    for at, total in list(zip(points, sums, strict=True))[::-1]:
        (found,) = torch.autograd.grad(total, at)
        torch.testing.assert_close(found, slope(model, at.detach()))


def test_going_back_once_for_each_class(model: PrototypeAdapter, replayed: GraphedAdapter) -> None:
    """As DeepFool and FAB do."""
    jacobians = []
    for form in (model, replayed):
        at = images_of(5).requires_grad_()
        logits = form(at)
        rows = [torch.autograd.grad(logits[:, k].sum(), at, retain_graph=True)[0] for k in range(3)]
        jacobians.append(torch.stack(rows))
    torch.testing.assert_close(*jacobians)


def test_gradients_of_logits_alone(model: PrototypeAdapter, replayed: GraphedAdapter) -> None:
    """Distances that no loss reads have no slope."""
    found = []
    for form in (model, replayed):
        at = images_of(6).requires_grad_()
        logits, _ = form.logits_and_distances(at)
        found.append(torch.autograd.grad(logits[:, 0].sum(), at)[0])
    torch.testing.assert_close(*found)


def test_where_recording_fails_it_computes_without(model: PrototypeAdapter) -> None:
    def fails(function: Function, images: Tensor) -> Played:
        raise RuntimeError("operation not permitted when stream is capturing")

    without = GraphedAdapter(copy.deepcopy(model.module), SIZES, fails)
    images = images_of(20)
    torch.testing.assert_close(slope(without, images), slope(model, images))
    assert without.sizes == ()


def test_nothing_is_recorded_on_a_processor(model: PrototypeAdapter) -> None:
    """Where a run that was begun on an accelerator is verified."""
    with pytest.raises(RuntimeError, match="only an accelerator"):
        Recorded(lambda x: (x,), images_of(2))
    form = accelerated(model, Acceleration(graphed=True))
    images = images_of(3)
    torch.testing.assert_close(form(images), model(images), rtol=1e-4, atol=1e-4)
    assert isinstance(form, GraphedAdapter)
    assert form.sizes == ()
