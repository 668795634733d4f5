"""Which samples of a data set a run takes: so many of each class, the first ones, or those listed.
Imports no NumPy.

>>> parse_samples("256"), parse_samples("first:256"), parse_samples([3, 1])
(256, First(count=256), Listed(indices=(1, 3)))
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from robusteval.errors import DataError, RobustevalError, reason, shown
from robusteval.reading import read_file
from robusteval.types import parse_whole

_LARGEST_LIST = 2**27  # bytes


@dataclass(frozen=True)
class First:
    """The first samples, in the data's own order."""

    count: int


@dataclass(frozen=True)
class Listed:
    """Samples by their index, counted from 0, in ascending order."""

    indices: tuple[int, ...]


Samples = int | First | Listed | None  # a number: class-balanced; None: all


def parse_samples(value: Any) -> Samples:
    """``256`` (class-balanced), ``first:256``, ``@FILE`` with indices, a list of them, or ``all``.

    Raises RobustevalError for anything else.
    """
    if value is None or isinstance(value, First | Listed):
        return value
    if isinstance(value, str):
        return _of_text(value.strip())
    if isinstance(value, Iterable) and not isinstance(value, bytes | dict):
        return Listed(_ascending(_whole_numbers(value), "samples"))
    return _count(value, value)


def _of_text(text: str) -> Samples:
    if text == "all":
        return None
    if text.startswith("@"):
        return Listed(_ascending(_indices_of(Path(text[1:])), text[1:]))
    if text.startswith("first:"):
        return First(_count(text.removeprefix("first:"), text))
    return _count(text, text)


def _count(value: Any, given: Any) -> int:
    try:
        count = parse_whole(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise RobustevalError(
            f"--samples {shown(given)} is neither a number above 0, first:NUMBER, @FILE with one "
            "index a line, nor 'all'"
        )
    return count


def _whole_numbers(values: Iterable[Any]) -> list[int]:
    try:
        return [parse_whole(getattr(value, "item", lambda v=value: v)()) for value in values]
    except (TypeError, ValueError) as error:
        raise RobustevalError(f"samples: {reason(error)}: give indices from 0 up") from None


def _indices_of(path: Path) -> list[int]:
    """One index a line, or several with blanks or commas between; # begins a comment."""
    try:
        text = read_file(path, _LARGEST_LIST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or reason(error)
        raise DataError(
            f"--samples @{path} can't be read ({why}): name a list of indices"
        ) from None
    words = re.sub("#.*", "", text).replace(",", " ").split()
    for word in words:
        if not (word.isascii() and word.isdecimal() and len(word) < 19):
            raise DataError(f"--samples @{path} holds {shown(word)}: give indices from 0 up")
    return [int(word) for word in words]


def _ascending(indices: list[int], where: str) -> tuple[int, ...]:
    """Raises DataError for none, a negative one, and one that stands twice."""
    if not indices:
        raise DataError(f"samples of {where}: none is listed: give indices from 0 up")
    ordered = sorted(indices)
    if ordered[0] < 0:
        raise DataError(f"samples: index {ordered[0]} is negative: indices are counted from 0")
    for one, other in pairwise(ordered):
        if one == other:
            raise DataError(f"samples: index {one} stands twice, and would count twice: leave one")
    return tuple(ordered)
