"""The adapter: what every attack, detector and metric sees of a model."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from robusteval.errors import AttackError
from robusteval.models.heads import Similarity, prototype_distances
from robusteval.models.network import PrototypeNetwork, precise


class Adapter(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K), frozen and always in eval mode.

    Attack libraries switch modes and collect parameter gradients; here ``train()`` keeps eval mode
    and no parameter takes a gradient, so that a run can't change the model it measures.
    """

    def __init__(self, module: nn.Module, classes: int) -> None:
        super().__init__()
        self.module = module
        self.classes = classes
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever is asked."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        if not isinstance(logits, Tensor):
            raise AttackError(
                f"the module returns a {type(logits).__name__}: attacks need logits (B, K), so "
                "wrap it in a module that returns them alone"
            )
        return logits

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that carry prototypes, shallow to deep; empty if there are none."""
        return ()

    @property
    def reads_distances(self) -> bool:
        """Whether classes are read from distances to prototypes, and from nothing else."""
        return False

    @property
    def prototypes_per_class(self) -> int:
        """M of the deepest layer that carries prototypes; 1 where nothing is known of them."""
        return 1

    def class_distances(self) -> Tensor | None:
        """How far apart classes are in feature space (K, K), zero to themselves; None if unknown.

        A logit gap over this distance is the way to that class's region, up to the features'
        Lipschitz constant (Voráček and Hein 2022): it ranks targets without a Jacobian.
        """
        return None

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D) that the model classifies by.  A plain module's are its logits."""
        features: Tensor = self(images)
        return features.flatten(1)

    def distances(self, images: Tensor) -> Tensor:
        """Distances (B, K, M) to the prototypes of the deepest layer that has some."""
        raise AttackError("this model has no prototypes: leave prototype-aware attacks out")

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K), and for each layer with prototypes the squared distances (B, K, M)."""
        return self(images), {}


class PrototypeAdapter(Adapter):
    """An adapter around a network that knows its layers, and its prototypes if it has some."""

    module: PrototypeNetwork

    def __init__(self, network: PrototypeNetwork) -> None:
        super().__init__(network, network.head.classes)

    @property
    def layers(self) -> tuple[str, ...]:
        return self.module.head.layers

    @property
    def reads_distances(self) -> bool:
        return self.module.head.reading == "nearest_prototype"

    @property
    def prototypes_per_class(self) -> int:
        return self.module.prototypes[self.layers[-1]].shape[1] if self.layers else 1

    def class_distances(self) -> Tensor | None:
        if self.module.classifier is not None:
            rows = self.module.classifier.weight
            return torch.cdist(rows, rows)
        prototypes = self.module.prototypes[self.layers[-1]]  # (K, M, D)
        classes, per_class, _ = prototypes.shape
        flat = prototypes.flatten(0, 1)
        pairs = torch.cdist(flat, flat).view(classes, per_class, classes, per_class)
        return pairs.amin((1, 3)).fill_diagonal_(0)

    def embed(self, images: Tensor) -> Tensor:
        layers = self.module.activations(images)
        if self.layers:
            return self.module.supervised_features(layers)[self.layers[-1]]
        return precise(layers[self.module.embedding_layer])

    def distances(self, images: Tensor) -> Tensor:
        if not self.layers:
            return super().distances(images)
        return self._distances(self.embed(images), self.layers[-1], self.module.head.similarity)

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        layers = self.module.activations(images)
        features = self.module.supervised_features(layers)
        squared = {name: self._squared(f, name) for name, f in features.items()}
        return self.module.logits(layers), squared

    def _squared(self, features: Tensor, layer: str) -> Tensor:
        """Between unit vectors, ‖f − w‖² = 2 (1 − cos), where the head sees only directions."""
        if self.module.head.similarity == "cosine":
            return 2 * self._distances(features, layer, "cosine")
        return self._distances(features, layer, "sql2")

    def _distances(self, features: Tensor, layer: str, similarity: Similarity) -> Tensor:
        return prototype_distances(features, self.module.prototypes[layer], similarity)


class Normalised(nn.Module):
    """A foreign module behind its own input normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        return self.module((images - self.mean) / self.std)


def wrap_module(
    module: nn.Module,
    classes: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Adapter:
    """Any ``nn.Module`` that maps normalised images to logits (B, K), as an adapter.

    The module is put in eval mode and its parameters are frozen, in place.
    """
    return Adapter(Normalised(module, mean, std), classes)
