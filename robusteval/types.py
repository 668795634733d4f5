"""The nouns that every floor shares: threat models and rates."""

import operator
import re
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, SupportsIndex

from robusteval.errors import ThreatError, shown

Norm = Literal["Linf", "L2"]
NORMS: tuple[Norm, ...] = ("Linf", "L2")
# What an attack that knows a detector is after: an inlier misclassified and accepted, an inlier
# rejected, an outlier accepted.
Goal = Literal["evade", "reject", "accept"]
GOALS: tuple[Goal, ...] = ("evade", "reject", "accept")
# How it looks for errors that are accepted (see ``attacks.evasion``).
Evading = Literal["turns", "selective", "orthogonal", "joint"]
NORM_SIGNS = {"Linf": "L∞", "L2": "L2"}


_LONGEST = 100  # characters of a number
# ASCII alone: int() and Fraction() take digits of every script, and underscores.
_NUMBER = re.compile(r"[+-]?(?:\d+/\d+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
# Below, float32 pixels don't move; above, no image is so large.
_SMALLEST_EPS, _LARGEST_EPS = Fraction(1, 10**9), Fraction(10**6)


def parse_number(value: str | int | float | Fraction) -> Fraction:
    """An exact fraction: of a decimal or a fraction such as ``8/255`` in ASCII, or of a number.

    Raises ValueError for anything else, and for what is too long to be meant.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    text = str(value).strip()
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        raise ValueError(f"{shown(value)} is not a number")
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise ValueError(f"{shown(value)} is not a number") from None


def parse_float(value: str | int | float | Fraction) -> float:
    """The same as a float.  Raises ValueError also for what no float holds."""
    try:
        return float(parse_number(value))
    except OverflowError:
        raise ValueError(f"{shown(value)} is too large a number") from None


def parse_whole(value: str | SupportsIndex) -> int:
    """A whole number, of ASCII digits or of an integer.  Raises ValueError for anything else."""
    if isinstance(value, str):
        if _WHOLE.fullmatch(value.strip()):
            return int(value)
    elif hasattr(value, "__index__") and not isinstance(value, bool):
        whole = operator.index(value)
        if abs(whole) < 10**18:
            return whole
    raise ValueError(f"{shown(value)} is not a whole number")


def parse_eps(text: str | int | float | Fraction) -> Fraction:
    """An ε as an exact fraction: ``"8/255"``, ``"0.3"``, ``0.5`` or a Fraction.

    Raises ThreatError for text, zero, negative or non-finite values, and for absurd sizes.
    """
    try:
        eps = parse_number(text)
    except ValueError:
        raise ThreatError(
            f"ε {shown(text)} is not a number: write a decimal or a fraction such as 8/255"
        ) from None
    if eps <= 0:
        raise ThreatError(f"ε {shown(text)} is not positive: write a value above 0, such as 8/255")
    if not _SMALLEST_EPS <= eps <= _LARGEST_EPS:
        raise ThreatError(
            f"ε {shown(text)} is not a size that pixels have: write a value such as 8/255"
        )
    return eps


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations whose norm is at most ``eps``, on pixels in [0, 1].

    ``eps`` is kept as an exact fraction, since 8/255 is no exact decimal.
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ThreatError(f"norm {shown(self.norm)} is unknown: choose from {', '.join(NORMS)}")
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.norm == "Linf" and self.eps > 1:
            raise ThreatError(
                f"ε {self.eps} is larger than the whole pixel range [0, 1] in L∞: "
                f"did you mean {self.eps}/255?"
            )

    @property
    def radius(self) -> float:
        """ε as a float."""
        return float(self.eps)

    @property
    def eps_text(self) -> str:
        """ε as people write it: a short decimal where that is exact, else 8/255 and the like."""
        decimal = f"{float(self.eps):.6g}"
        if Fraction(decimal) == self.eps:
            return decimal
        if 255 % self.eps.denominator == 0:
            return f"{self.eps.numerator * (255 // self.eps.denominator)}/255"
        return str(self.eps)

    def to_json(self) -> dict[str, Any]:
        """The norm, ε as people write it, and ε as a number."""
        return {"norm": self.norm, "eps": self.eps_text, "radius": self.radius}

    @property
    def title(self) -> str:
        """As people read it: L∞ 8/255."""
        return f"{NORM_SIGNS[self.norm]} {self.eps_text}"

    def __str__(self) -> str:
        return f"{self.norm} {self.eps_text}"


@dataclass(frozen=True)
class Rate:
    """``k`` of ``n``, with a 95 % interval ``[low, high]``."""

    value: float
    low: float
    high: float
    k: int
    n: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} %"
