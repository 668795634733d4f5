"""Where in what a foreign module returns its logits are: found once, at its first answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import Tensor

from robusteval.errors import AttackError, kind_of

Way = Literal["itself", "attribute", "key", "first"]
_TOLD: dict[Way, str] = {
    "itself": "itself",
    "attribute": "the output's attribute 'logits'",
    "key": "the output's key 'logits'",
    "first": "the first part of the output",
}


def way_of(found: Any) -> Way:
    """Where logits are in an output.  ``itself`` also where there are none to be found.

    A part counts as the first only if it looks like logits (B, K): other tuples are no answer.
    """
    if isinstance(found, Tensor):
        return "itself"
    if isinstance(getattr(found, "logits", None), Tensor):
        return "attribute"
    if isinstance(found, Mapping) and isinstance(found.get("logits"), Tensor):
        return "key"
    if isinstance(found, tuple | list) and found and _looks_like_logits(found[0]):
        return "first"
    return "itself"


def _looks_like_logits(found: Any) -> bool:
    return isinstance(found, Tensor) and found.dim() == 2 and found.is_floating_point()


@dataclass
class Reader:
    """Takes logits out of a module's outputs, always in the way that its first answer asked for.

    Copies of a model share it, so that its faster forms read as it does itself.  ``taken_off``:
    the wrappers that are left out.
    """

    taken_off: tuple[str, ...] = ()
    way: Way | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __call__(self, found: Any) -> Any:
        """The logits, or what was returned where there are none: that is told where it is judged.

        Raises AttackError for an output of another form than the first one's.
        """
        if self.way is None:
            way = way_of(found)
            if way == "itself" and not isinstance(found, Tensor):
                return found
            self.way = way
        if self.way == "itself":
            return found
        if way_of(found) != self.way:
            raise AttackError(
                f"the module returns {kind_of(found)}, where logits were read from "
                f"{_TOLD[self.way]} at first: return one kind of output"
            )
        if self.way == "first":
            return found[0]
        return found.logits if self.way == "attribute" else found["logits"]

    def notes(self, logits: bool = True) -> tuple[str, ...]:
        """What a report says of it: nothing where a plain module returns logits alone.

        ``logits``: whether the module's own are read.
        """
        notes = [f"{kind} is taken off: the module inside computes" for kind in self.taken_off]
        if logits and self.way not in (None, "itself"):
            notes.append(f"logits are read from {_TOLD[self.way]}")
        return tuple(notes)
