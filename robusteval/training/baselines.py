"""What the papers compare with: plain cross-entropy."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from robusteval.models.network import PrototypeNetwork
from robusteval.training.recipe import RECIPES, Recipe


class CrossEntropy(Recipe):
    """The softmax baseline: PCL's eq. 1, averaged over the batch."""

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        return F.cross_entropy(logits, labels), logits


RECIPES.add("ce", CrossEntropy)
