"""What an attack gives back: images, what each of its stages broke, and what it warns of.

Records say it; words are made of them where somebody reads.  Those of warnings stand here, since
``adaptive`` also warns a caller who has no report.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple

from pydantic import ConfigDict, Field
from torch import Tensor

from robusteval.attacks.blindness import NO_GRADIENT

# What evidence may hold of them, where it is read.
_MOST = 10**9  # samples: counts are divided
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Stage:
    """A part of an attack, and how many it broke of the samples that it was given."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    broke: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        if self.broke > self.of:
            raise ValueError(f"{self.name!r} broke {self.broke} of {self.of}")


class _Words(NamedTuple):
    """A warning's words, and how its number is written in them, if it has one."""

    words: str
    written: Callable[[float], str] | None = None


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


# Every kind of warning.  The first few are ``adaptive``'s, of gradients that are masked.
_WORDS = {
    "random": _Words("adaptive: outputs change between passes"),
    "luck": _Words("adaptive: {luck}{text}"),
    "no_gradient": _Words(f"adaptive: {NO_GRADIENT}"),
    "dead": _Words("adaptive: {number} % of samples have no gradient", _percent),
    "turning": _Words(
        "adaptive: gradients turn at a step of ε/10 (their cosine is {number})", "{:.2f}".format
    ),
    "searched": _Words("adaptive: random search found the way that gradients did not"),
    "queried": _Words("adaptive: a few gradient-free queries broke what gradients did not"),
    "outdone": _Words(
        "adaptive: {number} % of samples break only by ascents through larger balls", _percent
    ),
    "flat": _Words(
        "adaptive: gradients vanish on the way of {number} % of the samples that it left", _percent
    ),
    "squashed": _Words("adaptive: outputs are squashed: {text}"),
    "no_autoattack": _Words("AutoAttack can't run: {text}"),
    "blind": _Words(f"{{stages}} can't run: {NO_GRADIENT}"),
    "zero_gradient": _Words("there are {number} points with zero gradient!{text}", "{:.0f}".format),
    "library": _Words("{text}"),
}
WARNED = tuple(_WORDS)


@dataclass(frozen=True)
class Warned:
    """One thing that an attack warns of.

    ``kind``: one of ``WARNED``; ``library`` is in that library's own words, its ``text``.
    ``number``: what was measured (a share, a cosine or a count), of the kinds that measure
    something, and to as many digits as are told, so that the same images give the same number.
    ``stages``: those that can't run, or that the attack went on with.  ``right``, of a random
    model: in each of so many fresh passes on the images found, how many ``of`` the samples.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: str
    number: float | None = None
    stages: tuple[str, ...] = ()
    text: str = ""
    right: tuple[Annotated[int, Field(ge=0)], ...] = ()
    of: Annotated[int, Field(ge=0, le=_MOST)] = 0

    def __post_init__(self) -> None:
        if self.kind not in _WORDS:
            raise ValueError(f"no warning is of kind {self.kind!r}")
        if (self.right or self.of) and self.kind != "luck":
            raise ValueError(f"a warning of kind {self.kind!r} counts no samples")
        if max(self.right, default=0) > self.of:
            raise ValueError(f"{max(self.right)} of {self.of} samples are right")
        words, written = _WORDS[self.kind]
        if (self.number is None) != (written is None):
            raise ValueError(f"a warning of kind {self.kind!r} has {self.number} as its number")
        if self.text and "{text}" not in words:
            raise ValueError(f"a warning of kind {self.kind!r} has no text")


def said(warned: Warned, most: float | None = None) -> str:
    """A warning in words; ``most``: where it was given several times, the largest of its numbers,
    of which its own is the least."""
    words, written = _WORDS[warned.kind]
    number = ""
    if written is not None and warned.number is not None:
        numbers = [written(n) for n in (warned.number, most) if n is not None]
        number = " to ".join(dict.fromkeys(numbers))
    stages = ", ".join(warned.stages)
    luck = _luck(warned) if warned.right else ""
    told = words.format(number=number, stages=stages, text=warned.text, luck=luck)
    went_on = stages and "{stages}" not in words
    return f"{told}; went on with {stages}" if went_on else told


def _luck(warned: Warned) -> str:
    """Of a random model, the middle 95 % of what single passes leave."""
    counts = sorted(warned.right)
    low, high = (counts[round(share * (len(counts) - 1))] for share in (0.025, 0.975))
    return (
        f"{low} to {high} of {warned.of} samples, {sum(counts) / len(counts):.1f} on average, are "
        f"right on its images in {len(counts)} fresh passes"
    )


@dataclass
class AttackResult:
    """Adversarial images, and what the attack tells of the way to them.

    ``notes``: free text that nothing reads but people.
    """

    images: Tensor
    stages: list[Stage] = field(default_factory=list)
    warned: list[Warned] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
