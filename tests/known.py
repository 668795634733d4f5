"""Models whose smallest perturbations are known in closed form, and what several tests ask of
attacks on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robusteval.attacks.losses import logit_margin
from robusteval.attacks.steps import norms
from robusteval.models.heads import prototype_distances
from robusteval.types import Norm, ThreatModel, parse_eps


class Function(nn.Module):
    """A module of a plain function of images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


class Misleading(torch.autograd.Function):
    """The identity, with the gradient turned round."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


@dataclass(frozen=True)
class Known:
    """A model, images and their labels, and the norm (B,) at which each breaks."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    smallest: Tensor
    norm: Norm

    def ratios(self, found: Tensor) -> Tensor:
        """Norms found, in units of the smallest there are: (B,)."""
        lengths = norms(found.double() - self.images.double(), self.norm)
        return lengths / self.smallest.double()


def linear(norm: Norm, classes: int, count: int = 60) -> Known:
    """The distance to the nearest hyperplane between two classes, in the dual norm."""
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn((classes, 64), generator=generator)
    offset = -weight.sum(1) / 2
    model, images = Function(lambda x: x.flatten(1) @ weight.T + offset), images_near_grey(count)
    logits = model(images)
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = weight[labels][:, None] - weight[None]
    dual = slopes.abs().sum(2) if norm == "Linf" else slopes.norm(dim=2)
    known = (gaps / dual).scatter(1, labels[:, None], torch.inf).amin(1)
    return Known(model, images, labels, known, norm)


def nearest_prototypes(count: int = 80) -> Known:
    """Of pixels: max over own prototypes, min over others (Voráček and Hein 2022), in L2."""
    generator = torch.Generator().manual_seed(0)
    prototypes = 0.3 + 0.4 * torch.rand((4, 1, 64), generator=generator)
    model = Function(lambda x: -prototype_distances(x.flatten(1), prototypes, "sql2").amin(2))
    images = images_near_grey(count)
    squared = prototype_distances(images.flatten(1), prototypes, "sql2")[:, :, 0]
    labels = squared.argmin(1)
    apart = (prototypes[labels, 0][:, None] - prototypes[None, :, 0]).norm(dim=2)
    known = (squared - squared.gather(1, labels[:, None])) / (2 * apart)
    known = known.scatter(1, labels[:, None], torch.inf).amin(1)
    return Known(model, images, labels, known, "L2")


def images_near_grey(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Far from black and white, so that the range cuts nothing."""
    generator = torch.Generator().manual_seed(seed)
    return 0.45 + 0.1 * torch.rand((count, *shape), generator=generator)


def threat_of(norm: Norm, radius: float) -> ThreatModel:
    """Of a measured radius."""
    return ThreatModel(norm, parse_eps(f"{radius:.9f}"))


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Above zero where the model is fooled: (B,)."""
    with torch.no_grad():
        return logit_margin(model(images), labels)
