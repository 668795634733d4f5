"""Models of the zoo behind layers that hide their gradients and change no class.

A name such as ``ce_at_digits+detached_1`` means the entry's model behind the mask.  Its argmax is
the entry's own wherever float32 keeps logits apart, so that it cannot be more robust; only
``rounded`` reads other pixels, and may be.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robusteval.models.adapter import Adapter
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry


class _Masked(nn.Module):
    def __init__(self, model: nn.Module, mask: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, images: Tensor) -> Tensor:
        return self.mask(self.model, images)


def _detached(least: float) -> Callable[[nn.Module, Tensor], Tensor]:
    """No gradient where the two largest logits are nearer than ``least``."""

    def mask(model: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        top = logits.detach().topk(2, 1).values
        near = (top[:, 0] - top[:, 1] < least)[:, None]
        return torch.where(near, logits.detach(), logits)

    return mask


def _squashed(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda model, images: function(model(images))


def _rounded(model: nn.Module, images: Tensor) -> Tensor:
    """Pixels of 16 levels, whose slope is zero everywhere."""
    logits: Tensor = model((15 * images).round() / 15)
    return logits


MASKS = {
    "detached_0.3": _detached(0.3),
    "detached_1": _detached(1.0),
    "detached_2": _detached(2.0),
    "sigmoid": _squashed(torch.sigmoid),
    "tanh": _squashed(torch.tanh),
    "rounded": _rounded,
}


def of_entry(name: str) -> Entry:
    """The entry behind a name, masked or not."""
    return find_entry(name.partition("+")[0])


def loaded(name: str, device: str = "cpu") -> Adapter:
    """The model of a name, masked or not."""
    model = load_model(of_entry(name), device)
    _, masked, mask = name.partition("+")
    return Adapter(_Masked(model, MASKS[mask]).eval(), model.classes) if masked else model
