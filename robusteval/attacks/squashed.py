"""Outputs that a monotone function squashes: recognised by what it does, and seen through.

Sigmoids, tanh and softmax keep the order of logits, so that the model is no more robust; but
margins of what they return saturate, and their slopes vanish.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robusteval.attacks.steps import input_gradient
from robusteval.models.adapter import Adapter
from robusteval.models.linear import LinearHead

_ENDS, _AT_ENDS = 0.05, 0.2  # of the range, and the share of outputs there that looks squashed
_SUM = 1e-3  # by which probabilities may miss 1
_CLASSES, _SAMPLES = 8, 16  # whose gradients are looked at
_KNOWN = 0.25  # of them that must be neither at an end nor without a gradient
_SPREAD = 0.75  # of the logarithm of what is left to the ends: less squashes nothing
_FALLS = 0.75  # power of it by which gradients fall; those of cosines by 0.5
_APART = 0.5  # of the range from end to end that outputs span, if rounding put them at the ends
_TINY = 1e-46  # below float32's smallest number above zero


Squashing = Literal["softmax", "sigmoid", "tanh", "ends"]


@dataclass(frozen=True)
class Squash:
    """How outputs lie: its ``name``, ``told`` in words, and the way back to logits (B, K), if it is
    known."""

    name: Squashing
    told: str
    inverse: Callable[[Tensor], Tensor] | None


def _log(outputs: Tensor) -> Tensor:
    return outputs.double().clamp_min(_TINY).log().to(outputs.dtype)


def _logit(outputs: Tensor, low: float) -> Tensor:
    """Of outputs between ``low`` and 1; what float32 rounds to an end stays a tie there."""
    share = (outputs.double() - low) / (1 - low)
    share = share.clamp(_TINY if low == 0 else 1e-9, 1 - 1e-9)
    return (share.log() - torch.log1p(-share)).to(outputs.dtype)


SOFTMAX = Squash("softmax", "they are probabilities", _log)
SIGMOID = Squash("sigmoid", "between 0 and 1, as by a sigmoid", lambda o: _logit(o, 0.0))
TANH = Squash("tanh", "between -1 and 1, as by tanh", lambda o: _logit(o, -1.0))


def kind_of_squash(outputs: Tensor) -> Squash | None:
    """What outputs (B, K) look like by their values; gradients have the last word on all but
    probabilities."""
    values = outputs.double()
    low, high = float(values.min()), float(values.max())
    if low >= 0 and bool(((values.sum(1) - 1).abs() < _SUM).all()):
        return SOFTMAX
    if low >= 0 and high <= 1:
        return SIGMOID
    if low >= -1 and high <= 1:
        return TANH
    ends = _ENDS * (high - low)
    near = ((values < low + ends) | (values > high - ends)).double().mean()
    if float(near) < _AT_ENDS:
        return None
    return Squash("ends", f"many lie at the ends of {low:.3g} to {high:.3g}", None)


def squash_of(model: Adapter, images: Tensor, outputs: Tensor) -> Squash | None:
    """How a model's ``outputs`` (B, K) for ``images`` are squashed, if they are.

    Each output's gradient falls towards the ends of their range, in proportion to what is left to
    them (or faster): s′ = s (1 − s) of a sigmoid, and 1 − s² of tanh.
    """
    found = kind_of_squash(outputs)
    if found is None or found is SOFTMAX:
        return found
    low, high = float(outputs.min()), float(outputs.max())
    apart = high - low
    if found.inverse is not None:
        low, high = (0.0 if found is SIGMOID else -1.0), 1.0
    left, slopes = _slopes(model, images[:_SAMPLES], low, high)
    rounded = found.inverse is not None and float((left <= 0).double().mean()) > 0.5
    if rounded and apart > _APART * (high - low):  # a tie at zero lies at an end, too
        return found  # float32 has rounded most to an end
    return found if _falls(left, slopes) else None


def _falls(left: Tensor, slopes: Tensor) -> bool:
    """Whether gradients (N, K) of several outputs each fall with what is ``left`` (N, K) to the
    ends."""
    known = (left > 0) & (slopes > 0)
    if known.double().mean() < _KNOWN:
        return False
    x, y = (torch.where(known, values, 1.0).log() for values in (left, slopes))
    count = known.sum(0).clamp_min(1)
    x, y = (torch.where(known, v - (known * v).sum(0) / count, 0.0) for v in (x, y))
    spread = (x.square().sum() / known.sum()).sqrt()
    return float(spread) >= _SPREAD and float((x * y).sum() / x.square().sum()) > _FALLS


def _slopes(model: Adapter, images: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Of some outputs what is left to both ends, multiplied, and their gradients' norms, (N, K)."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = model(leaf)[:, :_CLASSES]
    norms = [
        input_gradient(one, leaf, keep=True).double().flatten(1).norm(dim=1) for one in outputs.T
    ]
    values = outputs.detach().double()
    return (values - low) * (high - values), torch.stack(norms, 1)


class Unsquashed(Adapter):
    """A model whose outputs are led back to logits of the same order."""

    def __init__(self, model: Adapter, inverse: Callable[[Tensor], Tensor]) -> None:
        nn.Module.__init__(self)
        self.model, self.classes, self.inverse = model, model.classes, inverse
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.inverse(self.model(images))

    @property
    def layers(self) -> tuple[str, ...]:
        return self.model.layers

    @property
    def prototypes_per_class(self) -> int:
        return self.model.prototypes_per_class

    def class_distances(self) -> Tensor | None:
        return self.model.class_distances()

    @property
    def has_features(self) -> bool:
        return self.model.has_features

    def linear_head(self) -> LinearHead | None:
        return self.model.linear_head()

    @property
    def compares_directions(self) -> bool:
        return self.model.compares_directions

    def squared_of(self, features: Tensor) -> Tensor | None:
        return self.model.squared_of(features)

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.activations(images)

    def prototype_vectors(self) -> dict[str, Tensor]:
        return self.model.prototype_vectors()

    def embed_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.model.embed_and_logits(images)
        return features, self.inverse(logits)

    def embed(self, images: Tensor) -> Tensor:
        return self.model.embed(images)

    def distances(self, images: Tensor) -> Tensor:
        return self.model.distances(images)

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, squared = self.model.logits_and_distances(images)
        return self.inverse(logits), squared
