"""What every attack is given as a plain function, and what is refused before it begins."""

from collections.abc import Callable
from functools import wraps
from numbers import Integral
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from robusteval.ambient import plain_state, refuse_inference_mode
from robusteval.errors import AttackError, kind_of
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

Attack = TypeVar("Attack", bound=Callable[..., Any])
_RANGE = 1e-6  # by which float32 arithmetic may carry pixels out of [0, 1]


def attack(function: Attack) -> Attack:
    """An attack that refuses what it can't be about, and computes in a plain state.

    Images are detached; labels are int64 on the images' device.
    """

    @wraps(function)
    def checked(
        model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, **parameters: Any
    ) -> Any:
        require_images(images)
        require_labels(labels, len(images))
        _require_rest(model, threat)
        if "seed" in parameters:
            parameters["seed"] = whole_seed(parameters["seed"])
        labels = labels.to(images.device, torch.int64)
        if isinstance(model, Adapter):  # of a plain module the number of classes isn't known yet
            require_classes(labels, model.classes)
        with plain_state():
            return function(model, images.detach(), labels, threat, **parameters)

    return cast(Attack, checked)


def require_images(images: Tensor) -> None:
    """Raises AttackError in inference mode, where there are no gradients, and for what is no batch
    (B, C, H, W) of float32 or float64 in [0, 1]: no projection would leave other pixels in the
    ball."""
    refuse_inference_mode()
    if not isinstance(images, Tensor):
        raise AttackError(f"images are {kind_of(images)}: pass a tensor (B, C, H, W) in [0, 1]")
    _require_values("images", images)
    if images.is_inference():
        raise AttackError("images were made in torch.inference_mode(): pass images.clone()")
    if images.dim() != 4 or 0 in images.shape[1:]:
        one = "; of one image, images[None]" if images.dim() == 3 else ""
        raise AttackError(f"images of shape {tuple(images.shape)}: pass (B, C, H, W){one}")
    if images.dtype not in (torch.float32, torch.float64):
        scaled = " / 255" if images.dtype == torch.uint8 else ""
        raise AttackError(
            f"images are {images.dtype}: pass float32 in [0, 1], such as images.float(){scaled}"
        )
    if not torch.isfinite(images).all():
        raise AttackError("images hold NaN or infinite pixels: scale them to [0, 1]")
    if len(images) and not (images.min() >= -_RANGE and images.max() <= 1 + _RANGE):
        raise AttackError(
            f"images from {float(images.min()):.3g} to {float(images.max()):.3g}: scale them to "
            "[0, 1] (normalisation belongs into the model)"
        )


def require_labels(labels: Tensor, count: int) -> None:
    """Raises AttackError for what is no class number (B,) of each of so many images."""
    if not isinstance(labels, Tensor):
        raise AttackError(f"labels are {kind_of(labels)}: pass a tensor (B,) of class numbers")
    _require_values("labels", labels)
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise AttackError(f"labels are {labels.dtype}: pass class numbers, such as labels.long()")
    if labels.shape != (count,):
        raise AttackError(
            f"labels of shape {tuple(labels.shape)} for {count} images: pass one class number for "
            "each, (B,)"
        )
    if count and (lowest := int(labels.long().min())) < 0:
        raise AttackError(f"label {lowest}: classes are counted from 0")


def _require_values(name: str, given: Tensor) -> None:
    if given.is_meta or given.layout is not torch.strided:
        kind = "on the device meta" if given.is_meta else str(given.layout)
        raise AttackError(f"{name} are {kind}: pass a dense tensor that holds their values")


def require_classes(labels: Tensor, classes: int) -> None:
    """Raises AttackError for a label that a model of so many classes has no logit for."""
    if len(labels) and (highest := int(labels.max())) >= classes:
        raise AttackError(
            f"label {highest}, but the model has {classes} classes: they are counted from 0 to "
            f"{classes - 1}"
        )


def _require_rest(model: Any, threat: Any) -> None:
    if not isinstance(model, nn.Module):
        raise AttackError(
            f"the model is {kind_of(model)}: pass a torch module, or robusteval.load_model(name)"
        )
    if not isinstance(threat, ThreatModel):
        raise AttackError(
            f'the threat is {kind_of(threat)}: pass one such as ThreatModel("Linf", "8/255")'
        )


def whole_seed(seed: Any) -> int:
    """A seed that torch takes.  Raises AttackError for another."""
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**64:
        raise AttackError(f"seed = {seed!r}: choose a whole number from 0 up, below 2^64")
    return int(seed)
