"""Which attacks there are: library and name to a function."""

import inspect
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.metadata import version as version_of
from typing import Any

from torch import Tensor

from robusteval.attacks import own
from robusteval.attacks.adaptive import adaptive_told
from robusteval.attacks.counting import Counted
from robusteval.attacks.libraries import (
    AUTOATTACK_PARAMETERS,
    WITHOUT_EPS,
    AttackResult,
    autoattack,
    torchattacks_attack,
    torchattacks_module,
)
from robusteval.attacks.smallest import smallest
from robusteval.catalogue import Catalogue, near_names
from robusteval.errors import AttackError, UnknownNameError
from robusteval.types import ThreatModel

LIBRARIES = {
    "torchattacks": "torchattacks",
    "autoattack": "pyautoattack",
    "robusteval": "robusteval",
}
OWN: Catalogue[Any] = Catalogue("attack")
OWN.add("adaptive", adaptive_told)
OWN.add("joint_pc", own.joint_pc)
OWN.add("prototype_margin", own.prototype_margin)
OWN.add("gaussian_noise", own.gaussian_noise)
OWN.add("smallest", smallest)
for _point in entry_points(group="robusteval.attacks"):
    OWN.add(_point.name, _point.load())

NEEDS_PROTOTYPES = ("joint_pc", "prototype_margin")
# Attacks that minimise a norm: by (library, attack).
_MINIMUM_NORM = {("robusteval", "smallest"), *(("torchattacks", name) for name in WITHOUT_EPS)}


@dataclass(frozen=True)
class AttackCall:
    """One attack with its parameters: library, name, and what it is called with."""

    library: str
    attack: str
    parameters: dict[str, Any]

    @property
    def knows_eps(self) -> bool:
        """Whether the attack is told ε; the others minimise a norm."""
        return (self.library, self.attack) not in _MINIMUM_NORM

    @property
    def library_version(self) -> str:
        return version_of(LIBRARIES[self.library])

    def check(self) -> None:
        """Raises UnknownNameError, with near names, if there is no such attack."""
        if self.library == "robusteval":
            OWN.get(self.attack)
        elif self.library == "torchattacks" and not inspect.isclass(self._torchattacks_class()):
            names = [n for n in dir(torchattacks_module()) if n[:1].isupper()]
            hint = near_names(self.attack, names)
            raise UnknownNameError(f"torchattacks has no attack {self.attack!r}: {hint}")

    def all_parameters(self) -> dict[str, Any]:
        """The parameters given, and the defaults of those that weren't."""
        if self.library == "autoattack":
            return dict(AUTOATTACK_PARAMETERS)
        function = (
            OWN.get(self.attack) if self.library == "robusteval" else self._torchattacks_class()
        )
        known = inspect.signature(function).parameters.values()
        defaults = {
            p.name: p.default
            for p in known
            if p.default is not p.empty and p.name not in ("eps", "norm", "seed", "verbose")
        }
        return {**defaults, **self.parameters}

    def _torchattacks_class(self) -> Any:
        return getattr(torchattacks_module(), self.attack, None)

    def __call__(
        self, model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
    ) -> AttackResult:
        """Adversarial images for initially correct ``images`` (B, C, H, W) in [0, 1]."""
        if self.library == "torchattacks":
            return torchattacks_attack(
                model,
                images,
                labels,
                threat,
                name=self.attack,
                seed=seed,
                parameters=self.parameters,
            )
        if self.library == "autoattack":
            return autoattack(model, images, labels, threat, seed=seed)
        function = OWN.get(self.attack)
        try:
            found = function(model, images, labels, threat, seed=seed, **self.parameters)
        except TypeError as error:
            raise AttackError(f"robusteval.{self.attack}: {error}") from None
        return found if isinstance(found, AttackResult) else AttackResult(found)
