"""The trainable network that an entry describes: backbone, branches, prototypes, classifier."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robusteval.models.backbones import Backbone
from robusteval.models.head import Head
from robusteval.models.prototypes import pool_to_classes, prototype_distances


class AuxiliaryBranch(nn.Module):
    """G_φ of PCL (eq. 10): global average pooling of maps, then a linear layer if asked for."""

    def __init__(self, channels: int, dim: int | None) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dim) if dim else nn.Identity()

    def forward(self, activations: Tensor) -> Tensor:
        pooled = activations.mean((2, 3)) if activations.dim() == 4 else activations
        out: Tensor = self.project(precise(pooled))
        return out


def precise(values: Tensor) -> Tensor:
    """Float32 where autocast made less of it; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


class PrototypeNetwork(nn.Module):
    """Images in [0, 1] to logits, features and distances.

    Normalisation is inside, so that ε and [0, 1] always mean pixels.  A network without layers
    that carry prototypes is a plain classifier.  ``counts``: how many prototypes each class has of
    its own; where these numbers differ, the last of a class fills the rest of its M places.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head, self.classes = head, classes
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.counts = head.counts(classes)
        self.branches = nn.ModuleDict()
        self.prototypes = nn.ParameterDict()
        for layer in head.layers:
            branch_dim = head.branch_dims.get(layer)
            self.branches[layer] = AuxiliaryBranch(backbone.channels[layer], branch_dim)
            shape = (
                classes,
                head.most_prototypes,
                branch_dim or backbone.channels[layer],
            )
            self.prototypes[layer] = nn.Parameter(torch.randn(shape))
        self.fill_places()
        self.embedding_layer = list(backbone.channels)[-1]
        self.classifier: nn.Linear | None = None
        if head.reading == "softmax":
            self.classifier = nn.Linear(backbone.channels[self.embedding_layer], classes)

    @torch.no_grad()
    def fill_places(self) -> None:
        """Puts each class's last prototype into the places that it has no prototype for."""
        for prototypes in self.prototypes.values():
            for own, count in zip(prototypes, self.counts, strict=True):
                own[count:] = own[count - 1]

    def own_places(self, prototypes: Tensor) -> Tensor:
        """Whether each of the places (K, M) holds a prototype of its own: bool."""
        counts = torch.tensor(self.counts, device=prototypes.device)
        return torch.arange(prototypes.shape[1], device=prototypes.device) < counts[:, None]

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's named layers for images (B, C, H, W) in [0, 1]."""
        layers: dict[str, Tensor] = self.backbone((images - self.mean) / self.std)
        hidden = set(self.backbone.on_request) - set(self.head.layers)
        return {name: values for name, values in layers.items() if name not in hidden}

    def supervised_features(self, layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each supervised layer's features (B, D) in float32, after its branch."""
        return {name: precise(self.branches[name](layers[name])) for name in self.head.layers}

    def logits(self, layers: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K) in float32 from the backbone's layers."""
        if self.classifier is not None:
            return precise(self.classifier(precise(layers[self.embedding_layer])))
        layer = self.head.layers[-1]
        features = precise(self.branches[layer](layers[layer]))
        distances = prototype_distances(features, self.prototypes[layer], self.head.similarity)
        return pool_to_classes(-distances, self.head.pooling, self.head.temperature)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.activations(images))
