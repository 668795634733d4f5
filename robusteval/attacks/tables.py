"""What a library's attacks take, as data: their norms, their parameters and these' ranges.

An attack that isn't in its library's table is refused: with values that nobody looked at it may do
nothing, and a model would look robust.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Protocol

from torch import Tensor, nn

from robusteval.attacks.ranges import Range, require_within
from robusteval.attacks.record import Attack, Gradients, Library, Needs, Passes, defaults_of
from robusteval.attacks.results import AttackResult
from robusteval.catalogue import near_names
from robusteval.errors import AttackError, UnknownNameError
from robusteval.types import Norm, ThreatModel


@dataclass(frozen=True)
class Listed:
    """One attack of a library: the norms that it can work in, the ranges of its parameters, its
    passes, the names of its parameters for ε and for the norm's order, and what it needs.

    Without a name for ε it minimises a norm.
    """

    norms: tuple[Norm, ...]
    parameters: Mapping[str, Range]
    passes: Passes
    eps: str = ""
    order: str = ""
    classes: int = 2
    channels: int | None = None
    square_images: tuple[Norm, ...] = ()
    gradients: Gradients = "uses"


class Runner(Protocol):
    """Runs one attack of a library by its name."""

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        *,
        name: str,
        seed: int,
        parameters: dict[str, Any],
    ) -> AttackResult: ...


@dataclass(frozen=True)
class Table:
    """A library's attacks by name, and why others are refused."""

    library: Library
    listed: Mapping[str, Listed]
    refused: Mapping[str, str] = field(default_factory=dict)

    def taken(self, name: str, norm: Norm, parameters: Mapping[str, Any]) -> Listed:
        """What a plain call takes.  Raises AttackError for what can't run like this."""
        try:
            require_known(self.library.name, name, self.listed, self.refused)
        except UnknownNameError as error:
            raise AttackError(str(error)) from None
        listed = self.listed[name]
        if norm not in listed.norms:
            norms = ", ".join(listed.norms)
            raise AttackError(f"{self.whose(name)} doesn't work in {norm}: take one of {norms}")
        require_within(self.whose(name), parameters, listed.parameters)
        return listed

    def whose(self, name: str) -> str:
        """What messages call an attack."""
        return f"{self.library.name}.{name}"

    def records(
        self, run: Runner, original: Callable[[str], Callable[..., Any]], version: int
    ) -> tuple[Attack, ...]:
        """Their records.  ``original(name)`` is what the library itself calls so; ``version`` is
        that of ``run``, whatever the library's own is."""
        return tuple(
            Attack(
                name=name,
                library=self.library,
                function=_named(run, name),
                norms=listed.norms,
                knows_eps=bool(listed.eps),
                needs=Needs(
                    prototypes=False,
                    classes=listed.classes,
                    channels=listed.channels,
                    square_images=listed.square_images,
                ),
                gradients=listed.gradients,
                by_sample=False,
                passes=listed.passes,
                parameters=listed.parameters,
                defaults=defaults_of(partial(original, name)),
                version=version,
            )
            for name, listed in self.listed.items()
        )


def require_known(
    library: str, name: str, known: Collection[str], refused: Mapping[str, str]
) -> None:
    """Raises UnknownNameError where a library has no such attack, AttackError for a refused one."""
    if name in refused:
        raise AttackError(f"{library}.{name} can't be run: {refused[name]}")
    if name not in known:
        raise UnknownNameError(f"{library} has no attack {name!r}: {near_names(name, known)}")


def require_fit(
    whose: str,
    listed: Listed,
    classes: int,
    images: Tensor,
    norm: Norm,
    parameters: Mapping[str, Any],
) -> None:
    """Raises AttackError for a model or images (B, C, H, W) that an attack can't work on."""
    fewest = max(listed.classes, 3) if "dlr" in parameters.values() else listed.classes
    if classes < fewest:
        raise AttackError(f"{whose} needs {fewest} classes: leave it out")
    if listed.channels not in (None, images.shape[1]):
        raise AttackError(f"{whose} needs images of {listed.channels} channels: leave it out")
    height, width = images.shape[-2:]
    if norm in listed.square_images and height != width:
        raise AttackError(f"{whose} can't run in {norm} on {height}×{width} images: leave it out")


def _named(run: Runner, name: str) -> Callable[..., AttackResult]:
    """A library's attack as one of ours is called."""

    @wraps(run)  # so that its code is that of ``run``
    def attack(
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        *,
        seed: int,
        **parameters: Any,
    ) -> AttackResult:
        return run(model, images, labels, threat, name=name, seed=seed, parameters=parameters)

    return attack
