"""Attacks for one test, and attacks called as a run calls them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack
from robusteval.attacks.registry import find
from robusteval.attacks.results import AttackResult
from robusteval.types import Norm, ThreatModel

AddAttack = Callable[..., None]


def record_of(name: str, function: Callable[..., Any], **facts: Any) -> Attack:
    """An attack of one pass without parameters, but for what ``facts`` say."""
    plain = Attack(
        name=name,
        library=ROBUSTEVAL,
        function=function,
        norms=BOTH,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="uses",
        by_sample=False,
        passes=lambda given, classes: (1, 1),
        parameters={},
        defaults=dict,
        version=1,
    )
    return replace(plain, **facts)


@dataclass(frozen=True)
class Call:
    """An attack that can be named, with parameters."""

    library: str
    attack: str
    parameters: dict[str, Any]

    @property
    def record(self) -> Attack:
        return find(self.library, self.attack)

    def check(self, norms: tuple[Norm, ...]) -> None:
        self.record.check(norms, self.parameters)

    def __call__(
        self, model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
    ) -> AttackResult:
        return self.record.run(model, images, labels, threat, seed, self.parameters)


# What a library is imported as where it is an extra, and what some of its attacks need beside.
EXTRAS = {"advlib": "adv_lib", "foolbox": "foolbox"}
NEEDED = {
    "foolbox.L2BrendelBethgeAttack": "numba",
    "foolbox.LinfinityBrendelBethgeAttack": "numba",
}


def require_installed(library: str, attack: str) -> None:
    """Skips the test where an extra that this attack is of isn't installed."""
    for module in (EXTRAS.get(library), NEEDED.get(f"{library}.{attack}")):
        if module is not None:
            pytest.importorskip(module)
