"""Which attacks there are: library and name to a function."""

import inspect
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from torch import Tensor

from robusteval.attacks import advlib, own
from robusteval.attacks.adaptive import adaptive_told
from robusteval.attacks.counting import Counted
from robusteval.attacks.foreign import TABLES, check
from robusteval.attacks.libraries import (
    AUTOATTACK_PARAMETERS,
    autoattack,
    torchattacks_attack,
    torchattacks_module,
)
from robusteval.attacks.ranges import (
    FROM_THE_HARNESS,
    RANGES,
    require_named,
    require_parameters,
)
from robusteval.attacks.results import AttackResult
from robusteval.attacks.smallest import smallest
from robusteval.attacks.transfer import transfer
from robusteval.catalogue import Catalogue
from robusteval.errors import AttackError
from robusteval.types import Norm, ThreatModel

LIBRARIES = {
    "torchattacks": "torchattacks",
    "autoattack": "pyautoattack",
    "advlib": "adv-lib",
    "robusteval": "robusteval",
}
OWN: Catalogue[Any] = Catalogue("attack")
OWN.add("adaptive", adaptive_told)
OWN.add("joint_pc", own.joint_pc)
OWN.add("prototype_margin", own.prototype_margin)
OWN.add("gaussian_noise", own.gaussian_noise)
OWN.add("smallest", smallest)
OWN.add("transfer", transfer)
for _point in entry_points(group="robusteval.attacks"):
    OWN.add(_point.name, _point.load())

_THIRD_PARTY = {"torchattacks": torchattacks_attack, "advlib": advlib.advlib_attack}
_GIVEN = 4  # model, images, labels, threat: what every attack is called with
NEEDS_PROTOTYPES = ("joint_pc", "prototype_margin")
# Our attacks that let go of each sample as it breaks, and tell its passes apart from the others'.
_BY_SAMPLE = ("adaptive", "joint_pc", "prototype_margin", "transfer")
# Attacks that minimise a norm: by (library, attack).
_MINIMUM_NORM = {
    ("robusteval", "smallest"),
    *((library, n) for library, table in TABLES.items() for n, t in table.items() if not t.eps),
}


def version_of(library: str) -> str:
    """The version of a library's package.  Raises AttackError where the extra isn't installed."""
    try:
        return version(LIBRARIES[library])
    except PackageNotFoundError:
        if library != "advlib":
            raise
        raise advlib.not_installed() from None


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
    def by_sample(self) -> bool:
        """Whether its passes tell when each sample broke: where a library's batch makes them, every
        sample bears an equal share, broken or not (see ``counting.Counted``)."""
        return self.library == "robusteval" and self.attack in _BY_SAMPLE

    @property
    def library_version(self) -> str:
        return version_of(self.library)

    def check(self, norms: tuple[Norm, ...] = ()) -> None:
        """Raises UnknownNameError, with near names, if there is no such attack, and AttackError if
        it can't run in these norms, or with these parameters."""
        if self.library == "robusteval":
            self._check_own()
        elif self.library in TABLES:
            check(self.library, self.attack, norms, self.parameters)
            self._function()  # loads the library

    def _check_own(self) -> None:
        """Of a plug-in the names alone are known."""
        function = OWN.get(self.attack)
        if self.attack in RANGES:
            require_parameters(self.attack, **self.parameters)
        known = list(inspect.signature(function).parameters.values())
        if not any(p.kind == p.VAR_KEYWORD for p in known):
            own = [p.name for p in known[_GIVEN:] if p.name != "seed"]
            for name in self.parameters:
                require_named(self.attack, name, own)

    def all_parameters(self) -> dict[str, Any]:
        """The parameters given, and the defaults of those that weren't."""
        if self.library == "autoattack":
            return dict(AUTOATTACK_PARAMETERS)
        known = inspect.signature(self._function()).parameters.values()
        defaults = {
            p.name: p.default
            for p in known
            if p.default is None or isinstance(p.default, int | float | str | tuple)
            if p.name not in FROM_THE_HARNESS
        }
        return {**defaults, **self.parameters}

    def _function(self) -> Any:
        if self.library == "robusteval":
            return OWN.get(self.attack)
        if self.library == "advlib":
            return getattr(advlib.advlib_module(), self.attack)
        return getattr(torchattacks_module(), self.attack)

    def __call__(
        self, model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
    ) -> AttackResult:
        """Adversarial images for initially correct ``images`` (B, C, H, W) in [0, 1]."""
        if self.library in _THIRD_PARTY:
            run = _THIRD_PARTY[self.library]
            named: dict[str, Any] = {"name": self.attack, "parameters": self.parameters}
            return run(model, images, labels, threat, seed=seed, **named)
        if self.library == "autoattack":
            return autoattack(model, images, labels, threat, seed=seed)
        function = OWN.get(self.attack)
        if self.attack not in RANGES:  # a plug-in's generators may be NumPy's, which take 32 bits
            seed %= 2**32
        try:
            found = function(model, images, labels, threat, seed=seed, **self.parameters)
        except TypeError as error:
            raise AttackError(f"robusteval.{self.attack}: {error}") from None
        return found if isinstance(found, AttackResult) else AttackResult(found)
