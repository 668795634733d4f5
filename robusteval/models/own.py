"""Prototypes of one's own beside a foreign module: a network like the project's, made of both.

The module stays what it is.  Its features are the output of one of its layers, of a function, or
of the module itself; prototypes (K, M, D) are compared with them as in any prototype network.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robusteval.catalogue import near_names
from robusteval.errors import AttackError, kind_of, shown
from robusteval.models.answers import answer, as_logits
from robusteval.models.foreign import Normalised, bare
from robusteval.models.head import Head, OwnReading, Pooling, Similarity
from robusteval.models.network import PrototypeNetwork, precise
from robusteval.models.prototypes import pool_to_classes, prototype_distances
from robusteval.schema import told_problem

Features = str | Callable[[Tensor], Tensor] | None
Wanted = Literal["logits", "features", "both"]
AT = "features"  # what the one layer with prototypes is called


@dataclass(frozen=True)
class OwnPrototypes:
    """Prototypes (K, M, D) or (K, D), and how a module's features are compared with them.

    ``features``: a layer's name, as in ``named_modules()``; or a function of the images as the
    module takes them (normalised); or None for the module's own output.  Vectors (B, D), or maps
    (B, D, H, W), which are averaged over H and W.  ``reading``: whose word the logits are, the
    ``module``'s own or the ``nearest_prototype``'s, by way of ``pooling`` and ``temperature``.
    """

    prototypes: Any
    features: Features = None
    similarity: Similarity = "sql2"
    pooling: Pooling = "max"
    temperature: float = 1.0
    reading: OwnReading = "module"


@dataclass(frozen=True)
class Agreement:
    """Nearest prototypes beside a module's own answers, on some images.

    ``same``: how many of them the nearest prototype puts in the class that the module says; None
    where the module gives no logits.  ``distance``: the median one to the nearest prototype.
    """

    same: int | None
    of: int
    distance: float


class OwnBackbone(nn.Module):
    """A foreign module's logits (B, K) and its features (B, D) or (B, D, H, W), by these names."""

    def __init__(self, module: Normalised, features: Features) -> None:
        super().__init__()
        self.module = module
        self.layer: str | None = None
        self.function: Callable[[Tensor], Any] | None = None
        if isinstance(features, str):
            self.layer = _layer(module.module, features)
        elif features is not None:
            self.function = features  # a module among functions is registered by this
            owner = getattr(features, "__self__", None)
            self.owner = owner if isinstance(owner, nn.Module) else None

    @property
    def place(self) -> str:
        """Where features come from, in words."""
        if self.layer is not None:
            return f"the layer {self.layer!r}"
        return "the output of the module" if self.function is None else "a function"

    def forward(self, images: Tensor, wanted: Wanted = "both") -> dict[str, Tensor]:
        """What is wanted, by the names ``logits`` and ``features``: no more passes than needed."""
        if self.layer is not None:
            return self._by_layer(images, wanted)
        if self.function is None:
            return {AT: answer(self.module.raw, images)}
        found = {}
        if wanted != "logits":
            found[AT] = answer(self._by_function, images)
        if wanted != "features":
            found["logits"] = answer(self.module, images)
        return found

    def _by_function(self, images: Tensor) -> Any:
        assert self.function is not None, "asked before"
        return self.function(self.module.normalise(images))

    def _by_layer(self, images: Tensor, wanted: Wanted) -> dict[str, Tensor]:
        if wanted == "logits":
            return {"logits": answer(self.module, images)}
        seen: list[Any] = []

        def pass_through(images: Tensor) -> Any:
            seen.clear()
            return self.module.raw(images) if wanted == "features" else self.module(images)

        def keep(layer: nn.Module, given: Any, output: Any) -> None:
            # A copy, since the next layer may work in place.
            seen.append(output.clone() if isinstance(output, Tensor) else output)

        # Anew at each pass, so that a copy of the module never tells the original.
        hook = self.module.module.get_submodule(str(self.layer)).register_forward_hook(keep)
        try:
            logits = answer(pass_through, images)
        finally:
            hook.remove()
        if len(seen) != 1:
            raise AttackError(
                f"features: {self.place} is reached {len(seen)} times in a pass: name one that is "
                "reached once, or give a function"
            )
        return {AT: seen[0]} if wanted == "features" else {AT: seen[0], "logits": logits}


def _layer(module: nn.Module, name: str) -> str:
    """A layer's full name.  Raises AttackError where there is none, or it can't be listened to."""
    if isinstance(module, torch.jit.ScriptModule):
        raise AttackError("features: a TorchScript module's layers can't be read: give a function")
    known: list[str] = [inner for inner, _ in module.named_modules()]
    if name in known:
        return name
    if found := [inner for inner in known if bare(inner) == bare(name)]:
        return found[0]
    hint = near_names(name, [inner for inner in known if inner])
    raise AttackError(f"features = {shown(name)}: the module has no such layer: {hint}")


class OwnNetwork(PrototypeNetwork):
    """A foreign module as a network with prototypes (K, M, D) at one layer."""

    backbone: nn.Module  # type: ignore[assignment]  # OwnBackbone, or its faster form

    def __init__(self, module: Normalised, own: OwnPrototypes, classes: int | None) -> None:
        nn.Module.__init__(self)  # the parts below, and no random start of them
        prototypes = as_prototypes(own.prototypes, classes)
        device = module.mean.device
        self.classes, self.reading = len(prototypes), own.reading
        self.head = _head(own, prototypes.shape[1])
        self.backbone = OwnBackbone(module, _sound_features(own))
        self.place, self.reader = self.backbone.place, module.reader
        self.prototypes = nn.ParameterDict({AT: nn.Parameter(prototypes.to(device))})
        self.classifier = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of it."""
        shape, own = tuple(self.prototypes[AT].shape), self.reading == "module"
        nearest = f"those of the nearest prototypes, pooled by {self.head.pooling}"
        whose = "the module's own" if own else nearest
        return (
            *self.reader.notes(logits=own),
            f"prototypes {shape} are compared by {self.head.similarity} with {self.place}",
            f"classes are {whose}",
        )

    @property
    def fingerprint(self) -> str:
        """All that decides outputs beside tensors."""
        head = self.head
        facts = [self.reading, head.similarity, head.pooling, head.temperature, self.place]
        return json.dumps([*facts, list(self.prototypes[AT].shape)])

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        """Features, and the module's logits (B, K) where they are read."""
        return self._layers(images, "both" if self.reading == "module" else "features")

    def _layers(self, images: Tensor, wanted: Wanted) -> dict[str, Tensor]:
        layers: dict[str, Tensor] = self.backbone(images, wanted)
        if "logits" in layers:
            layers["logits"] = as_logits(layers["logits"], len(images), self.classes)
        if AT in layers:
            layers[AT] = self._vectors(layers[AT], len(images))
        return layers

    def _vectors(self, found: Any, count: int) -> Tensor:
        """Features (B, D) in float32.  Raises AttackError for what is none, or of another D."""
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = str(found.dtype) if isinstance(found, Tensor) else kind_of(found)
            raise AttackError(
                f"features: {self.place} gives {kind}: features are a tensor (B, D) of floats, so "
                "give a function that returns them"
            )
        dim = self.prototypes[AT].shape[2]
        vectors = found.mean((2, 3)) if found.dim() == 4 else found
        if vectors.shape != (count, dim):
            raise AttackError(
                f"features: {self.place} gives shape {tuple(found.shape)} for {count} images, the "
                f"prototypes are {tuple(self.prototypes[AT].shape)}: features are (B, {dim}), or "
                f"maps (B, {dim}, H, W), which are averaged"
            )
        return precise(vectors)

    def supervised_features(self, layers: Any) -> dict[str, Tensor]:
        return {AT: layers[AT]}

    def logits(self, layers: Any) -> Tensor:
        if self.reading == "module":
            found: Tensor = layers["logits"]
            return found
        head = self.head
        return pool_to_classes(-self.distances(layers), head.pooling, head.temperature)

    def distances(self, layers: Any) -> Tensor:
        """Distances (B, K, M)."""
        return prototype_distances(layers[AT], self.prototypes[AT], self.head.similarity)

    def forward(self, images: Tensor) -> Tensor:
        wanted: Wanted = "logits" if self.reading == "module" else "features"
        return self.logits(self._layers(images, wanted))

    @torch.no_grad()
    def agreement(self, images: Tensor) -> Agreement:
        """How nearest prototypes agree with the module's own answers on images (B, C, H, W)."""
        nearest = self.distances(self._layers(images, "features")).amin(2)  # (B, K)
        if not torch.isfinite(nearest).all():
            raise AttackError(f"features: {self.place} gives NaN or infinity on clean images")
        logits = self._own_logits(images)
        same = None if logits is None else int((logits.argmax(1) == nearest.argmin(1)).sum())
        return Agreement(same, len(images), float(nearest.amin(1).median()))

    def _own_logits(self, images: Tensor) -> Tensor | None:
        """The module's own, read or not; None where it returns something else."""
        try:
            return self._layers(images, "logits")["logits"]
        except (AttackError, KeyError):
            if self.reading == "module":
                raise
            return None


def _sound_features(own: OwnPrototypes) -> Features:
    """Raises AttackError for features that are none, or that are missing."""
    features = own.features
    if features is None and own.reading == "module":
        raise AttackError(
            "prototypes need features: name a layer (features=…, as in named_modules()) or give a "
            'function; where the module returns features itself, say reading="nearest_prototype"'
        )
    if features is not None and not isinstance(features, str) and not callable(features):
        raise AttackError(f"features = {shown(features)}: give a layer's name or a function")
    return features


def _head(own: OwnPrototypes, per_class: int) -> Head:
    """The same facts as an entry's head has.  Raises AttackError for what isn't known."""
    if own.reading not in get_args(OwnReading):
        known = ", ".join(get_args(OwnReading))
        raise AttackError(f"reading = {shown(own.reading)}: choose one of {known}")
    nearest = own.reading == "nearest_prototype"
    try:
        return Head(
            reading="nearest_prototype" if nearest else "softmax",  # by a classifier of its own
            layers=[AT],
            similarity=own.similarity,
            prototypes_per_class=per_class,
            pooling=own.pooling,
            temperature=own.temperature,
        )
    except ValidationError as error:
        raise AttackError(f"prototypes: {told_problem(error)}") from None


def as_prototypes(given: Any, classes: int | None) -> Tensor:
    """A copy (K, M, D) in float32 of prototypes (K, M, D) or (K, D), in a tensor or an array.

    Raises AttackError for another shape, another number of classes, and values that aren't finite.
    """
    try:
        found = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AttackError(
            f"prototypes are {kind_of(given)}: give a tensor or an array (K, M, D) or (K, D)"
        ) from None
    told = f"prototypes {tuple(found.shape)}"
    if found.is_complex() or found.dtype == torch.bool or found.layout is not torch.strided:
        raise AttackError(f"{told} are {found.dtype}, {found.layout}: give dense numbers")
    if found.is_meta:
        raise AttackError(f"{told} are on the device meta: give their values")
    if found.dim() not in (2, 3) or 0 in found.shape:
        raise AttackError(f"{told}: give (K, M, D), M for each of K classes, or (K, D)")
    if len(found) != (classes or len(found)) or len(found) < 2:
        of = f"{classes} classes" if classes else "two classes or more"
        raise AttackError(f"{told} are of {len(found)} classes: give those of {of}")
    if not torch.isfinite(found := found.to(torch.float32)).all():
        raise AttackError(f"{told} hold NaN or infinity: give finite ones")
    return (found if found.dim() == 3 else found[:, None]).clone().contiguous()
