"""What the loop asks of a method."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from robusteval.catalogue import Catalogue
from robusteval.data.datasets import Dataset
from robusteval.models.entry import Training
from robusteval.models.network import PrototypeNetwork


class Recipe(nn.Module):
    """A method's loss, and the parameters that only training needs.

    ``parameter_groups`` are groups for the optimiser beside the network's own weights: those with
    a learning rate of their own, which the schedule scales alike.
    """

    def __init__(self, network: PrototypeNetwork, settings: Training) -> None:
        super().__init__()
        self.settings = settings
        self.prepare(network)

    def prepare(self, network: PrototypeNetwork) -> None:
        """Makes the recipe's own parameters."""

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        """Optimiser groups for prototypes and the recipe's own parameters."""
        return []

    def start_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        """Called before each epoch, counted from 0."""

    def loss(
        self,
        network: PrototypeNetwork,
        layers: Mapping[str, Tensor],
        labels: Tensor,
        epoch: int,
    ) -> tuple[Tensor, Tensor]:
        """(loss, logits (B, K)) from the backbone's layers, at an epoch counted from 0."""
        raise TypeError(f"{type(self).__name__} defines no loss")


RECIPES: Catalogue[type[Recipe]] = Catalogue("recipe")
