"""What is known of an attack: one record for each, whether ours, a library's or a plug-in's."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.ranges import FROM_THE_HARNESS, Range, require_norms, require_within
from robusteval.attacks.results import AttackResult
from robusteval.errors import AttackError
from robusteval.types import Norm, ThreatModel

LINF: tuple[Norm, ...] = ("Linf",)
L2: tuple[Norm, ...] = ("L2",)
BOTH: tuple[Norm, ...] = ("Linf", "L2")

Parameters = Mapping[str, Any]
Gradients = Literal["uses", "none", "both"]
Passes = Callable[[Parameters, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Library:
    """Whose attacks they are.

    ``name``: what suites call it; ``package``: the one whose version decides what an attack
    returns; ``install``: what to do where that isn't installed; ``accelerated``: whether its
    attacks see the model's form for libraries, and not the model itself, whose passes ours count
    in its own precision.
    """

    name: str
    package: str
    install: str
    accelerated: bool

    @property
    def version(self) -> str:
        """Of the package.  Raises AttackError where it isn't installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            raise AttackError(f"{self.package} is not installed: {self.install}") from None


# What a plug-in's record says; its own package takes the place.
PLUGIN = Library(name="robusteval", package="", install="", accelerated=False)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an attack can't do without.

    - ``prototypes``: whether the model must have prototypes.
    - ``classes``: how many classes there must be at least.
    - ``channels``: how many channels images must have; None for any.
    - ``square_images``: the norms in which images must be as high as wide.
    - ``training_loss``: whether the loss that the model was trained on must be known.
    """

    prototypes: bool
    classes: int
    channels: int | None
    square_images: tuple[Norm, ...]
    training_loss: bool = False  # younger than plug-ins, whose attacks need none


ANY_MODEL = Needs(prototypes=False, classes=2, channels=None, square_images=())


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack.  No field has a default: what nobody stated would be taken for true.

    - ``function(model, images, labels, threat, *, seed, **parameters)`` returns adversarial images
      (B, C, H, W), or an ``AttackResult``.
    - ``knows_eps``: whether it is told ε.  Other attacks minimise a norm, and one run of them is
      judged at every ε.
    - ``gradients``: ``uses`` the model's own; ``none``; or ``both``, if it goes by gradients and by
      something else, so that what it breaks says nothing about gradients.
    - ``by_sample``: whether its passes tell when each sample broke.  If not, each sample of a batch
      bears an equal share.
    - ``passes(parameters, classes)``: the forward and backward passes that an unbroken sample takes
      at most.
    - ``parameters``: the range of each; ``defaults()``: the values of those that aren't given.
    - ``version``: raised whenever what the attack returns changes.
    """

    name: str
    library: Library
    function: Callable[..., Tensor | AttackResult]
    norms: tuple[Norm, ...]
    knows_eps: bool
    needs: Needs
    gradients: Gradients
    by_sample: bool
    passes: Passes
    parameters: Mapping[str, Range]
    defaults: Callable[[], dict[str, Any]]
    version: int

    @property
    def key(self) -> str:
        """Such as ``torchattacks.PGD``."""
        return f"{self.library.name}.{self.name}"

    def check(self, norms: tuple[Norm, ...] = (), parameters: Parameters | None = None) -> None:
        """Raises AttackError if it can't run in these norms or with these parameters, or if its
        library is missing."""
        require_norms(self.key, norms, self.norms)
        require_within(self.key, parameters or {}, self.parameters)
        self.defaults()  # loads the library

    def all_parameters(self, given: Parameters) -> dict[str, Any]:
        """The parameters given, and the defaults of those that weren't."""
        return {**self.defaults(), **given}

    def expected_passes(self, given: Parameters, classes: int) -> tuple[int, int]:
        """The most forward and backward passes that an unbroken sample takes."""
        return self.passes(self.all_parameters(given), classes)

    def run(
        self,
        model: Counted,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        seed: int,
        parameters: Parameters | None = None,
    ) -> AttackResult:
        """Adversarial images for initially correct ``images`` (B, C, H, W) in [0, 1]."""
        given = parameters or {}
        require_within(self.key, given, self.parameters)
        found = self.function(model, images, labels, threat, seed=seed, **given)
        return found if isinstance(found, AttackResult) else AttackResult(found)


def defaults_of(load: Callable[[], Callable[..., Any]]) -> Callable[[], dict[str, Any]]:
    """The defaults in the signature of what ``load`` gives: plain values of an attack's own."""

    def defaults() -> dict[str, Any]:
        return {
            p.name: p.default
            for p in inspect.signature(load()).parameters.values()
            if p.default is None or isinstance(p.default, int | float | str | tuple)
            if p.name not in FROM_THE_HARNESS
        }

    return defaults


def stepwise(forward: int = 1, backward: int = 1, name: str = "steps") -> Passes:
    """So many passes a step."""
    return lambda given, classes: (forward * given[name], backward * given[name])
