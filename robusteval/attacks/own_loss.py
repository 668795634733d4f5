"""Ascent on the very loss that a model was trained on, in the shapes of the papers' attacks."""

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import CHANCE, COUNT, FLAG, POSITIVE, require_within
from robusteval.attacks.record import BOTH, Attack, Needs, defaults_of, stepwise
from robusteval.attacks.steps import ascent_direction, free_gradient, project, random_start
from robusteval.types import Norm, ThreatModel

_RANGES = {"steps": COUNT, "step_size": POSITIVE, "momentum": CHANCE, "start": FLAG}


@attack
def own_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    steps: int = 20,
    step_size: float = 0.25,
    momentum: float = 0.0,
    start: bool = True,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1], by ascent on the model's training loss.

    PGD with a random ``start`` (DRP, eq. 3, on eq. 6), BIM without; FGSM is one step of
    ``step_size`` 1, and MIM has a ``momentum``, which adds up gradients of L1 norm 1 (PCL, eq. 18).
    ``steps`` from 1 up; ``step_size``, above 0, is a share of ε; ``momentum`` in [0, 1].  The last
    images are returned, whatever came before, as the papers count.  As many forward and backward
    passes as steps.  Raises AttackError where the training loss is unknown, where no gradient
    reaches the images, and for images outside [0, 1].
    """
    given = {"steps": steps, "step_size": step_size, "momentum": momentum, "start": start}
    require_within("own_loss", given, _RANGES)
    if len(images) == 0:
        return images
    counted = as_counted(model, images, labels)
    points = images.detach()
    if start:
        points = random_start(points, threat, torch.Generator().manual_seed(seed))
    velocity = torch.zeros_like(points)
    with gradients_needed(counted, images):
        for _ in range(steps):
            gradient = _slope(counted, points, labels)
            if momentum:
                velocity = momentum * velocity + unit_l1(gradient)
                gradient = velocity
            points = _stepped(points, gradient, threat.norm, step_size * threat.radius)
            points = project(points, images, threat)
    return points


def unit_l1(gradients: Tensor) -> Tensor:
    """Gradients (B, C, H, W), each of L1 norm 1; zero ones stay."""
    shape = (-1, *[1] * (gradients.dim() - 1))
    return gradients / gradients.flatten(1).abs().sum(1).clamp_min(1e-30).view(shape)


def _slope(model: Counted, points: Tensor, labels: Tensor) -> Tensor:
    leaf = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(model.training_loss(leaf, labels), leaf)
    return torch.nan_to_num(gradient, 0.0, 0.0, 0.0)


def _stepped(points: Tensor, gradient: Tensor, norm: Norm, size: float) -> Tensor:
    """In L2 along what doesn't push a pixel out of [0, 1]."""
    if norm == "L2":
        gradient = free_gradient(gradient, points)
    return points + size * ascent_direction(gradient, norm)


ATTACKS = (
    Attack(
        name="own_loss",
        library=ROBUSTEVAL,
        function=own_loss,
        norms=BOTH,
        knows_eps=True,
        needs=Needs(
            prototypes=False, classes=2, channels=None, square_images=(), training_loss=True
        ),
        gradients="uses",
        by_sample=False,
        passes=stepwise(),
        parameters=_RANGES,
        defaults=defaults_of(lambda: own_loss),
        version=1,
    ),
)
