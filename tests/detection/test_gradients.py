"""Whether a detector passes its gradient on to the images, as its record says: an attack that knows
the detector goes by it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robusteval.detection.record import Detector
from robusteval.detection.registry import DETECTORS, find
from robusteval.models.adapter import PrototypeAdapter
from robusteval.models.backbones import Backbone
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from tests.helpers.detectors import record_of

STEP = 1e-6
CLASSES, DIM = 3, 6


class Smooth(Backbone):
    """A convolution and a linear layer, with a tangent behind each."""

    channels: Any = {"maps": 4, "features": DIM}  # noqa: RUF012 - as its siblings have it

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 9, DIM)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.first(images).tanh()
        return {"maps": maps, "features": 3 * self.last(maps.flatten(1)).tanh() + 1}


@pytest.fixture(scope="module")
def model() -> PrototypeAdapter:
    torch.manual_seed(0)
    head = Head(layers=["features"])
    network = PrototypeNetwork(Smooth(), head, CLASSES, [0.0], [1.0]).double()
    return PrototypeAdapter(network)


@pytest.fixture(scope="module")
def training(model: PrototypeAdapter) -> tuple[Tensor, Tensor]:
    """Images that the model puts into their classes."""
    images = torch.rand(300, 1, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    logits = model(images)
    labels = (logits - logits.mean(0)).argmax(1)
    model.module.classifier.bias.data -= logits.mean(0)  # type: ignore[union-attr]
    return images, labels


def state_of(detector: Detector, model: PrototypeAdapter, training: Any) -> dict[str, Tensor]:
    return detector.fit(model, [training[0]], training[1])


def slopes(
    detector: Detector, state: Any, model: PrototypeAdapter, image: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a score along a few directions: by the gradient, and by differences."""
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.score(state, model, leaf).sum(), leaf)
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(4, *image.shape[1:], generator=generator).double()
    with_step, without = (
        detector.score(state, model, image + sign * STEP * directions) for sign in (1, -1)
    )
    return (gradient * directions).flatten(1).sum(1), (with_step - without).double() / (2 * STEP)


@pytest.mark.parametrize("name", [d.name for d in DETECTORS.own() if d.gradient])
def test_a_gradient_is_what_differences_say(
    name: str, model: PrototypeAdapter, training: tuple[Tensor, Tensor]
) -> None:
    detector = find(name)
    state = state_of(detector, model, training)
    image = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(5)).double()
    by_gradient, by_differences = slopes(detector, state, model, image)
    assert by_gradient.abs().max() > 0
    scale = float(by_differences.abs().max())
    assert by_gradient.tolist() == pytest.approx(by_differences.tolist(), abs=2e-3 * scale)


def test_every_detector_says_so() -> None:
    """None of the project's own hides a score from its attacker."""
    assert [d.name for d in DETECTORS.own() if not d.gradient] == []


def detached(state: Any, model: Any, images: Tensor) -> Tensor:
    return images.detach().flatten(1).mean(1)


def test_what_detaches_passes_none(model: PrototypeAdapter) -> None:
    blind = record_of("blind", gradient=False, score_read=detached)
    leaf = torch.rand(2, 1, 5, 5).requires_grad_()
    assert not blind.score({}, model, leaf).requires_grad
