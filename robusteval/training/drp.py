"""Deep repulsive prototypes: Serban, Poll, Visser, "Deep Repulsive Prototypes for Adversarial
Robustness" (2021).

One prototype per class is computed before training and then frozen: gradient descent on the
repulsion of eq. 5, −r Σ_{i≠j} d(c_i, c_j), d the L2 or the L∞ distance.  The features' dimension D
is a multiple of the number of classes.  A sample is classified by its closest prototype.

The equation's ε is the ball around a prototype in which robustness is wanted; it bounds no centre,
and the sum has no minimum.  The paper relies on a budget of 100 steps at μ = 0.01 (Section 4.1).
The ball (L2) or box (L∞) that centres are kept in by default, and its ``radius``, are this
project's.

Training minimises eq. 6, Σ (1 − d(f, c_y))², averaged.  As it is printed it puts samples at
distance 1 from their prototype, which separates the classes wherever prototypes are more than 2
apart; closer ones are refused.  By default a similarity in [0, 1] stands in the place of d, so that
samples go to their prototype itself.

``options`` for the prototypes:

- ``metric`` = "l2" or "linf", the d of eq. 5;
- ``bound`` = "ball", or "none" for the paper's own unbounded descent;
- ``radius`` of the ball (8), in whose units the rate is; nothing reads it without the ball;
- ``start`` = "normal", cut to the unit ball, or "uniform" in [−1, 1]^D;
- ``prototype_steps`` (100), ``prototype_lr`` (0.01), ``prototype_momentum`` (0).

The authors' code has metric "linf", bound "none", start "uniform" and momentum 0.9.  Eq. 5 sums
over ordered pairs, each twice; ours, like that code, counts each once: half the rate.  In the box,
random centres of many dimensions are nearly 2ε apart in L∞ already, and the descent moves them
little.

``options`` for the network:

- ``fit`` = "eq6", or "mean_distance": the mean of d itself.  In L∞ that is what the authors' code
  trains its CIFAR models with.
- ``similarity``, of eq. 6: "distance", d as printed; "cosine", (1 + cos)/2, as in the
  hyperspherical prototypes that the paper builds on (Mettes et al. 2019), whose (1 − cos)² is four
  times as large: a matter of the learning rate; "linear", 1 − d/2ε, in [0, 1] for features inside
  the ball.  With cosine the prototypes' lengths don't matter.

In L∞ the gradient of a distance moves one coordinate of a sample at a time.  The mean distance
learns nevertheless; a linear similarity hardly does.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.prototype_losses import repulsion, repulsive_fit
from robusteval.training.recipe import RECIPES, Option, Recipe

_ORDERS = {"l2": 2.0, "linf": torch.inf}
_READS = {"l2": ("l2", "sql2"), "linf": ("linf",)}  # similarities of a head that are its distance


def repulsive_prototypes(
    classes: int,
    dim: int,
    metric: str,
    radius: float | None,
    steps: int,
    lr: float,
    seed: int,
    *,
    start: str = "normal",
    momentum: float = 0.0,
) -> Tensor:
    """Centres (K, D) far from each other: DRP, eq. 5, by gradient descent.

    With a ``radius`` they are kept in a ball: ‖c‖₂ ≤ radius for ``metric`` "l2", every coordinate
    within ± radius for "linf", and ``lr`` is in units of it.  With None nothing bounds them.
    ``momentum``: as of torch's SGD.  Raises TrainingError if D is no multiple of K.
    """
    if dim % classes:
        raise TrainingError(f"DRP needs a dimension that {classes} classes divide, not {dim}")
    centres = _begin(classes, dim, start, seed)
    centres = centres if start == "uniform" and radius is None else _into_ball(centres, metric)
    velocity = torch.zeros_like(centres)
    for _ in range(steps):
        centres = centres.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(repulsion(centres, metric), centres)
        velocity = momentum * velocity + gradient
        centres = centres.detach() - lr * velocity
        centres = centres if radius is None else _into_ball(centres, metric)
    return (centres if radius is None else radius * centres).float()


def _begin(classes: int, dim: int, start: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if start == "uniform":
        return 2 * torch.rand((classes, dim), generator=generator, dtype=torch.float64) - 1
    return torch.randn((classes, dim), generator=generator, dtype=torch.float64)


def _into_ball(centres: Tensor, metric: str) -> Tensor:
    """The unit ball of L2, or of L∞."""
    if metric == "linf":
        return centres.clamp(-1, 1)
    length: Tensor = centres.norm(dim=1, keepdim=True)
    return centres * (1 / length).clamp_max(1)


def least_apart(centres: Tensor, metric: str) -> float:
    """The smallest distance between two of the centres (K, D)."""
    first, second = torch.triu_indices(len(centres), len(centres), 1)
    return float((centres[first] - centres[second]).norm(p=_ORDERS[metric], dim=1).min())


class DRP(Recipe):
    """Frozen prototypes; only the network learns."""

    defaults: ClassVar[dict[str, Option]] = {
        "metric": "l2",
        "bound": "ball",
        "radius": 8.0,
        "start": "normal",
        "prototype_steps": 100,
        "prototype_lr": 0.01,
        "prototype_momentum": 0.0,
        "fit": "eq6",
        "similarity": "cosine",
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "metric": ("l2", "linf"),
        "bound": ("ball", "none"),
        "start": ("normal", "uniform"),
        "fit": ("eq6", "mean_distance"),
        "similarity": ("cosine", "linear", "distance"),
    }
    positive: ClassVar[tuple[str, ...]] = ("radius",)

    def prepare(self, network: PrototypeNetwork) -> None:
        self.require_one_layer(network, "nearest_prototype")
        if network.head.prototypes_per_class != 1:
            raise TrainingError("DRP has one prototype per class")
        self._check_options(network)
        prototypes = network.prototypes[network.head.layers[0]]
        centres = self._centres(network.classes, prototypes.shape[2])
        self._check_distances(centres)
        prototypes.data.copy_(centres[:, None])
        prototypes.requires_grad_(False)

    def _centres(self, classes: int, dim: int) -> Tensor:
        return repulsive_prototypes(
            classes,
            dim,
            str(self.options["metric"]),
            self.number("radius") if self.options["bound"] == "ball" else None,
            int(self.number("prototype_steps")),
            self.number("prototype_lr"),
            self.settings.seed,
            start=str(self.options["start"]),
            momentum=self.number("prototype_momentum"),
        )

    @property
    def _is_literal(self) -> bool:
        """Whether eq. 6 is as printed."""
        return self.options["fit"] == "eq6" and self.options["similarity"] == "distance"

    def _check_options(self, network: PrototypeNetwork) -> None:
        """Raises TrainingError for options that don't go together."""
        if self.number("prototype_momentum") >= 1:
            raise TrainingError("[training.options] prototype_momentum takes a number below 1")
        if self.options["similarity"] == "linear" and self.options["bound"] == "none":
            raise TrainingError('[training.options] similarity = "linear" needs bound = "ball"')
        metric = str(self.options["metric"])
        by_distance = self._is_literal or self.options["fit"] == "mean_distance"
        if by_distance and network.head.similarity not in _READS[metric]:
            raise TrainingError(
                f"this training is by the distance in {metric}: it needs head.similarity = "
                f'"{_READS[metric][0]}", not "{network.head.similarity}"'
            )

    def _check_distances(self, centres: Tensor) -> None:
        """Raises TrainingError where spheres of radius 1 around prototypes would meet."""
        apart = least_apart(centres, str(self.options["metric"]))
        if self._is_literal and apart <= 2:
            raise TrainingError(
                f"two prototypes are {apart:.3g} apart, and eq. 6 as printed, which puts samples "
                "at distance 1 from theirs, needs more than 2: raise [training.options] radius, or "
                'prototype_steps where bound = "none"'
            )

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        features, prototypes = self.features_and_prototypes(network, layers)
        own = prototypes[labels, 0]
        if self.options["fit"] == "mean_distance":
            return self._distances(features, own).mean(), network.logits(layers)
        return repulsive_fit(self._similarity(features, own)), network.logits(layers)

    def _similarity(self, features: Tensor, own: Tensor) -> Tensor:
        """What eq. 6 has of each sample and its own prototype: (B,)."""
        if self.options["similarity"] == "cosine":
            return (1 + F.cosine_similarity(features, own)) / 2
        distances = self._distances(features, own)
        if self.options["similarity"] == "distance":
            return distances
        return 1 - distances / (2 * self.number("radius"))

    def _distances(self, features: Tensor, own: Tensor) -> Tensor:
        order = _ORDERS[str(self.options["metric"])]
        found: Tensor = (features - own).norm(p=order, dim=1)
        return found


RECIPES.add("drp", DRP)
