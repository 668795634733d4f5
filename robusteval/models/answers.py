"""What a foreign module makes of images, and whether that is logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robusteval.errors import AttackError, kind_of, reason
from robusteval.models.network import precise


def answer(module: Callable[[Tensor], Any], images: Tensor) -> Any:
    """What a foreign module makes of a copy of ``images``: some change in place what they are
    given, and those would be the caller's.

    NumPy refuses what asks for a gradient; a module that goes through it has none to give.
    """
    try:
        return module(images.clone())
    except RuntimeError as error:
        if "Can't call numpy() on Tensor that requires grad" not in str(error):
            raise
    except SystemExit as error:  # else the program would end, and with the module's exit code
        raise AttackError(
            f"the module ends the program (SystemExit: {reason(error)}): leave that out"
        ) from None
    return module(images.detach().clone())


def as_logits(found: Any, count: int, classes: int | None = None) -> Tensor:
    """What a module returned for ``count`` images, if that is logits (B, K), K from 2 up.

    Half precision becomes float32, as in ``precise``.  Raises AttackError for anything else.
    """
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = str(found.dtype) if isinstance(found, Tensor) else kind_of(found)
        raise AttackError(
            f"the module returns {kind}: attacks need logits (B, K), so wrap it in a module that "
            "returns them alone"
        )
    if found.is_meta or found.layout is not torch.strided:
        kind = "on the device meta" if found.is_meta else str(found.layout)
        raise AttackError(f"the module returns logits {kind}: return a dense tensor of values")
    wanted = classes or (found.shape[1] if found.dim() == 2 else 0)
    if found.shape != (count, wanted) or wanted < 2:
        images = "one image" if count == 1 else f"{count} images"
        squeezed = ", so leave out what squeezes" if count == 1 and found.dim() == 1 else ""
        raise AttackError(
            f"the module returns shape {tuple(found.shape)} for {images}: attacks need logits "
            f"(B, {classes or 'K'}) of two classes or more{squeezed}"
        )
    if found.is_inference() and not torch.is_inference_mode_enabled():
        found = found.clone()  # else no gradient could be asked for beside it
    return precise(found)
