"""Models whose images no gradient reaches: what attacks by gradients find there is nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.errors import AttackError
from robusteval.hardware import is_out_of_memory
from robusteval.models.adapter import Adapter

NO_GRADIENT = "no gradient reaches the images: the model detaches, or leaves torch, on the way"


def reaches_images(model: Adapter, images: Tensor) -> bool:
    """Whether logits have a gradient by the images, be it zero."""
    leaf = images[:1].detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        if not logits.requires_grad:
            return False
        try:
            (found,) = torch.autograd.grad(logits.sum(), leaf, allow_unused=True)
        except RuntimeError:  # the model's own backward pass fails, which is something else
            return True
    return found is not None


@contextmanager
def gradients_needed(model: Counted, images: Tensor, by_gradient: bool = True) -> Iterator[None]:
    """Within it runs an attack that can do nothing without gradients, if it is one by them.

    Raises AttackError where none reaches the images, whether torch said so or nobody did.
    """
    try:
        yield
    except (RuntimeError, AttributeError, TypeError) as error:
        blind = by_gradient and not is_out_of_memory(error)
        if not blind or reaches_images(model.adapter, images):
            raise
        raise AttackError(NO_GRADIENT) from None
    if by_gradient and not reaches_images(model.adapter, images):
        raise AttackError(NO_GRADIENT)
