"""Models whose smallest perturbations are known in closed form, and what several tests ask of
attacks on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor, nn

from robusteval.attacks.losses import logit_margin
from robusteval.attacks.steps import norms
from robusteval.models.adapter import PrototypeAdapter
from robusteval.models.backbones import Backbone
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
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


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).eval()


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


class Pixels(Backbone):
    """The identity: features are the pixels themselves."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channels = {"pixels": dim}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"pixels": images.flatten(1)}


def pixel_prototypes(prototypes: Tensor, **head: Any) -> PrototypeAdapter:
    """The nearest of prototypes (K, M, D) in pixels decides, and the adapter knows of them."""
    classes, per_class, dim = prototypes.shape
    config = Head(
        reading="nearest_prototype", layers=["pixels"], prototypes_per_class=per_class, **head
    )
    network = PrototypeNetwork(Pixels(dim), config, classes, [0.0], [1.0])
    network.prototypes["pixels"].data.copy_(prototypes)
    return PrototypeAdapter(network)


def nearest_prototypes(norm: Norm = "L2", per_class: int = 1, count: int = 40) -> Known:
    """Of pixels: min over others' prototypes of the distance to where it is nearer than any own
    one (Voráček and Hein 2022): an intersection of half-spaces, one for each own prototype."""
    generator = torch.Generator().manual_seed(per_class - 1)
    prototypes = 0.3 + 0.4 * torch.rand((4, per_class, 64), generator=generator)
    model, images = pixel_prototypes(prototypes), images_near_grey(count)
    labels = model(images).argmax(1)
    into = {"L2": _shortest_into, "Linf": _flattest_into}[norm]
    known = []
    for image, label in zip(images.double().flatten(1).numpy(), labels, strict=True):
        own = prototypes[label].double().numpy()
        others = np.delete(prototypes.double().numpy(), int(label), axis=0).reshape(-1, 64)
        lengths = []
        for other in others:  # |x + d − other|² <= |x + d − own|² for each own one
            slopes = 2 * (other - own)
            lengths.append(into(slopes, (other**2).sum() - (own**2).sum(1) - slopes @ image))
        known.append(min(lengths))
    return Known(model, images, labels, torch.tensor(known, dtype=torch.float32), norm)


def _shortest_into(slopes: Any, least: Any) -> float:
    """The L2 norm of the shortest d with slopes · d >= least (Lawson and Hanson 1974, LDP)."""
    stacked = np.vstack([slopes.T, least[None]])
    wanted = np.zeros(len(stacked))
    wanted[-1] = 1
    solved, _ = nnls(stacked, wanted)
    residual = stacked @ solved - wanted
    return float(np.linalg.norm(residual[:-1] / residual[-1]))


def _flattest_into(slopes: Any, least: Any) -> float:
    """The L∞ norm of the smallest such d, by linear programming over (d, its norm)."""
    pixels = slopes.shape[1]
    eye, ones = np.eye(pixels), np.ones((pixels, 1))
    below = np.vstack(
        [
            np.hstack([-slopes, np.zeros((len(slopes), 1))]),
            np.hstack([eye, -ones]),
            np.hstack([-eye, -ones]),
        ]
    )
    bound = np.concatenate([-least, np.zeros(2 * pixels)])
    cost = np.append(np.zeros(pixels), 1)
    return float(linprog(cost, below, bound, bounds=(None, None)).fun)


def images_near_grey(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> Tensor:
    """Far from black and white, so that the range cuts nothing."""
    generator = torch.Generator().manual_seed(seed)
    return 0.45 + 0.1 * torch.rand((count, *shape), generator=generator)


def in_threat(found: Tensor, images: Tensor, threat: ThreatModel) -> None:
    assert found.min() >= 0
    assert found.max() <= 1
    assert norms(found.double() - images.double(), threat.norm).max() <= threat.radius + 1e-6


def threat_of(norm: Norm, radius: float) -> ThreatModel:
    """Of a measured radius."""
    return ThreatModel(norm, parse_eps(f"{radius:.9f}"))


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Above zero where the model is fooled: (B,)."""
    with torch.no_grad():
        return logit_margin(model(images), labels)
