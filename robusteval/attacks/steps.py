"""Projections, starts and step directions in L∞ and L2.  Pure functions of image batches."""

import math

import torch
from torch import Tensor

from robusteval.types import Norm, ThreatModel

_LENGTHENINGS = 6  # each brings a cut perturbation's norm closer to ε


def norms(perturbation: Tensor, norm: Norm) -> Tensor:
    """Each sample's norm (B,) of a perturbation (B, ...), in its own precision."""
    flat = perturbation.flatten(1)
    return flat.abs().amax(1) if norm == "Linf" else flat.square().sum(1).sqrt()


def input_gradient(losses: Tensor, images: Tensor, keep: bool = False) -> Tensor:
    """Of each loss (B,) by its image (B, C, H, W): 0 where a model breaks the graph, or isn't
    differentiable.  ``keep``: the graph, for others' gradients."""
    found = None
    if losses.requires_grad:
        (found,) = torch.autograd.grad(
            losses.sum(), images, allow_unused=True, retain_graph=keep or None
        )
    return torch.zeros_like(images) if found is None else torch.nan_to_num(found, 0.0, 0.0, 0.0)


def project(images: Tensor, clean: Tensor, threat: ThreatModel) -> Tensor:
    """The nearest images in the ε-ball around ``clean``, then in [0, 1].

    Clipping to [0, 1] moves towards ``clean``, which lies in it, so the result is in both sets.
    """
    return _into_ball(images, clean, threat.norm, threat.radius)


def _into_ball(images: Tensor, clean: Tensor, norm: Norm, eps: float | Tensor) -> Tensor:
    if norm == "Linf":
        return torch.clamp(images, clean - eps, clean + eps).clamp_(0, 1)
    perturbation = images - clean
    length = per_sample(norms(perturbation, "L2").clamp_min(1e-12), clean)
    # A hair inside: float32 rounding may carry a long vector over ε by more than the tolerance.
    scale = ((1 - 1e-6) * eps / length).clamp_max(1)
    return (clean + scale * perturbation).clamp(0, 1)


def project_fully(images: Tensor, clean: Tensor, norm: Norm, radius: float | Tensor) -> Tensor:
    """As ``project``, but an L2 perturbation that [0, 1] cuts is lengthened to use all of ε.

    Where many pixels are 0 or 1, most of a gradient points out of the box: scaled to the ball and
    then cut, a perturbation would end far inside it.  ``radius``: one, or each sample's (B, 1, …).
    """
    if norm == "L2":
        shape = (-1, *[1] * (clean.dim() - 1))
        perturbation = images - clean
        beyond = norms(perturbation, "L2").view(shape) > radius
        for _ in range(_LENGTHENINGS):
            scale = radius / norms(perturbation, "L2").view(shape).clamp_min(1e-12)
            scale = torch.where(beyond, scale, 1.0)
            perturbation = (clean + scale * perturbation).clamp(0, 1) - clean
        images = clean + perturbation
    return _into_ball(images, clean, norm, radius)


def per_sample(values: Tensor, images: Tensor) -> Tensor:
    """Values (B,) as (B, 1, …), to go with images (B, …)."""
    return values.view(-1, *[1] * (images.dim() - 1))


def free_gradient(gradient: Tensor, images: Tensor) -> Tensor:
    """The gradient without what would push a pixel of ``images`` out of [0, 1]."""
    stuck = ((images <= 0) & (gradient < 0)) | ((images >= 1) & (gradient > 0))
    return gradient.masked_fill(stuck, 0.0)


def kicked(gradients: Tensor, before: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Gradients (B, C, H, W) with those ``before`` in the place of zero ones, which would end an
    ascent, and random ones where these are zero, too.

    None draws nothing: on a model that never shows a gradient random search does more.
    """
    shape = (-1, *[1] * (gradients.dim() - 1))
    if before is not None:
        gradients = torch.where(gradients.flatten(1).any(1).view(shape), gradients, before)
    lost = ~gradients.flatten(1).any(1).view(shape)
    if generator is None or not lost.any():
        return gradients
    drawn = torch.randn(gradients.shape, generator=generator).to(gradients)
    return torch.where(lost, drawn, gradients)


def random_start(
    clean: Tensor, threat: ThreatModel, generator: torch.Generator, share: float = 1.0
) -> Tensor:
    """Uniform in the L∞ ball, or a uniform direction with a uniform length in the L2 ball; both of
    ``share`` · ε."""
    eps = share * threat.radius
    shape = (len(clean), *[1] * (clean.dim() - 1))
    if threat.norm == "Linf":
        noise = 2 * torch.rand(clean.shape, generator=generator) - 1
        return (clean + eps * noise.to(clean.device)).clamp(0, 1)
    noise = torch.randn(clean.shape, generator=generator)
    length = torch.rand(shape, generator=generator)
    noise = eps * length * noise / norms(noise, "L2").view(shape)
    return (clean + noise.to(clean.device)).clamp(0, 1)


def striped_start(clean: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """A corner of the L∞ ball, one random sign for each column of a channel, as Square starts
    (Andriushchenko et al. 2020)."""
    shape = (*clean.shape[:2], 1, clean.shape[-1])
    signs = 2 * torch.randint(2, shape, generator=generator) - 1
    return project(clean + threat.radius * signs.to(clean), clean, threat)


def ascent_direction(gradient: Tensor, norm: Norm, unsigned: bool = False) -> Tensor:
    """The unit-norm direction that raises a linear function most: sign, or normalised.

    ``unsigned``, in L∞: the gradient itself, its root mean square 1, as signs have.
    """
    if norm == "Linf" and not unsigned:
        return gradient.sign()
    length = per_sample(norms(gradient, "L2").clamp_min(1e-30), gradient)
    unit = gradient / length
    return unit if norm == "L2" else math.sqrt(gradient[0].numel()) * unit
