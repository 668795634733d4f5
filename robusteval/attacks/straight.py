"""Gradients where a model stops them: its forward pass, read so that they pass straight through.

BPDA (Athalye et al. 2018, "Obfuscated Gradients Give a False Sense of Security") replaces an
operation without a useful slope by the identity, in the backward pass alone.  Here such operations
are found while the model computes: rounding, comparing, casting to whole numbers, ``detach`` and
``no_grad``, and whatever leaves torch and comes back as an image.  On the way the model's inner
logits are found, too: those in front of a function that squashes or votes.  No weight is touched,
and no word on success is ever taken from it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robusteval.models.adapter import Adapter

_CUTS = {"detach", "detach_"}
_STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside"}
_DIVISIONS = {"floor_divide", "__floordiv__"}
_ABOVE, _BELOW = {"gt", "ge", "greater", "greater_equal"}, {"lt", "le", "less", "less_equal"}
_WHOLE = {"int", "long", "short", "byte", "char"}
_CASTS = {"to", "type", "type_as", "float", "double", "half", "bfloat16"}
_SOFTENING = _CASTS | {"mul", "__rmul__"}  # what makes numbers of comparisons
_LEAVING = {"numpy", "__array__", "tolist"}
_ENTRIES = {"conv1d", "conv2d", "conv3d", "linear", "matmul", "__matmul__", "mm", "cdist"}


class Straight(TorchFunctionMode):
    """Within it what would stop the gradient of ``images`` (B, C, H, W) passes it on.

    ``logits``: tensors (B, K) that depend on the images, in the order in which they were made;
    ``behind``: of each the places of those that it was made of.  ``mended``: whether anything was
    replaced.  ``steps``: what pixels were turned into in steps, (B, ...), before the first layer of
    weights.
    """

    def __init__(self, images: Tensor, classes: int) -> None:
        super().__init__()
        self.images, self.shape = images, (len(images), classes)
        self.logits: list[Tensor] = []
        self.behind: list[frozenset[int]] = []
        self.steps: list[Tensor] = []
        self.mended = self._inside = False
        # What depends on which inner logits, by its id; kept, so that ids hold.
        self._after: dict[int, tuple[Tensor, frozenset[int]]] = {}
        self._soft: dict[int, tuple[Tensor, Tensor]] = {}  # comparisons, and what was compared

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found = self._computed(func, getattr(func, "__name__", ""), args, kwargs)
        for one in _tensors((found,)):
            self._note(one, args)
        return found

    def _computed(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        if name == "_set_grad_enabled":
            self.mended |= not args[0]
            return None
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if name in _CUTS or func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            self.mended |= bool(first is not None and first.requires_grad)
            return first
        if name in _LEAVING:
            return func(args[0].detach(), *args[1:], **kwargs)
        if name in _ABOVE | _BELOW:
            return self._compared(func, name, args)
        args = self._prepared(name, args)
        if first is not None and first.requires_grad:
            return self._stepped(func, name, args, kwargs)
        return self._cast_or_chosen(func, name, args, kwargs)

    def _prepared(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments with the slopes that they have lost."""
        if name in _ENTRIES and args and isinstance(args[0], Tensor):
            args = self._entered(args)
            self._inside = True
            return args
        return self._softened(args) if name in _SOFTENING else args

    def _stepped(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Of a first argument with a slope: steps keep it."""
        first = args[0]
        if name in _STEPS:
            return self._through(func(*args, **kwargs), first)
        if name in _DIVISIONS:
            return self._through(func(*args, **kwargs), first / args[1])
        if name.removesuffix("_") in _STEPS and name.endswith("_"):
            hard = getattr(torch, name.removesuffix("_"))(first.detach(), *args[1:])
            return first.copy_(self._through(hard, first.clone()))
        if name in _WHOLE or (name in _CASTS and _to_whole(args, kwargs)):
            return self._through(first.trunc(), first)  # stays of its type, for what comes next
        return self._cast_or_chosen(func, name, args, kwargs)

    def _cast_or_chosen(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        found = func(*args, **kwargs)
        if name == "where" and len(args) == 3 and id(args[0]) in self._soft:
            high, low = (v.detach() if isinstance(v, Tensor) else v for v in args[1:])
            soft = self._soft[id(args[0])][1] * (high - low)
            if isinstance(found, Tensor) and not found.requires_grad:
                return self._through(found, soft)
        return found

    def _compared(self, func: Any, name: str, args: tuple[Any, ...]) -> Any:
        found, (one, other) = func(*args), args[:2]
        if any(v.requires_grad for v in _tensors((one, other))):
            soft = one - other if name in _ABOVE else other - one
            self._soft[id(found)] = found, soft
        return found

    def _softened(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Comparisons among arguments as numbers that have a slope."""

        def soft(one: Any) -> Any:
            if id(one) not in self._soft:
                return one
            hard, compared = self._soft[id(one)]
            return self._through(hard.to(compared), compared)

        return tuple(soft(one) for one in args)

    def _entered(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What goes into a layer of weights without a slope, but is as large as the images: it was
        made of them outside of torch."""
        first = args[0]
        if any(one.grad_fn is not None for one in _tensors(args[:2])) or first.requires_grad:
            return args
        if first.numel() != self.images.numel() or len(first) != len(self.images):
            return args
        soft = self.images.reshape(first.shape).to(first)
        return (self._through(first, soft), *args[1:])

    def _through(self, hard: Tensor, soft: Tensor) -> Tensor:
        """The one's values with the other's slope."""
        self.mended = True
        found: Tensor = hard.detach().to(soft.dtype) + (soft - soft.detach())
        if not self._inside and soft.requires_grad and len(soft) == len(self.images):
            self.steps.append(found)
        return found

    def _note(self, found: Tensor, args: tuple[Any, ...]) -> None:
        if not found.requires_grad:
            return
        made_of = [self._after[id(one)][1] for one in _tensors(args) if id(one) in self._after]
        behind = frozenset[int]().union(*made_of)
        if found.shape == self.shape and found.is_floating_point():
            self.behind.append(behind)
            behind |= {len(self.logits)}
            self.logits.append(found)
        if behind:
            self._after[id(found)] = found, behind


def _to_whole(args: tuple[Any, ...], kwargs: Any) -> bool:
    """Whether a cast's arguments name a type of whole numbers."""
    named = [*args[1:], *kwargs.values()]
    kinds = [one.dtype if isinstance(one, Tensor) else one for one in named]
    return any(
        isinstance(kind, torch.dtype) and not kind.is_floating_point and kind is not torch.bool
        for kind in kinds
    )


def _tensors(values: tuple[Any, ...]) -> Iterator[Tensor]:
    """Those among values, and in lists of them."""
    for one in values:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from _tensors(tuple(one))


class ReadStraight(Adapter):
    """A model whose gradients pass straight through what stops them.

    ``members``: the places among its inner logits whose mean takes the place of its outputs, each
    over its scale; none where these are read themselves.  ``stepped``: whether it was seen to read
    pixels in steps.
    """

    def __init__(
        self,
        model: Adapter,
        members: tuple[tuple[int, float], ...] = (),
        stepped: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.model, self.classes, self.members = model, model.classes, members
        self.stepped = stepped
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(*self.read(images, self.model))

    def outputs(self, reading: Straight, logits: Tensor) -> Tensor:
        """The model's logits (B, K), or what takes their place."""
        if not self.members or any(place >= len(reading.logits) for place, _ in self.members):
            return logits
        given = [reading.logits[at] / scale for at, scale in self.members]
        return torch.stack(given).mean(0)

    def inside(self, images: Tensor) -> Tensor:
        """What takes the outputs' place (B, K), also where no gradient is asked for."""
        leaf = images if images.requires_grad else images.detach().clone().requires_grad_()
        with torch.enable_grad():
            found: Tensor = self(leaf)
        return found if images.requires_grad and torch.is_grad_enabled() else found.detach()

    def read(self, images: Tensor, function: Callable[[Tensor], Any]) -> tuple[Straight, Any]:
        """What a function of the images gives, and what was seen on the way."""
        with Straight(images, self.classes) as reading:
            return reading, function(images)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.model.layers

    @property
    def reads_distances(self) -> bool:
        return self.model.reads_distances

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found: tuple[Tensor, dict[str, Tensor]]
        _, found = self.read(images, self.model.logits_and_distances)
        return found
