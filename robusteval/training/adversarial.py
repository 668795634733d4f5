"""Adversarial training around any recipe: FGSM, PGD, Fast and Free, at a fixed or random ε."""

from collections.abc import Callable

import torch
from torch import Tensor

from robusteval.models.entry_tables import Adversarial, Training
from robusteval.models.network import PrototypeNetwork
from robusteval.training.recipe import Recipe
from robusteval.training.speed import activations
from robusteval.types import parse_eps


def craft(
    network: PrototypeNetwork,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    settings: Adversarial,
    epoch: int,
    generator: torch.Generator,
    bfloat16: bool = False,
) -> Tensor:
    """Adversarial images (B, C, H, W) against the recipe's own loss, or what it crafts by, in L∞.

    Each image's ε is drawn uniformly from ``settings.eps``.  FGSM takes one step of size ε (PCL,
    eq. 16), PGD ``steps`` steps of ``step_size``·ε from a random start (eqs. 22, 23), Fast one
    such step (Wong et al. 2020, with a step size of 1.25 there).  The network is left in the mode
    it was in; batch-norm statistics are taken in eval mode.
    """
    eps = draw_eps(settings, len(images), generator).to(images.device)
    start, steps, step = images, 1, eps
    if settings.attack != "fgsm":
        noise = (2 * torch.rand(images.shape, generator=generator) - 1).to(images.device)
        start = (images + eps * noise).clamp(0, 1)
        step = settings.step_size * eps
        steps = settings.steps if settings.attack == "pgd" else 1
    was_training = network.training
    network.eval()
    try:
        adversarial, clean = start, None
        if recipe.crafts_from_logits:
            clean = _clean_logits(network, images, bfloat16)
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            layers = activations(network, adversarial, bfloat16)
            loss = recipe.crafting_loss(network, layers, labels, epoch, clean)
            (gradient,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + step * gradient.sign()
            adversarial = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(
                0, 1
            )
    finally:
        network.train(was_training)
    return adversarial.detach()


@torch.no_grad()
def _clean_logits(network: PrototypeNetwork, images: Tensor, bfloat16: bool) -> Tensor:
    return network.logits(activations(network, images, bfloat16))


def draw_eps(settings: Adversarial, count: int, generator: torch.Generator) -> Tensor:
    """Each image's ε (B, 1, 1, 1), uniform between the two that are given."""
    low, high = (float(parse_eps(e)) for e in settings.eps)
    return low + (high - low) * torch.rand((count, 1, 1, 1), generator=generator)


def chosen_by(settings: Training) -> Adversarial | None:
    """What epochs are chosen by: ten steps of PGD at one ε; None where clean accuracy decides.

    A single step, as Fast trains on, would not see its own catastrophic overfitting.
    """
    trained_at = settings.adversarial.eps[1] if settings.adversarial else None
    eps = settings.stopping_eps or trained_at
    if eps is None:
        return None
    return Adversarial(attack="pgd", eps=(eps, eps), steps=10, step_size=0.25)


class FreeSteps:
    """Free adversarial training (Shafahi et al. 2019; MPAT, Section 3.3).

    Each batch is replayed; every pass gives the gradient for the weights and for the image, and
    the perturbation goes on from replay to replay and from batch to batch.  It starts at zero in
    each epoch, so that a training that was killed goes on as it would have.
    """

    def __init__(self, settings: Adversarial) -> None:
        self.settings = settings
        self.delta: Tensor | None = None

    def replay(
        self,
        images: Tensor,
        generator: torch.Generator,
        update: Callable[[Tensor], tuple[float, int]],
    ) -> list[tuple[float, int]]:
        """``update`` makes a step on given images, which carry a gradient after it."""
        if self.delta is None:
            self.delta = torch.zeros_like(images)
        eps = draw_eps(self.settings, len(images), generator).to(images.device)
        step, told = self.settings.step_size * eps, []
        for _ in range(self.settings.replays):
            delta = self.delta[: len(images)].clamp(-eps, eps)
            moved = (images + delta).clamp(0, 1).detach().requires_grad_()
            told.append(update(moved))
            if moved.grad is not None:
                delta = (delta + step * moved.grad.sign()).clamp(-eps, eps)
            self.delta[: len(images)] = delta
        return told
