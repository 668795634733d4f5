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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.losses import bounded_conformity, prototype_conformity
from robusteval.training.recipe import RECIPES, Recipe

DEFAULTS: dict[str, float | str | bool] = {
    "weighting": "bounded",
    "tau": 1.0,
    "repulsion_weight": 1e-4,
    "centre_lr": 0.5,
    "repulsion_lr": 1e-4,
    "centres": "normal",
}


class PCL(Recipe):
    """The model's prototypes are the attraction centres; repulsion centres serve training only."""

    def prepare(self, network: PrototypeNetwork) -> None:
        if unknown := set(self.settings.options) - set(DEFAULTS):
            raise TrainingError(
                f"[training.options] names {', '.join(sorted(unknown))}: PCL takes "
                f"{', '.join(DEFAULTS)}"
            )
        if not network.head.layers or network.head.prototypes_per_class != 1:
            raise TrainingError("PCL needs head.layers and one prototype per class")
        self.options = {**DEFAULTS, **self.settings.options}
        self.repulsion_centres = nn.ParameterDict(
            {name: torch.randn_like(p[:, 0]) for name, p in network.prototypes.items()}
        )

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        # The authors divide each centre's gradient by its loss weight before the step.
        tau, weight = float(self.options["tau"]), float(self.options["repulsion_weight"])
        centre_lr = float(self.options["centre_lr"]) / (tau or 1)
        repulsion_lr = float(self.options["repulsion_lr"]) / (tau * weight or 1)
        return [
            {"params": list(network.prototypes.values()), "lr": centre_lr},
            {"params": list(self.repulsion_centres.values()), "lr": repulsion_lr},
        ]

    @torch.no_grad()
    def start_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        if epoch != self.settings.warmup_epochs or self.options["centres"] != "class_means":
            return
        sample = data.balanced_subset(min(len(data), 256 * network.head.classes))
        network.eval()
        device = next(network.parameters()).device
        parts = [
            network.supervised_features(network.activations(sample.images(rows).to(device)))
            for rows in torch.arange(len(sample)).split(256)
        ]
        for name, prototypes in network.prototypes.items():
            features = torch.cat([part[name] for part in parts])
            for k in range(network.head.classes):
                mean = features[sample.labels == k].mean(0)
                prototypes[k, 0] = mean
                self.repulsion_centres[name][k] = mean

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        loss = F.cross_entropy(logits, labels)
        if epoch < self.settings.warmup_epochs:
            return loss, logits
        for name, features in network.supervised_features(layers).items():
            loss = loss + float(self.options["tau"]) * self._conformity(
                network, name, features, labels
            )
        return loss, logits

    def _conformity(
        self, network: PrototypeNetwork, layer: str, features: Tensor, labels: Tensor
    ) -> Tensor:
        centres = network.prototypes[layer][:, 0]
        if self.options["weighting"] == "paper":
            return prototype_conformity(features, labels, centres)
        far = self.repulsion_centres[layer]
        weight = float(self.options["repulsion_weight"])
        return bounded_conformity(features, labels, centres, far, weight)


RECIPES.add("pcl", PCL)
