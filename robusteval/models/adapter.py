"""The adapter: what every attack, detector and metric sees of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from robusteval.errors import AttackError, kind_of, shown
from robusteval.models.answers import answer, as_logits
from robusteval.models.foreign import Normalised
from robusteval.models.head import OwnReading, Pooling, Similarity
from robusteval.models.linear import LinearHead, linear_head_of
from robusteval.models.network import PrototypeNetwork, precise
from robusteval.models.own import Agreement, Features, OwnNetwork, OwnPrototypes
from robusteval.models.prototypes import prototype_distances


@dataclass(frozen=True)
class Parts:
    """What a model has beside its logits: how many layers with prototypes, whether features of its
    own, whether a linear layer makes logits of them, and whether its training loss is known."""

    layers: int
    features: bool
    linear_head: bool = False
    own_loss: bool = False

    @property
    def prototypes(self) -> bool:
        """Whether it has some."""
        return self.layers > 0


class Adapter(nn.Module):
    """Maps images (B, C, H, W) in [0, 1] to logits (B, K); frozen, and always in eval mode.

    Attack libraries switch modes and collect gradients of parameters.  Here ``train()`` keeps eval
    mode and no parameter takes a gradient, so a run can't change the model that it measures.

    ``wrap_module(…, prototypes=…)`` makes one for prototypes at one layer.  Write a subclass for
    anything else:

    - ``layers`` and ``distances`` show its prototypes, and ``logits_and_distances`` gives both at
      once if one pass can.
    - ``reads_distances``, ``prototypes_per_class`` and ``class_distances`` help attacks to aim.
    - ``has_features``, ``embed`` and ``linear_head`` are read by detectors; ``embed_and_logits``
      gives both at once if one pass can.

    K is the number of classes, M that of prototypes in each, D that of features.  Everything must
    be differentiable with respect to the images, in float32.

    ``own_loss(images, labels)`` is the loss, of a batch, that the model was trained on; None where
    nobody knows it.
    """

    own_loss: Callable[[Tensor, Tensor], Tensor] | None = None

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
        """Logits (B, K).  Raises AttackError for an answer that is something else."""
        return as_logits(answer(self.module, images), len(images), self.classes)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that carry prototypes, shallow to deep; empty if there are none."""
        return ()

    @property
    def has_features(self) -> bool:
        """Whether ``embed`` gives something else than logits."""
        return False

    @property
    def parts(self) -> Parts:
        """What it has beside logits."""
        has_head, has_loss = self.linear_head() is not None, self.own_loss is not None
        return Parts(len(self.layers), self.has_features, has_head, has_loss)

    @property
    def reads_distances(self) -> bool:
        """Whether classes are read from ``distances`` (B, K, M), and from nothing else: the class
        is the nearest prototype's, or that of M pooled.  Attacks then climb margins of distances
        and, where M > 1, aim at single prototypes.  False where a classifier stands beside."""
        return False

    @property
    def prototypes_per_class(self) -> int:
        """M of the deepest layer that carries prototypes, the last size of ``distances``
        (B, K, M); 1 where nothing is known of them."""
        return 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Short facts that a report tells of how the model is read; they are known once it has
        answered."""
        return self.module.reader.notes() if isinstance(self.module, Normalised) else ()

    @property
    def fingerprint(self) -> str:
        """What decides outputs beside parameters and buffers, as text: a part of its digest."""
        return ""

    def agreement(self, images: Tensor) -> Agreement | None:
        """How prototypes that were given beside a module agree with its own answers on images
        (B, C, H, W); None where there are no such prototypes."""
        return None

    def class_distances(self) -> Tensor | None:
        """How far apart classes are in feature space (K, K), zero to themselves; None if unknown.

        A logit gap over this distance is the way to that class's region, up to the features'
        Lipschitz constant (Voráček and Hein 2022): it ranks targets without a Jacobian.
        """
        return None

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D) that the model classifies by, those that the deepest layer's prototypes
        (K, M, D) are compared with.  A plain module's are its logits."""
        features: Tensor = self(images)
        return features.flatten(1)

    def embed_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) as ``embed`` gives them, and logits (B, K)."""
        if self.has_features:
            return self.embed(images), self(images)
        logits: Tensor = self(images)
        return logits.flatten(1), logits

    def linear_head(self) -> LinearHead | None:
        """The layer that makes logits of ``embed``'s features, but for a constant of each sample.

        None where classes aren't linear in the features.
        """
        return None

    @property
    def compares_directions(self) -> bool:
        """Whether features are compared with prototypes as unit vectors."""
        return False

    def squared_of(self, features: Tensor) -> Tensor | None:
        """The deepest layer's squared distances (B, K, M), as ``logits_and_distances`` gives them,
        of ``embed``'s features; None where they need a pass of their own."""
        return None

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        """Inner layers' outputs, shallow to deep, (B, C, H, W) or (B, D); empty where the model
        doesn't show them."""
        return {}

    def distances(self, images: Tensor) -> Tensor:
        """Distances (B, K, M) to the prototypes of the deepest layer that has some, in whatever
        measure the model compares by; smaller is closer.

        Raises AttackError where there are none.
        """
        raise AttackError("this model has no prototypes: leave prototype-aware attacks out")

    def all_distances(self, images: Tensor) -> dict[str, Tensor]:
        """For each layer whose prototypes are known its distances (B, K, M), as it has them."""
        return {self.layers[-1]: self.distances(images)} if self.layers else {}

    def prototype_vectors(self) -> dict[str, Tensor]:
        """Each layer's prototypes (K, M, D), as unit vectors where only directions count; empty
        where the model doesn't show them."""
        return {}

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K), and for each of ``layers``, in that order, the squared distances
        (B, K, M): Euclidean ones, or 2 (1 − cos) where only directions are compared."""
        return self(images), {}


class PrototypeAdapter(Adapter):
    """An adapter around a network that knows its layers, and its prototypes if it has some."""

    module: PrototypeNetwork

    def __init__(self, network: PrototypeNetwork) -> None:
        super().__init__(network, network.classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        return logits

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.module.head.layers)

    @property
    def has_features(self) -> bool:
        return True

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
        return self._features(self.module.activations(images))

    def embed_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.module.activations(images)
        return self._features(layers), self.module.logits(layers)

    def _features(self, layers: dict[str, Tensor]) -> Tensor:
        if self.layers:
            return self.module.supervised_features(layers)[self.layers[-1]]
        return precise(layers[self.module.embedding_layer])

    def linear_head(self) -> LinearHead | None:
        return linear_head_of(self.module, self.reads_distances)

    @property
    def compares_directions(self) -> bool:
        return self.module.head.similarity == "cosine"

    def squared_of(self, features: Tensor) -> Tensor | None:
        return self._squared(features, self.layers[-1]) if self.layers else None

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        return self.module.activations(images)

    def distances(self, images: Tensor) -> Tensor:
        if not self.layers:
            return super().distances(images)
        return self._distances(self.embed(images), self.layers[-1], self.module.head.similarity)

    def all_distances(self, images: Tensor) -> dict[str, Tensor]:
        features = self.module.supervised_features(self.module.activations(images))
        similarity = self.module.head.similarity
        return {name: self._distances(f, name, similarity) for name, f in features.items()}

    def prototype_vectors(self) -> dict[str, Tensor]:
        found = {name: self.module.prototypes[name].detach() for name in self.layers}
        if self.compares_directions:
            return {name: F.normalize(vectors, dim=2) for name, vectors in found.items()}
        return found

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        layers = self.module.activations(images)
        features = self.module.supervised_features(layers)
        squared = {name: self._squared(f, name) for name, f in features.items()}
        return self.module.logits(layers), squared

    def _squared(self, features: Tensor, layer: str) -> Tensor:
        """Between unit vectors, ‖f − w‖² = 2 (1 − cos), where the head sees only directions."""
        if self.compares_directions:
            return 2 * self._distances(features, layer, "cosine")
        return self._distances(features, layer, "sql2")

    def _distances(self, features: Tensor, layer: str, similarity: Similarity) -> Tensor:
        return prototype_distances(features, self.module.prototypes[layer], similarity)


class OwnAdapter(PrototypeAdapter):
    """An adapter around a foreign module with prototypes of one's own beside it."""

    module: OwnNetwork

    @property
    def reads_distances(self) -> bool:
        return self.module.reading == "nearest_prototype"

    @property
    def notes(self) -> tuple[str, ...]:
        return self.module.notes

    @property
    def fingerprint(self) -> str:
        return self.module.fingerprint

    def agreement(self, images: Tensor) -> Agreement:
        return self.module.agreement(images)


def wrap_module(
    module: nn.Module,
    classes: int | None = None,
    mean: ArrayLike = (0.0,),
    std: ArrayLike = (1.0,),
    *,
    prototypes: ArrayLike | Tensor | None = None,
    features: Features = None,
    similarity: Similarity = "sql2",
    pooling: Pooling = "max",
    temperature: float = 1.0,
    reading: OwnReading = "module",
) -> Adapter:
    """An adapter around any ``nn.Module`` that maps normalised images to logits (B, K).

    - ``classes``: K.  It may be left out if ``prototypes`` are given.
    - ``mean``, ``std``: what images in [0, 1] are normalised with: one number, or one for each
      channel, in a list, an array or a tensor.
    - ``prototypes``: (K, M, D), or (K, D) for one in each class.  With them, attacks and detectors
      that need prototypes run as well.
    - ``features``: where prototypes are compared: a layer's name as in ``named_modules()``, or a
      function of normalised images.  It gives vectors (B, D), or maps (B, D, H, W), which are
      averaged over H and W.
    - ``similarity``, ``pooling``, ``temperature``: see ``robusteval.models.prototypes``.
    - ``reading``: ``"module"`` takes the module's own logits.  ``"nearest_prototype"`` pools the M
      similarities of each class to its logit; if the module itself returns the features,
      ``features`` may then be left out.

    Logits may also be the output's attribute or key ``logits``, or the first element of a tuple.
    The first answer decides which, and the report says so.  ``DataParallel`` and ``torch.compile``
    are taken off.  The module is put in eval mode and its parameters are frozen, in place.

    Raises AttackError for something else than a module, for fewer than two classes, for a std that
    isn't above 0, and for prototypes or features that can't be used.
    """
    if not isinstance(module, nn.Module):
        raise AttackError(
            f"{kind_of(module)} is not a torch module: wrap what returns logits in one"
        )
    if classes is not None or prototypes is None:
        _require_classes(classes)
    own = OwnPrototypes(prototypes, features, similarity, pooling, temperature, reading)
    if prototypes is not None:
        return OwnAdapter(OwnNetwork(Normalised(module, mean, std), own, classes))
    if own != OwnPrototypes(None):
        raise AttackError(
            "features, similarity, pooling, temperature and reading say how prototypes are "
            "compared: give prototypes=… with them"
        )
    assert classes is not None, "asked before"
    return Adapter(Normalised(module, mean, std), classes)


def _require_classes(classes: Any) -> None:
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise AttackError(f"classes = {shown(classes)}: choose a whole number from 2 up")
