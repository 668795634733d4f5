"""Deep repulsive prototypes: Serban, Poll, Visser, "Deep Repulsive Prototypes for Adversarial
Robustness" (2021).

One prototype per class is computed before training and then frozen: gradient descent on the
repulsion of eq. 5, −r Σ_{i≠j} d(c_i, c_j).  The equation's ε, which bounds it, is the radius of
the ball (L2) or box (L∞) that centres are kept in; without it the sum has no minimum.  The
features' dimension D is a multiple of the number of classes.  Training minimises eq. 6 with a
similarity in [0, 1] to the own prototype: (1 − s)².  (With a literal distance it would drive
samples away.)  A sample is classified by its closest prototype.

``options``: ``metric`` = "l2" or "linf", the d of eq. 5; ``radius`` is ε (8); ``prototype_steps``
(100) and ``prototype_lr`` (0.01), relative to ε; ``similarity`` = "cosine", (1 + cos)/2 as in the
hyperspherical prototypes that the paper builds on (Mettes et al. 2019), or "linear",
1 − d/2ε in the metric, which is in [0, 1] for features inside the ball.  The paper takes the d of
eq. 5 in eq. 6, too; with cosine, as all entries have it, ε only scales prototypes.  In L∞ a linear
similarity moves one coordinate at a time and hardly learns; cosine does, with prototypes of either
metric.  Eq. 5 sums over ordered pairs, each twice; ours counts each once: half the rate.  In many
dimensions random centres are nearly 2ε apart in L∞ already, and the descent moves them little.
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


def repulsive_prototypes(
    classes: int, dim: int, metric: str, radius: float, steps: int, lr: float, seed: int
) -> Tensor:
    """Centres (K, D) far from each other: DRP, eq. 5, by projected gradient descent.

    ``metric`` "l2" keeps ‖c‖₂ ≤ radius, "linf" keeps every coordinate within ± radius.  Raises
    TrainingError if D is no multiple of K.
    """
    if dim % classes:
        raise TrainingError(f"DRP needs a dimension that {classes} classes divide, not {dim}")
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn((classes, dim), generator=generator, dtype=torch.float64)
    centres = _into_ball(centres, metric, 1.0)
    for _ in range(steps):
        centres = centres.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(repulsion(centres, metric), centres)
        centres = _into_ball(centres.detach() - lr * gradient, metric, 1.0)
    return (radius * centres).float()


def _into_ball(centres: Tensor, metric: str, radius: float) -> Tensor:
    if metric == "linf":
        return centres.clamp(-radius, radius)
    length: Tensor = centres.norm(dim=1, keepdim=True)
    return centres * (radius / length).clamp_max(1)


class DRP(Recipe):
    """Frozen prototypes; only the network learns."""

    defaults: ClassVar[dict[str, Option]] = {
        "metric": "l2",
        "radius": 8.0,
        "prototype_steps": 100,
        "prototype_lr": 0.01,
        "similarity": "cosine",
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "metric": ("l2", "linf"),
        "similarity": ("cosine", "linear"),
    }
    positive: ClassVar[tuple[str, ...]] = ("radius",)

    def prepare(self, network: PrototypeNetwork) -> None:
        head = network.head
        self.require_one_layer(network, "nearest_prototype")
        if head.prototypes_per_class != 1:
            raise TrainingError("DRP has one prototype per class")
        (layer,) = head.layers
        prototypes = network.prototypes[layer]
        centres = repulsive_prototypes(
            network.classes,
            prototypes.shape[2],
            str(self.options["metric"]),
            self.number("radius"),
            int(self.number("prototype_steps")),
            self.number("prototype_lr"),
            self.settings.seed,
        )
        prototypes.data.copy_(centres[:, None])
        prototypes.requires_grad_(False)

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        features, prototypes = self.features_and_prototypes(network, layers)
        own = prototypes[labels, 0]
        return repulsive_fit(self._similarity(features, own)), network.logits(layers)

    def _similarity(self, features: Tensor, own: Tensor) -> Tensor:
        """To each sample's own prototype: (B,), in [0, 1] where features lie in the ball."""
        if self.options["similarity"] == "cosine":
            return (1 + F.cosine_similarity(features, own)) / 2
        order = 2.0 if self.options["metric"] == "l2" else torch.inf
        distances: Tensor = (features - own).norm(p=order, dim=1)
        return 1 - distances / (2 * self.number("radius"))


RECIPES.add("drp", DRP)
