"""The adapter: what every attack, detector and metric sees of a model."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from robusteval.errors import AttackError, RobustevalError, kind_of, reason, shown
from robusteval.models.head import Similarity
from robusteval.models.network import PrototypeNetwork, precise
from robusteval.models.prototypes import prototype_distances


@dataclass(frozen=True)
class Parts:
    """What a model has beside its logits: how many layers with prototypes, whether features of its
    own."""

    layers: int
    features: bool

    @property
    def prototypes(self) -> bool:
        """Whether it has some."""
        return self.layers > 0


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
        """Raises AttackError for what is no logits (B, K)."""
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
        return Parts(len(self.layers), self.has_features)

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

    def all_distances(self, images: Tensor) -> dict[str, Tensor]:
        """For each layer whose prototypes are known its distances (B, K, M), as it has them."""
        return {self.layers[-1]: self.distances(images)} if self.layers else {}

    def prototype_vectors(self) -> dict[str, Tensor]:
        """Each layer's prototypes (K, M, D), as unit vectors where only directions count; empty
        where the model doesn't show them."""
        return {}

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, K), and for each layer with prototypes the squared distances (B, K, M)."""
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
        layers = self.module.activations(images)
        if self.layers:
            return self.module.supervised_features(layers)[self.layers[-1]]
        return precise(layers[self.module.embedding_layer])

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
        if self.module.head.similarity == "cosine":
            return {name: F.normalize(vectors, dim=2) for name, vectors in found.items()}
        return found

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

    def __init__(self, module: nn.Module, mean: ArrayLike, std: ArrayLike) -> None:
        super().__init__()
        self.module = module
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, _by_channel(name, values).to(device), persistent=False)
        if not (self.std > 0).all():
            raise AttackError(f"std = {std!r}: choose values above 0")
        if len({1, self.mean.shape[1], self.std.shape[1]}) > 2:
            raise AttackError(
                f"mean has {self.mean.shape[1]} values and std {self.std.shape[1]}: give as many, "
                "or a single one"
            )

    def forward(self, images: Tensor) -> Any:
        channels = max(self.mean.shape[1], self.std.shape[1])
        if channels not in (1, images.shape[1]):  # else one channel would become several
            raise AttackError(
                f"mean and std have {channels} values, the images {images.shape[1]} channels: give "
                "one for each, or a single one"
            )
        return self.module((images - self.mean) / self.std)


def _by_channel(name: str, values: Any) -> Tensor:
    """One number, or one for each channel, of whatever type: (1, C, 1, 1) in float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values if values.dtype in (torch.bool, torch.complex64) else values.double()
    try:
        numbers = np.asarray(values)
    except (TypeError, ValueError):  # lists of different lengths
        numbers = np.asarray("")
    if numbers.dtype.kind not in "iuf" or numbers.size != max(numbers.shape, default=1):
        raise AttackError(f"{name} = {values!r}: give a number, or one for each channel")
    found = torch.from_numpy(numbers.astype(np.float64).reshape(-1)).float()
    if not torch.isfinite(found).all() or not len(found):
        raise AttackError(f"{name} = {values!r}: give finite numbers")
    return found.view(1, -1, 1, 1)


def wrap_module(
    module: nn.Module,
    classes: int,
    mean: ArrayLike = (0.0,),
    std: ArrayLike = (1.0,),
) -> Adapter:
    """Any ``nn.Module`` that maps normalised images to logits (B, K), as an adapter.

    ``mean`` and ``std``: one number, or one for each channel, in a list, an array or a tensor.  The
    module is put in eval mode and its parameters are frozen, in place.  Raises AttackError for what
    is no module, for fewer than two classes, and for a std that isn't above 0.
    """
    if not isinstance(module, nn.Module):
        raise AttackError(f"{kind_of(module)} is no torch module: wrap what returns logits in one")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise AttackError(f"classes = {shown(classes)}: choose a whole number from 2 up")
    return Adapter(Normalised(module, mean, std), classes)


def require_answers(module: nn.Module, images: Tensor, classes: int | None = None) -> int:
    """How many classes a foreign module tells apart.

    Raises AttackError where it can't read ``images`` (B, C, H, W), B from 1 up, or returns no
    logits (B, K), be it for one image alone or for two.
    """
    if any(p.is_inference() for p in module.parameters()):
        raise AttackError(
            "the module was made in torch.inference_mode(), where no gradient is recorded: make it "
            "outside"
        )
    for some in (images[:1], torch.stack([images[0], images[-1]])):
        try:
            with torch.no_grad():
                logits = as_logits(answer(module, some), len(some), classes)
        except RobustevalError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything
            raise AttackError(
                f"the module fails on clean images ({type(error).__name__}: {reason(error)}): "
                f"{_mend(module, images)}"
            ) from None
        classes = logits.shape[1]
    assert classes is not None, "both passes say it"
    return classes


def _mend(module: nn.Module, images: Tensor) -> str:
    """What to do where a module fails: as a rule images and weights differ in type."""
    kinds = [p.dtype for p in module.parameters() if p.is_floating_point()]
    if not kinds or images.dtype in kinds:
        return "mend it"
    weights, pixels = (str(kind).removeprefix("torch.") for kind in (kinds[0], images.dtype))
    return f"its weights are {weights}, the images {pixels}, so give both one type"


def answer(module: nn.Module, images: Tensor) -> Any:
    """What a foreign module makes of a copy of ``images``: some change in place what they are
    given, and those would be the caller's.

    NumPy refuses what asks for a gradient; a module that goes through it has none to give.
    """
    try:
        return module(images.clone())
    except RuntimeError as error:
        if "Can't call numpy() on Tensor that requires grad" not in str(error):
            raise
    except SystemExit as error:  # else the program would end, and with the module's exit code
        raise AttackError(
            f"the module ends the program (SystemExit: {reason(error)}): leave that out"
        ) from None
    return module(images.detach().clone())


def as_logits(found: Any, count: int, classes: int | None = None) -> Tensor:
    """What a module returned for ``count`` images, if that is logits (B, K), K from 2 up.

    Half precision becomes float32, as in ``precise``.  Raises AttackError for anything else.
    """
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = str(found.dtype) if isinstance(found, Tensor) else kind_of(found)
        raise AttackError(
            f"the module returns {kind}: attacks need logits (B, K), so wrap it in a module that "
            "returns them alone"
        )
    if found.is_meta or found.layout is not torch.strided:
        kind = "on the device meta" if found.is_meta else str(found.layout)
        raise AttackError(f"the module returns logits {kind}: return a dense tensor of values")
    wanted = classes or (found.shape[1] if found.dim() == 2 else 0)
    if found.shape != (count, wanted) or wanted < 2:
        images = "one image" if count == 1 else f"{count} images"
        squeezed = ", so leave out what squeezes" if count == 1 and found.dim() == 1 else ""
        raise AttackError(
            f"the module returns shape {tuple(found.shape)} for {images}: attacks need logits "
            f"(B, {classes or 'K'}) of two classes or more{squeezed}"
        )
    if found.is_inference() and not torch.is_inference_mode_enabled():
        found = found.clone()  # else no gradient could be asked for beside it
    return precise(found)
