"""The linear layer that makes logits of a network's features, where there is one."""

from typing import NamedTuple

from torch import Tensor

from robusteval.models.network import PrototypeNetwork


class LinearHead(NamedTuple):
    """Logits (B, K) are ``features @ weight.T + bias``, less a constant of each sample."""

    weight: Tensor  # (K, D)
    bias: Tensor  # (K,)
    by_length: float = 0.0  # what that is of the squared length of the features

    def logits(self, features: Tensor) -> Tensor:
        """The model's logits (B, K) of features (B, D), in float64."""
        lengths = features.double().square().sum(1, keepdim=True)
        return self.linear(features) - self.by_length * lengths

    def linear(self, features: Tensor) -> Tensor:
        """(B, K) Without the constant of each sample, in float64."""
        return features.double() @ self.weight.double().T + self.bias.double()


def linear_head_of(network: PrototypeNetwork, by_distances: bool) -> LinearHead | None:
    """A network's, for the features that its prototypes, or else its classifier, are given.

    ``by_distances``: whether nearest prototypes alone say the class.  Their logits are linear but
    for −‖z‖² where squared Euclidean distances of one prototype a class are read, or the mean of
    several: −‖z − w‖² = 2 w·z − ‖w‖² − ‖z‖².  Those of ``dot`` are linear as they are.
    """
    if by_distances:
        return _of_prototypes(network)
    if (classifier := network.classifier) is None or not _same_features(network):
        return None
    return LinearHead(classifier.weight, classifier.bias)


def _same_features(network: PrototypeNetwork) -> bool:
    """Whether the deepest prototypes are compared with what the classifier is given."""
    layers, embedding = network.head.layers, network.embedding_layer
    return not layers or (layers[-1] == embedding and embedding not in network.head.branch_dims)


def _of_prototypes(network: PrototypeNetwork) -> LinearHead | None:
    head = network.head
    prototypes = network.prototypes[head.layers[-1]].detach()  # (K, M, D)
    linear = head.similarity in ("sql2", "dot")
    if not linear or (prototypes.shape[1] > 1 and head.pooling != "mean"):
        return None
    centres, lengths = prototypes.mean(1), prototypes.square().sum(2).mean(1)
    if head.similarity == "dot":
        return LinearHead(centres, lengths.new_zeros(lengths.shape))
    return LinearHead(2 * centres, -lengths, by_length=1.0)
