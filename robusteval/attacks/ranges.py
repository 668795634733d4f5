"""Ranges of attacks' parameters: what lies outside is no attack, and would look robust."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from robusteval.catalogue import near_names
from robusteval.errors import AttackError
from robusteval.types import Norm

# What an attack is told by whoever runs it: the threat model, the run, the model.
FROM_THE_HARNESS = {
    *("model", "images", "inputs", "labels", "threat", "eps", "max_epsilon", "ε", "norm", "p"),
    *("seed", "n_classes", "verbose", "callback", "targeted", "surrogate"),
}


class Range(NamedTuple):
    """Whether a value of that kind is within, and how that is said; None is where ``optional``."""

    holds: Callable[[Any], bool]
    words: str
    kind: type = Real
    optional: bool = False

    def has(self, value: Any) -> bool:
        """Whether ``value`` is one of them; true and false are no numbers."""
        if value is None:
            return self.optional
        if not isinstance(value, self.kind) or isinstance(value, bool) != (self.kind is bool):
            return False
        finite = not isinstance(value, Real) or isinstance(value, Integral) or math.isfinite(value)
        return finite and self.holds(value)


def whole(least: int) -> Range:
    """Integers from ``least`` up.  Nobody lives to see the end of more than a billion."""
    return Range(
        lambda value: least <= value <= 10**9,
        f"a whole number from {least} up to 10^9",
        Integral,
    )


def one_of(*names: str) -> Range:
    """Text, one of these."""
    return Range(lambda value: value in names, " or ".join(names), str)


def optional(within: Range) -> Range:
    """The same, or nothing."""
    return within._replace(optional=True)


FLAG = Range(lambda _: True, "true or false", bool)
SHARE = Range(lambda value: 0 <= value < 1, "from 0 to below 1")
INSIDE = Range(lambda value: 0 < value < 1, "above 0 and below 1")
CHANCE = Range(lambda value: 0 <= value <= 1, "from 0 to 1")
PART = Range(lambda value: 0 < value <= 1, "above 0, 1 at most")
POSITIVE = Range(lambda value: value > 0, "above 0")
FROM_0 = Range(lambda value: value >= 0, "0 or more")
ABOVE_1 = Range(lambda value: value > 1, "above 1")
FROM_1 = Range(lambda value: value >= 1, "1 or more")
COUNT = whole(1)


def require_norms(attack: str, wanted: Sequence[Norm], norms: Sequence[Norm]) -> None:
    """Raises AttackError for norms that an attack doesn't work in."""
    if wrong := [norm for norm in wanted if norm not in norms]:
        raise AttackError(
            f"{attack} doesn't work in {', '.join(wrong)}: set its norms to {', '.join(norms)}"
        )


def require_within(attack: str, parameters: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Raises AttackError for a parameter that has no range, or is outside of it."""
    for name, value in parameters.items():
        if name not in ranges:
            require_named(attack, name, list(ranges))
        if not ranges[name].has(value):
            raise AttackError(f"{attack}: {name} = {value!r}: choose {ranges[name].words}")


def require_named(attack: str, name: str, known: list[str]) -> None:
    """Raises AttackError for a parameter that isn't one of an attack's own."""
    if name in known:
        return
    if name in FROM_THE_HARNESS:
        raise AttackError(f"{attack}: {name} is given by the run itself: leave it out")
    hint = near_names(name, known) if known else "it has none"
    raise AttackError(f"{attack}: no parameter {name!r}: use its own parameter names ({hint})")
