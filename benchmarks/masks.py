"""Layers that hide a model's gradients and change no class, and models of the zoo behind them.

A name such as ``ce_at_digits+detached_1`` means the entry's model behind the mask.  Its argmax is
the entry's own wherever float32 keeps logits apart, so that it cannot be more robust; only
``rounded`` reads other pixels, and may be.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.models.adapter import Adapter
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry

_SIGN = "+"  # between an entry and its mask
Function = Callable[[Tensor], Tensor]


class Copy(nn.Module):
    """A function of images around modules."""

    def __init__(self, function: Function, *inside: nn.Module) -> None:
        super().__init__()
        self.function, self.inside = function, nn.ModuleList(inside)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def detached(model: nn.Module, gap: float) -> Copy:
    """Without a gradient where the two largest logits are closer than ``gap``."""

    def logits(images: Tensor) -> Tensor:
        found = model(images)
        first, second = found.topk(2, dim=1).values.T
        return torch.where((first - second < gap)[:, None], found.detach(), found)

    return Copy(logits, model)


def squashed(model: nn.Module, squash: Function) -> Copy:
    """With its logits squashed."""
    return Copy(lambda images: squash(model(images)), model)


def rounded(model: nn.Module, levels: int, straight: bool = False) -> Copy:
    """On pixels of so many levels, by rounding, with or without its gradient passed on."""

    def logits(images: Tensor) -> Tensor:
        near = ((levels - 1) * images).round() / (levels - 1)
        found: Tensor = model(near.detach() + images - images.detach() if straight else near)
        return found

    return Copy(logits, model)


def waves(size: int) -> Tensor:
    """The orthonormal cosines of DCT-II (size, size), one in each row."""
    places = torch.arange(size, dtype=torch.float64)
    found = torch.cos(torch.pi / size * (places + 0.5) * places[:, None])
    found[0] /= 2**0.5
    return ((2 / size) ** 0.5 * found).float()


def compressed(model: nn.Module, step: float, straight: bool = False) -> Copy:
    """On images whose blocks of 8 by 8 pixels are rounded as JPEG rounds them: their cosine
    coefficients, to multiples of ``step``, with or without the gradient passed on."""
    cosines = waves(8)

    def logits(images: Tensor) -> Tensor:
        blocks = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, C, rows, columns, 8, 8)
        known = cosines @ blocks @ cosines.T / step
        near = known.round()
        near = step * (near.detach() + known - known.detach() if straight else near)
        blocks = cosines.T @ near @ cosines
        found: Tensor = model(blocks.transpose(3, 4).reshape(images.shape).clamp(0, 1))
        return found

    return Copy(logits, model)


def vote(members: list[nn.Module]) -> Copy:
    """How many members name each class."""

    def votes(images: Tensor) -> Tensor:
        named = [member(images) for member in members]
        return sum(F.one_hot(one.argmax(1), one.shape[1]).float() for one in named)  # type: ignore[return-value]

    return Copy(votes, *members)


def mean(members: list[nn.Module]) -> Copy:
    """The mean of what members return."""
    return Copy(lambda images: torch.stack([m(images) for m in members]).mean(0), *members)


SQUASHES: dict[str, Function] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "tanh of a tenth": lambda logits: (logits / 10).tanh(),  # which float32 makes no ties of
    "softmax": lambda logits: logits.softmax(1),
    "softmax of 1,000 times the logits": lambda logits: (1000 * logits).softmax(1),
    "arctan": torch.atan,
    "softsign": F.softsign,
}
MASKS: dict[str, Callable[[nn.Module], Copy]] = {
    "detached_0.3": partial(detached, gap=0.3),
    "detached_1": partial(detached, gap=1.0),
    "detached_2": partial(detached, gap=2.0),
    "sigmoid": partial(squashed, squash=torch.sigmoid),
    "tanh": partial(squashed, squash=torch.tanh),
    "rounded": partial(rounded, levels=16),
}


def is_copy(name: str) -> bool:
    """Whether it names a model behind a mask."""
    return _SIGN in name


def base(name: str) -> str:
    """The name of the entry behind a name, masked or not."""
    return name.partition(_SIGN)[0]


def of_entry(name: str) -> Entry:
    """The entry behind a name, masked or not."""
    return find_entry(base(name))


def loaded(name: str, device: str = "cpu") -> Adapter:
    """The model of a name, masked or not."""
    model = load_model(of_entry(name), device)
    _, masked, mask = name.partition(_SIGN)
    return Adapter(MASKS[mask](model).eval(), model.classes) if masked else model
