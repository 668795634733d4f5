"""One registry for everything that can be named."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from robusteval.errors import UnknownNameError, shown

T = TypeVar("T")
_FEW = 8  # names that are all listed


_LONGEST = 200  # characters that are compared


def close_names(name: str, names: Iterable[str], form: str = "{}") -> str:
    """A phrase that lists the names closest to ``name``, each in a form; empty if none is close."""
    close = difflib.get_close_matches(name[:_LONGEST], sorted(names), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(form.format, close))}?" if close else ""


def near_names(name: str, names: Iterable[str], form: str = "{}") -> str:
    """The same, or a phrase that lists all of them if there are few.

    Of many, where none is close, three are an example of what names look like.
    """
    known = sorted(names)
    if close := close_names(name, known, form):
        return close
    if not known:
        return "there are none"
    listed = list(map(form.format, known))
    if len(known) > _FEW:
        return f"none is like it among {len(known)}, such as {', '.join(listed[:3])}"
    return f"known: {', '.join(listed)}"


class Catalogue(Generic[T]):
    """Names to values; a duplicate raises, a miss lists near names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        """Raises ValueError if the name is taken: a programmer's mistake, not a user's."""
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._items[name] = value
        return value

    def get(self, name: str) -> T:
        """Raises UnknownNameError, naming near names."""
        try:
            return self._items[name]
        except KeyError:
            hint = near_names(name, self._items)
            raise UnknownNameError(f"unknown {self.kind} {shown(name)}: {hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)
