"""The nouns that every floor shares: threat models and rates."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

from robusteval.errors import ThreatError

Norm = Literal["Linf", "L2"]
NORMS: tuple[Norm, ...] = ("Linf", "L2")
NORM_SIGNS = {"Linf": "L∞", "L2": "L2"}


def parse_eps(text: str | int | float | Fraction) -> Fraction:
    """An ε as an exact fraction: ``"8/255"``, ``"0.3"``, ``0.5`` or a Fraction.

    Raises ThreatError for text, zero, negative or non-finite values.
    """
    try:
        eps = Fraction(str(text).strip())
    except (ValueError, ZeroDivisionError):
        raise ThreatError(
            f"ε {text!r} is no number: write a decimal or a fraction such as 8/255"
        ) from None
    if eps <= 0:
        raise ThreatError(f"ε {text!r} is not positive: write a value above 0, such as 8/255")
    return eps


@dataclass(frozen=True)
class ThreatModel:
    """All perturbations of norm at most ``eps``, on pixels in [0, 1].

    ``eps`` is kept exact, since 8/255 has no exact decimal.
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ThreatError(f"norm {self.norm!r} is unknown: choose from {', '.join(NORMS)}")
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
