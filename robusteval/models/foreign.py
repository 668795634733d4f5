"""Modules as other people have them: their wrappers taken off, behind their own normalisation."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from robusteval.errors import AttackError
from robusteval.models.outputs import Reader

# What only says where or how the module inside computes, by its class, and what it is called there.
_INSIDE = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}


def unwrapped(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that computes, and what was taken off it, outermost first.

    Raises AttackError for one whose parameters are spread over processes.
    """
    if any(_kinds(inner) & _SHARDED for inner in module.modules()):
        raise AttackError(
            "the module's parameters are sharded over processes (FSDP): gather them into a plain "
            "module first"
        )
    taken = []
    while found := next(((k, n) for k, n in _INSIDE.items() if k in _kinds(module)), None):
        kind, name = found
        inside = getattr(module, name, None)
        if not isinstance(inside, nn.Module):
            break
        taken.append("torch.compile" if kind == "OptimizedModule" else kind)
        module = inside
    return module, tuple(taken)


def users_own(module: nn.Module) -> nn.Module:
    """The module that a user wrote, inside whatever was laid around it here and by torch."""
    module, _ = unwrapped(module)
    while type(module).__module__.startswith("robusteval.models"):
        inside = getattr(module, "module", None) or getattr(module, "backbone", None)
        if not isinstance(inside, nn.Module):
            break
        module = inside
    return module


def _kinds(module: nn.Module) -> set[str]:
    """By name: that of a wrapper from another library, or of a subclass, says as much."""
    return {kind.__name__ for kind in type(module).__mro__}


def bare(name: str) -> str:
    """A layer's or a tensor's name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _INSIDE.values())


class Normalised(nn.Module):
    """A foreign module behind its own input normalisation; logits are taken out of its outputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: ArrayLike, std: ArrayLike) -> None:
        super().__init__()
        module, taken_off = unwrapped(module)
        self.module, self.reader = module, Reader(taken_off)
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, _by_channel(name, values).to(device), persistent=False)
        if not (self.std > 0).all():
            raise AttackError(f"std = {std!r}: choose values above 0")
        if len({1, self.mean.shape[1], self.std.shape[1]}) > 2:
            raise AttackError(
                f"mean has {self.mean.shape[1]} values and std {self.std.shape[1]}: give as many, "
                "or a single one"
            )

    def forward(self, images: Tensor) -> Any:
        return self.reader(self.raw(images))

    def raw(self, images: Tensor) -> Any:
        """Whatever the module returns for images (B, C, H, W) in [0, 1]."""
        return self.module(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Images as the module takes them.  Raises AttackError for other channels."""
        channels = max(self.mean.shape[1], self.std.shape[1])
        if channels not in (1, images.shape[1]):  # else one channel would become several
            raise AttackError(
                f"mean and std have {channels} values, the images {images.shape[1]} channels: give "
                "one for each, or a single one"
            )
        return (images - self.mean) / self.std


def _by_channel(name: str, values: Any) -> Tensor:
    """One number, or one for each channel, of whatever type: (1, C, 1, 1) in float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values if values.dtype in (torch.bool, torch.complex64) else values.double()
    try:
        numbers = np.asarray(values)
    except (TypeError, ValueError):  # lists of different lengths
        numbers = np.asarray("")
    if numbers.dtype.kind not in "iuf" or numbers.size != max(numbers.shape, default=1):
        raise AttackError(f"{name} = {values!r}: give a number, or one for each channel")
    found = torch.from_numpy(numbers.astype(np.float64).reshape(-1)).float()
    if not torch.isfinite(found).all() or not len(found):
        raise AttackError(f"{name} = {values!r}: give finite numbers")
    return found.view(1, -1, 1, 1)
