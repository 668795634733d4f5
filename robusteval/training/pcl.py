"""Prototype conformity loss: Mustafa et al., "Deeply Supervised Discriminative Learning for
Adversarial Defense" (2020), Algorithm 1.

Cross-entropy alone for T' epochs, then L = L_CE + τ Σ_l L_PC^l over the supervised layers l,
each after its auxiliary branch.  (Eq. 9 writes a cross-entropy at every layer too; Algorithm 1,
Table 1 and the authors' code have it at the last one only, and so has this.)

``options``: ``weighting`` = "bounded" (the authors' code, default) or "paper" (eq. 5 to the
letter, unbounded below); ``tau`` (1); ``repulsion_weight`` (1e-4); ``centre_lr`` (0.5) and
``repulsion_lr`` (1e-4), the learning rates of the two sets of centres; ``centres`` = "normal" (as
in the authors' code) or "class_means": both sets start at each class's mean feature when the
joint stage begins.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.losses import bounded_conformity, prototype_conformity
from robusteval.training.recipe import RECIPES, Option, Recipe, class_means


class PCL(Recipe):
    """The model's prototypes are the attraction centres; repulsion centres serve training only."""

    defaults: ClassVar[dict[str, Option]] = {
        "weighting": "bounded",
        "tau": 1.0,
        "repulsion_weight": 1e-4,
        "centre_lr": 0.5,
        "repulsion_lr": 1e-4,
        "centres": "normal",
    }
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "weighting": ("bounded", "paper"),
        "centres": ("normal", "class_means"),
    }

    def prepare(self, network: PrototypeNetwork) -> None:
        if not network.head.layers or network.head.prototypes_per_class != 1:
            raise TrainingError("PCL needs head.layers and one prototype per class")
        self.repulsion_centres = nn.ParameterDict(
            {name: torch.randn_like(p[:, 0]) for name, p in network.prototypes.items()}
        )

    @property
    def is_stored(self) -> bool:
        return self.options["weighting"] == "paper"  # repulsion centres are not

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        # The authors divide each centre's gradient by its loss weight before the step.
        tau, weight = self.number("tau"), self.number("repulsion_weight")
        centre_lr = self.number("centre_lr") / (tau or 1)
        repulsion_lr = self.number("repulsion_lr") / (tau * weight or 1)
        return [
            {"params": list(network.prototypes.values()), "lr": centre_lr},
            {"params": list(self.repulsion_centres.values()), "lr": repulsion_lr},
        ]

    def start_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        if epoch != self.settings.warmup_epochs or self.options["centres"] != "class_means":
            return
        for name, means in class_means(network, data).items():
            network.prototypes[name].data.copy_(means[:, None])
            self.repulsion_centres[name].data.copy_(means)

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        loss = F.cross_entropy(logits, labels)
        if epoch < self.settings.warmup_epochs:
            return loss, logits
        for name, features in network.supervised_features(layers).items():
            loss = loss + self.number("tau") * self._conformity(network, name, features, labels)
        return loss, logits

    def _conformity(
        self, network: PrototypeNetwork, layer: str, features: Tensor, labels: Tensor
    ) -> Tensor:
        centres = network.prototypes[layer][:, 0]
        if self.options["weighting"] == "paper":
            return prototype_conformity(features, labels, centres)
        far = self.repulsion_centres[layer]
        weight = self.number("repulsion_weight")
        return bounded_conformity(features, labels, centres, far, weight)


RECIPES.add("pcl", PCL)
