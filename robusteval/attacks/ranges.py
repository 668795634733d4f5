"""Ranges of our own attacks' parameters: what lies outside is no attack, and would look robust."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from robusteval.errors import AttackError


class Range(NamedTuple):
    """Whether a number is within, and how that is said; ``whole``: none but integers are."""

    holds: Callable[[float], bool]
    told: str
    whole: bool = False


def _from(least: int) -> Range:
    return Range(lambda value: value >= least, f"a whole number from {least} up", whole=True)


_SHARE = Range(lambda value: 0 <= value < 1, "from 0 to below 1")
_POSITIVE = Range(lambda value: value > 0, "above 0")
RANGES: dict[str, dict[str, Range]] = {
    "adaptive": {"passes_per_sample": _from(3)},
    "gaussian_noise": {"draws": _from(1)},
    "joint_pc": {"steps": _from(1), "step_size": _POSITIVE, "momentum": _SHARE},
    "prototype_margin": {"steps": _from(1), "momentum": _SHARE},
    "smallest": {"steps": _from(2)},
    "transfer": {"steps": _from(1)},
}


def require_parameters(attack: str, **parameters: Any) -> None:
    """Raises AttackError for one that is outside of its range; others are not looked at."""
    for name, within in RANGES.get(attack, {}).items():
        if name not in parameters:
            continue
        value = parameters[name]
        fits = isinstance(value, int if within.whole else int | float)
        if not fits or isinstance(value, bool) or math.isnan(value) or not within.holds(value):
            raise AttackError(f"{attack}: {name} = {value!r}: choose {within.told}")
