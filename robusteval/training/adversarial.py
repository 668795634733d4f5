"""Adversarial training around any recipe: FGSM and PGD at a random ε (PCL, Section 6.1)."""

import torch
from torch import Tensor

from robusteval.models.entry import Adversarial
from robusteval.models.network import PrototypeNetwork
from robusteval.training.recipe import Recipe
from robusteval.types import parse_eps


def craft(
    network: PrototypeNetwork,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    settings: Adversarial,
    epoch: int,
    generator: torch.Generator,
) -> Tensor:
    """Adversarial images (B, C, H, W) against the recipe's own loss, in L∞.

    Each image's ε is drawn uniformly from ``settings.eps``.  FGSM takes one step of size ε
    (eq. 16), PGD ``steps`` steps of ``step_size``·ε from a random start (eqs. 22, 23).  The
    network is left in the mode it was in; batch-norm statistics are taken in eval mode.
    """
    low, high = (float(parse_eps(e)) for e in settings.eps)
    shape = (len(images), 1, 1, 1)
    eps = (low + (high - low) * torch.rand(shape, generator=generator)).to(images.device)
    if settings.attack == "fgsm":
        start, steps, step = images, 1, eps
    else:
        noise = (2 * torch.rand(images.shape, generator=generator) - 1).to(images.device)
        start, steps, step = (
            (images + eps * noise).clamp(0, 1),
            settings.steps,
            settings.step_size * eps,
        )
    was_training = network.training
    network.eval()
    try:
        adversarial = start
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            loss, _ = recipe.loss(network, network.activations(adversarial), labels, epoch)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + step * gradient.sign()
            adversarial = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(
                0, 1
            )
    finally:
        network.train(was_training)
    return adversarial.detach()
