"""Whether weights fit a module, and a module its images."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from robusteval.errors import AttackError, RobustevalError, WeightsError, cut, reason


def require_logits(model: nn.Module, images: Tensor, classes: int, who: str) -> None:
    """Tries one image (1, C, H, W).  Raises AttackError unless it gives logits (1, K)."""
    try:
        with torch.no_grad(), redirect_stdout(sys.stderr):
            logits = model(images)
    except RobustevalError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        raise AttackError(
            f"{who} can't take one image of {_shape(images[0])} ({reason(error)}): "
            "choose data of the kind that it was made for"
        ) from None
    if not logits.is_floating_point():
        raise AttackError(f"{who} gives {logits.dtype}, attacks need logits in floating point")
    if tuple(logits.shape) != (1, classes):
        squeezed = ": leave its squeeze() out" if tuple(logits.shape) == (classes,) else ""
        raise AttackError(
            f"{who} gives shape {tuple(logits.shape)} for one image, attacks need logits "
            f"(1, {classes}){squeezed or ': let it return one row of logits for each image'}"
        )


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Loads weights.  Raises WeightsError that tells every kind of misfit, with shapes."""
    own = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    counters = {k for k in own if k.endswith("num_batches_tracked")}  # of no use in eval mode
    kinds = {
        "lack": [f"{k} ({_shape(own[k])})" for k in sorted(own.keys() - tensors.keys() - counters)],
        "hold unknown": [
            f"{k} ({_shape(tensors[k])})" for k in sorted(tensors.keys() - own.keys())
        ],
        "have other shapes in": [
            f"{k} ({_shape(tensors[k])} for {_shape(own[k])})"
            for k in sorted(own.keys() & tensors.keys())
            if tensors[k].shape != own[k].shape
        ],
    }
    if wrong := [f"{kind} {some(names)}" for kind, names in kinds.items() if names]:
        hint = _prefix(own, tensors) or "is it the right file?"
        raise WeightsError(f"weights {path} don't fit the entry: they {'; '.join(wrong)}: {hint}")
    try:
        module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # a module may have its own ways to load
        raise WeightsError(f"weights {path} don't fit the entry: {reason(error)}") from None


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def some(names: Sequence[str]) -> str:
    """Three of them, short, and how many more there are."""
    names = [cut(name, 100) for name in names]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _prefix(own: Iterable[str], given: Iterable[str]) -> str:
    """What to strip from the names, where a wrapper (of parallel or compiled models) added it."""
    for prefix in ("module.", "_orig_mod.", "model.", "state_dict."):
        stripped = {name.removeprefix(prefix) for name in given}
        if stripped != set(given) and stripped & set(own):
            return f"a wrapper put {prefix!r} before the names: store them without it"
    return ""
