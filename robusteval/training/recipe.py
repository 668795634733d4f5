"""What the loop asks of a method."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.catalogue import Catalogue
from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.models.entry_tables import Training
from robusteval.models.network import PrototypeNetwork

Option = float | str | bool | list[float]


class Recipe(nn.Module):
    """A method's loss, and the parameters that only training needs.

    ``defaults`` are its options, which an entry's ``[training.options]`` may change: words among
    ``choices``, numbers from 0 up, above it for those in ``positive``; those in ``lists`` may be
    several numbers.
    ``parameter_groups`` are groups for the optimiser beside the network's own weights: those with
    a learning rate of their own, which the schedule scales alike.  ``trained``: the network has its
    weights already, so nothing is prepared; ``loss`` then tells what they were trained on, if it
    ``is_stored``.
    """

    defaults: ClassVar[dict[str, Option]] = {}
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    positive: ClassVar[tuple[str, ...]] = ()
    lists: ClassVar[tuple[str, ...]] = ()
    differentiates_twice: ClassVar[bool] = False  # its ``penalty`` reads the gradient of the loss
    crafts_from_logits: ClassVar[bool] = False  # its ``crafting_loss`` reads those of clean images

    def __init__(
        self, network: PrototypeNetwork, settings: Training, *, trained: bool = False
    ) -> None:
        super().__init__()
        self.settings = settings
        if unknown := set(settings.options) - set(self.defaults):
            known = ", ".join(self.defaults) or "none"
            raise TrainingError(
                f"[training.options] names {', '.join(sorted(unknown))}: {settings.recipe} takes "
                f"{known}"
            )
        for name, value in settings.options.items():
            self._check_option(name, value)
        self.options = {**self.defaults, **settings.options}
        if not trained:
            self.prepare(network)

    def _check_option(self, name: str, value: Option) -> None:
        """Raises TrainingError for a value that the option can't have."""
        if name in self.choices:
            wanted, fine = f"one of {', '.join(self.choices[name])}", value in self.choices[name]
        else:
            above = name in self.positive
            wanted = "a number above 0" if above else "a number from 0 up"
            several = isinstance(value, list) and name in self.lists
            values = value if isinstance(value, list) and several else [value]
            fine = bool(values) and all(_fits(one, above) for one in values)
        if not fine:
            raise TrainingError(f"[training.options] {name} = {value!r}: it takes {wanted}")

    def number(self, name: str) -> float:
        """A numeric option."""
        return float(self.options[name])  # type: ignore[arg-type]

    @property
    def is_stored(self) -> bool:
        """Whether the loss needs nothing but options and what a network's weights hold."""
        return True

    def prepare(self, network: PrototypeNetwork) -> None:
        """Makes the recipe's own parameters.  Raises TrainingError for a network it can't train."""

    def require_one_layer(self, network: PrototypeNetwork, reading: str) -> None:
        """Raises TrainingError unless the head reads so and one layer carries its prototypes."""
        if network.head.reading != reading or len(network.head.layers) != 1:
            raise TrainingError(
                f'{self.settings.recipe} needs head.reading = "{reading}" and one layer of '
                "prototypes"
            )

    def features_and_prototypes(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features (B, D) and prototypes (K, M, D) of the one layer that carries some."""
        (layer,) = network.head.layers
        return network.supervised_features(layers)[layer], network.prototypes[layer]

    def parameter_groups(self, network: PrototypeNetwork) -> list[dict[str, Any]]:
        """Optimiser groups for prototypes and the recipe's own parameters."""
        return []

    def trained_prototypes(
        self, network: PrototypeNetwork, lr: float | None = None
    ) -> list[dict[str, Any]]:
        """A group that trains the network's prototypes as its weights, but without decay.

        At the network's own rate, in the warm-up stage, too, unless ``lr`` is given.
        """
        return [
            {
                "params": list(network.prototypes.values()),
                "lr": self.settings.lr if lr is None else lr,
                "warms_up": lr is None,
                "momentum": self.settings.momentum,
                "nesterov": self.settings.momentum > 0,
            }
        ]

    @torch.no_grad()
    def to_unit_length(self, network: PrototypeNetwork) -> None:
        """For losses that see only a prototype's direction: a long one would hardly turn, and its
        length would mean nothing to whoever measures distances."""
        for prototypes in network.prototypes.values():
            prototypes.copy_(F.normalize(prototypes, dim=2))

    def after_step(self, network: PrototypeNetwork) -> None:
        """Called after each step of the optimiser."""

    def start_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        """Called before each epoch, counted from 0."""

    def end_epoch(self, network: PrototypeNetwork, data: Dataset, epoch: int) -> None:
        """Called after each epoch, before it is judged on the validation part."""

    def loss(
        self,
        network: PrototypeNetwork,
        layers: Mapping[str, Tensor],
        labels: Tensor,
        epoch: int,
    ) -> tuple[Tensor, Tensor]:
        """(loss, logits (B, K)) from the backbone's layers, at an epoch counted from 0."""
        raise TypeError(f"{type(self).__name__} defines no loss")

    def crafting_loss(
        self,
        network: PrototypeNetwork,
        layers: Mapping[str, Tensor],
        labels: Tensor,
        epoch: int,
        clean: Tensor | None,
    ) -> Tensor:
        """What images are crafted to raise: the loss itself, unless a method says otherwise.

        ``clean``: the logits (B, K) of the images that they are crafted from, where the method
        ``crafts_from_logits``.
        """
        return self.loss(network, layers, labels, epoch)[0]

    def penalty(self, loss: Tensor, images: Tensor) -> Tensor:
        """What is added to the loss, from images that carry a gradient."""
        raise TypeError(f"{type(self).__name__} defines no penalty")


def is_paired(labels: Tensor) -> bool:
    """Whether a batch holds clean images first and their crafted ones after them."""
    half = len(labels) // 2
    return len(labels) % 2 == 0 and torch.equal(labels[:half], labels[half:])


def _fits(value: Any, above: bool) -> bool:
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return number and 0 <= float(value) < math.inf and not (above and value == 0)


@torch.no_grad()
def class_means(
    network: PrototypeNetwork, data: Dataset, per_class: int = 256
) -> dict[str, Tensor]:
    """Each supervised layer's mean feature of each class (K, D), over a part of the data.

    The network is left in eval mode.
    """
    classes = network.classes
    sample = data.balanced_subset(min(len(data), per_class * classes))
    network.eval()
    device = next(network.parameters()).device
    parts = [
        network.supervised_features(network.activations(sample.images(rows).to(device)))
        for rows in torch.arange(len(sample)).split(256)
    ]
    means = {}
    for name in network.head.layers:
        features = torch.cat([part[name] for part in parts])
        by_class = [features[sample.labels == k].mean(0) for k in range(classes)]
        means[name] = torch.stack(by_class)
    return means


RECIPES: Catalogue[type[Recipe]] = Catalogue("recipe")
