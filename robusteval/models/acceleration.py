"""The same model, faster: batch norm folded into convolutions, channels-last, bfloat16, compiled,
and on an accelerator replayed as CUDA graphs.

What is fast finds adversarial images; what counts is decided by the plain float32 model alone.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robusteval.hardware import best_seconds, compile_any_number
from robusteval.models.adapter import Adapter, OwnAdapter, PrototypeAdapter
from robusteval.models.graphs import GraphedAdapter

# A folded model's logits may differ by this share of their size: float32 rounding, no more.
_TOLERANCE = 1e-3
_ALIKE = 0.9  # a cosine, and a share of samples: bfloat16 rounds, and near-ties turn
# Compiling takes some ten seconds a shape on a processor, and longer for deep networks.
_COMPILE_SECONDS = 15.0
_MOST_SAVED = {"cpu": 0.25, "cuda": 0.5}  # of a step's time; on processors 4 to 10 % were seen
_STATIC_BATCH = {"cpu": 128, "cuda": 512}
# Values of images that a processor takes at once: 32 of 3×224×224, which a ResNet-18 goes back
# through in 1 GiB.
_VALUES_AT_ONCE = 32 * 3 * 224 * 224
_FEWEST_AT_ONCE = 16
_PROBE_PIXELS = 3 * 16 * 16  # smaller images: a probe would cost more than it finds


def static_batch(device: str | torch.device = "cpu", values: int = 1) -> int:
    """Images of so many values that a model takes at once: on a processor 64 or 128 are best, by
    machine, and fewer of large ones, for the memory's sake; on an accelerator fewer leave it idle.
    A compiled model takes no other number."""
    kind = torch.device(device).type
    most = _STATIC_BATCH.get(kind, 128)
    return min(most, max(_FEWEST_AT_ONCE, _VALUES_AT_ONCE // values)) if kind == "cpu" else most


@dataclass(frozen=True)
class Acceleration:
    """How a form of a model computes.  ``fold``: folded batch norm, and channels-last.
    ``graphed``: by CUDA graphs, which only a network whose parts are known is recorded as."""

    fold: bool = True
    bfloat16: bool = False
    compiled: bool = False
    graphed: bool = False

    def __str__(self) -> str:
        """Such as "float32", "float32 folded" or "bfloat16 folded compiled"."""
        words = ["bfloat16" if self.bfloat16 else "float32"]
        words += ["folded"] * self.fold + ["compiled"] * self.compiled
        return " ".join(words + ["graphed"] * self.graphed)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``str`` gave."""
        words = text.split()
        return cls(*(word in words for word in ("folded", "bfloat16", "compiled", "graphed")))


PLAIN = Acceleration(fold=False)
# What is tried besides: everywhere, and where passes can be recorded.
_ROUGH = Acceleration(bfloat16=True)
_GRAPHED = (Acceleration(graphed=True), Acceleration(bfloat16=True, graphed=True))


@dataclass(frozen=True)
class Forms:
    """The forms of one model: as it is, for libraries (float32), and for our own gradients."""

    plain: Adapter
    libraries: Adapter
    gradients: Adapter | None  # None: the plain one
    surrogate: Adapter | None = None  # of a user's, whose gradients ``adaptive`` follows

    @classmethod
    def of(cls, plain: Adapter, libraries: Acceleration, gradients: Acceleration) -> Self:
        """Copies of ``plain`` that compute as is said."""
        quick = accelerated(plain, libraries)
        if gradients == libraries:
            return cls(plain, quick, None if quick is plain else quick)
        rough = accelerated(plain, gradients)
        return cls(plain, quick, None if rough is plain else rough)


class _ChannelsLast(torch.autograd.Function):
    """Images to channels-last strides; their gradient comes back contiguous, as libraries need.

    Always to other memory: a module that works in place may not on what a function only passed on.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        found = images.contiguous(memory_format=torch.channels_last)
        return found.clone() if found.data_ptr() == images.data_ptr() else found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class Faster(nn.Module):
    """A module on images (B, C, H, W), run channels-last and, if asked for, in bfloat16.

    Compiled, it runs at one static batch size: a batch is cut into such parts, and what is left
    over is filled up, or runs uncompiled where less than half a part is left.
    """

    def __init__(self, module: nn.Module, bfloat16: bool, compiled: bool = False) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rough = bfloat16
        self.on_request: tuple[str, ...] = getattr(module, "on_request", ())  # a backbone's
        # In a tuple, so that its parameters, which are the module's, do not count twice.
        self.static: tuple[Any, ...] = (_compiled(module),) if compiled else ()

    def forward(self, images: Tensor, *wanted: str) -> Any:
        """``wanted``: what else the module is told."""
        moved = _ChannelsLast.apply(images)  # type: ignore[no-untyped-call]
        if not self.rough:
            return self._run(moved, *wanted)
        with torch.autocast(images.device.type, torch.bfloat16):
            return self._run(moved, *wanted)

    def _run(self, images: Tensor, *wanted: str) -> Any:
        if not self.static:
            return self.module(images, *wanted)
        size = static_batch(images.device, images.shape[1:].numel())
        parts = [self._part(part, size, *wanted) for part in images.split(size)]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _part(self, images: Tensor, size: int, *wanted: str) -> Any:
        count = len(images)
        if count < size / 2 or not self.static:
            return self.module(images, *wanted)
        filled = torch.cat([images, images[:1].detach().expand(size - count, -1, -1, -1)])
        try:
            filled = filled.contiguous(memory_format=torch.channels_last)
            found = self.static[0](filled, *wanted)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            self.static = ()  # no compiler here: a run that was begun elsewhere, say
            return self.module(images, *wanted)
        if isinstance(found, Tensor):
            return found[:count]
        return {name: values[:count] for name, values in found.items()}


def _compiled(module: nn.Module) -> Any:
    """``module`` compiled, for callers that may keep the graph after a backward pass.

    Buffers given away in the first backward pass would be missing in a second one, which
    DeepFool, FAB and others make.
    """
    import torch._functorch.config as functorch

    functorch.donated_buffer = False
    compile_any_number()
    return torch.compile(module, dynamic=False)


def folded(module: nn.Module) -> nn.Module:
    """A copy in which each batch norm that follows a convolution in a Sequential is part of it."""
    module = copy.deepcopy(module).eval()
    for inner in module.modules():
        if not isinstance(inner, nn.Sequential):
            continue
        names = list(inner._modules)
        for first, second in pairwise(names):
            conv, norm = inner._modules[first], inner._modules[second]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                inner._modules[first] = fuse_conv_bn_eval(conv, norm)
                inner._modules[second] = nn.Identity()
    return module.requires_grad_(False)


def accelerated(adapter: Adapter, how: Acceleration) -> Adapter:
    """A copy of ``adapter`` that computes faster; the original for ``PLAIN``."""
    if how == PLAIN:
        return adapter
    fast = copy.deepcopy(adapter)
    if isinstance(fast, PrototypeAdapter):
        backbone = Faster(folded(fast.module.backbone), how.bfloat16, how.compiled)
        fast.module.backbone = backbone  # type: ignore[assignment]
        if how.graphed:
            fast = GraphedAdapter(fast.module, _recorded_sizes(how))
    else:
        fast.module = Faster(folded(fast.module), how.bfloat16, how.compiled)
    return fast.requires_grad_(False).eval()


def _recorded_sizes(how: Acceleration) -> tuple[int, ...]:
    """A compiled model takes one size; otherwise few images needn't cost what many do."""
    largest = _STATIC_BATCH["cuda"]
    return (largest,) if how.compiled else (largest // 8, largest // 4, largest // 2, largest)


def folded_if_same(adapter: Adapter, images: Tensor) -> Adapter | None:
    """The folded, channels-last form in float32, where that is the same function on ``images``.

    None for a foreign kind of adapter, which may read its module by other names.
    """
    if type(adapter) is not Adapter and not isinstance(adapter, PrototypeAdapter):
        return None
    try:
        fast = accelerated(adapter, Acceleration())
        return fast if same_function(adapter, fast, images) else None
    except Exception:  # noqa: BLE001 - a foreign module that can't be copied or folded
        return None


def same_function(plain: Adapter, fast: Adapter, images: Tensor) -> bool:
    """Whether two adapters give equal logits on ``images``, up to float32 rounding, and equal
    distances to prototypes that stand beside a module: a layer that is folded into the one before
    may be where they are measured."""
    with torch.no_grad():
        pairs = [(plain(images), fast(images))]
        if isinstance(plain, OwnAdapter):
            pairs.append((plain.distances(images), fast.distances(images)))
    return all(_equal(first, second) for first, second in pairs)


def _equal(first: Tensor, second: Tensor) -> bool:
    scale = first.abs().amax().clamp_min(1e-12)
    return bool(torch.isfinite(second).all()) and float((first - second).abs().amax() / scale) <= (
        _TOLERANCE
    )


def _gradient(adapter: Adapter, images: Tensor) -> Tensor:
    """The largest logit's, zero where a model breaks the graph."""
    moved = images.clone().requires_grad_()
    largest = adapter(moved).amax(1).sum()
    if not largest.requires_grad:
        return torch.zeros_like(images)
    (found,) = torch.autograd.grad(largest, moved, allow_unused=True)
    return torch.zeros_like(images) if found is None else found


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Between the rows of two matrices (B, D), of whatever length: (B,), 0 for a row of zeros."""

    def scaled(rows: Tensor) -> Tensor:
        largest = rows.abs().amax(1, keepdim=True)
        return rows / torch.where(largest > 0, largest, 1.0)

    return torch.cosine_similarity(scaled(first), scaled(second))


def same_gradients(plain: Adapter, fast: Adapter, images: Tensor) -> bool:
    """Whether the largest logit's gradients point the same way, for all but a few of ``images``.

    A form whose gradients are wrong would make every attack on it weaker.
    """
    first, second = (_gradient(form, images).flatten(1).double() for form in (plain, fast))
    alike = cosines(first, second) > _ALIKE
    return float((alike | ~first.any(1)).double().mean()) > _ALIKE


def seconds_per_gradient(adapter: Adapter, images: Tensor) -> float:
    """A forward and a backward pass over ``images``."""
    return best_seconds(lambda: _gradient(adapter, images), str(images.device))


def are_worth_it(images: Tensor) -> bool:
    """Whether forms are tried on ``images`` (B, C, H, W) at all."""
    return images[0].numel() >= _PROBE_PIXELS


def choose_forms(
    adapter: Adapter,
    images: Tensor,
    passes: float,
    stopwatch: Callable[[Adapter, Tensor], float] = seconds_per_gradient,
) -> tuple[Acceleration, Acceleration]:
    """What computes soonest, for libraries (float32) and for gradients, by trying on ``images``.

    ``passes``: forward and backward passes of single images to come.  Folding is left out where
    it changes the function, and compiling where it fails or saves less than it costs.  Small
    images are left as they are.
    """
    if not are_worth_it(images):
        return PLAIN, PLAIN
    folded_one = folded_if_same(adapter, images)
    if folded_one is None:
        return PLAIN, PLAIN
    known = isinstance(adapter, PrototypeAdapter) and not isinstance(adapter, OwnAdapter)
    graphs = images.is_cuda and known  # a foreign module may wait for the processor
    try:
        seconds = {PLAIN: stopwatch(adapter, images)}
        seconds[Acceleration()] = stopwatch(folded_one, images)
        for how in (_ROUGH, *_GRAPHED) if graphs else (_ROUGH,):
            if (form := _form_if_alike(adapter, how, images)) is not None:
                seconds[how] = stopwatch(form, images)
    except Exception:  # noqa: BLE001 - no backward pass, or too little memory: attacks will tell
        return PLAIN, PLAIN
    libraries = min((how for how in seconds if not how.bfloat16), key=lambda how: seconds[how])
    gradients = min(seconds, key=lambda how: seconds[how])
    batches = passes / len(images)
    return tuple(  # type: ignore[return-value]
        _compiled_if_it_pays(adapter, images, how, batches, seconds[how], stopwatch)
        for how in (libraries, gradients)
    )


def _form_if_alike(adapter: Adapter, how: Acceleration, images: Tensor) -> Adapter | None:
    """That form, unless its gradients differ (distances by x² − 2xw + w² would cancel in bfloat16)
    or it fails."""
    try:
        form = accelerated(adapter, how)
        return form if same_gradients(adapter, form, images) else None
    except Exception:  # noqa: BLE001 - a foreign module that mixes precisions: torch raises many kinds
        return None


def _compiled_if_it_pays(
    adapter: Adapter,
    images: Tensor,
    how: Acceleration,
    batches: float,
    seconds: float,
    stopwatch: Callable[[Adapter, Tensor], float],
) -> Acceleration:
    most = _MOST_SAVED.get(images.device.type, 0.5)
    if how == PLAIN or batches * seconds * most < _COMPILE_SECONDS:
        return how
    compiled = replace(how, compiled=True)
    try:
        form = accelerated(adapter, compiled)
        saved = batches * (seconds - stopwatch(form, images))
        pays = saved > _COMPILE_SECONDS
        fine = pays and same_gradients(accelerated(adapter, how), form, images)
    except Exception:  # noqa: BLE001 - no compiler, or one that can't: torch raises many kinds
        return how
    return compiled if fine else how
