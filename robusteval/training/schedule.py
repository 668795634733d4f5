"""The optimiser, and its learning rates over time."""

import math

import torch

from robusteval.models.entry_tables import Training
from robusteval.models.network import PrototypeNetwork
from robusteval.training.recipe import Recipe


def make_optimizer(
    network: PrototypeNetwork, recipe: Recipe, settings: Training
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum for the weights; centres without momentum or decay."""
    prototypes = {id(p) for p in network.prototypes.values()}
    special = recipe.parameter_groups(network)
    apart = {id(p) for group in special for p in group["params"]}
    weights = [p for p in network.parameters() if id(p) not in apart and id(p) not in prototypes]
    main = {
        "params": weights,
        "lr": settings.lr,
        "momentum": settings.momentum,
        "nesterov": settings.momentum > 0,
        "weight_decay": settings.weight_decay,
        "warms_up": True,
    }
    others = ({"momentum": 0.0, "warms_up": False, **group} for group in special)
    optimizer = torch.optim.SGD([main, *others], lr=settings.lr)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def scale_learning_rates(
    optimizer: torch.optim.Optimizer, settings: Training, epoch: float
) -> None:
    """Every group's rate at a (fractional) epoch; the warm-up stage has a schedule of its own."""
    warm = epoch < settings.warmup_epochs
    start, length = (
        (0, settings.warmup_epochs) if warm else (settings.warmup_epochs, settings.epochs)
    )
    factor = schedule_factor(settings, epoch - start, (epoch - start) / length)
    stage = (settings.warmup_lr or settings.lr) / settings.lr if warm else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor * (stage if group["warms_up"] else 1.0)


def schedule_factor(settings: Training, epoch: float, share: float) -> float:
    """The share of the peak rate, ``epoch`` epochs, or that ``share``, into a stage.

    ``cyclic``: one triangle, up linearly to the middle of the stage and down to zero (Smith 2017,
    as Wong et al. 2020 use it).  ``one_cycle``: up linearly from 5 % for a fifth of the stage, then
    down by a cosine (after Smith and Topin 2019).  Neither falls below ``lowest_lr``, or a
    thousandth (MPAT's goes from 0.001 to 0.2 and back, that of DRP's code from 0.001 to 0.006).
    ``steps``: a tenth of it after each milestone, an epoch of the stage (PCL, Section 6: 200 and
    250 of 300).
    """
    if settings.schedule == "steps":
        return float(0.1 ** sum(epoch >= m for m in settings.milestones))
    lowest = settings.lowest_lr / settings.lr if settings.lowest_lr is not None else 1e-3
    if settings.schedule == "cyclic":
        return max(1 - abs(2 * share - 1), lowest)
    if share < 0.2:
        return 0.05 + 0.95 * share / 0.2
    return max(0.5 * (1 + math.cos(math.pi * (share - 0.2) / 0.8)), lowest)
