"""One leaf of a table changed: in every way that its kind allows, or gone, or more than is due.

An ``Alteration`` changes a copy of a run in place.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

RUN, VERIFICATION, PICTURES = "run.json", "verification.json", "examples.safetensors"
SCRIPT = "<script>alert(1)</script>"
Edit = Callable[[Any], Any]  # of a file's content; returns the new one
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Alteration:
    """One change to a run: of what family, where, and how.

    ``fit``: whether all else is made to follow; ``after``: done once the report is made anew, too.
    """

    family: str
    place: str
    how: str
    apply: Callable[[Path], object]
    fit: bool = True
    after: Callable[[Path], object] | None = None

    @property
    def told(self) -> str:
        return f"{self.place}: {self.how}"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """NaN included: a forger writes what parsers take."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def change_json(path: Path, edit: Edit) -> None:
    write_json(path, edit(read_json(path)))


def in_json(name: str, edit: Edit, folder: Path) -> None:
    """Changes a file of a run's folder."""
    change_json(folder / name, edit)


def in_evidence(name: str, change: Callable[[Path], object], folder: Path) -> None:
    """Changes a file of a run's evidence."""
    change(folder / "evidence" / name)


def json_edits(content: Any) -> Iterator[tuple[str, str, Edit]]:
    """Every leaf and container of a table, changed, deleted, and with keys that don't belong."""
    for place, value in _places(content):
        name = ".".join(map(str, place))
        for how, new in others(value).items():
            yield name, how, partial(put, place, new)
        if isinstance(place[-1], str):
            yield name, "deleted", partial(remove, place)
    yield "", "a key more", partial(put, ("reviewed",), f"99.9 % {SCRIPT}")


def _places(content: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    inside: Any = ()
    if isinstance(content, dict):
        inside = content.items()
    elif isinstance(content, list):
        inside = enumerate(content)
    for key, value in inside:
        yield (*at, key), value
        yield from _places(value, (*at, key))


def put(place: Place, value: Any, content: Any) -> Any:
    """The content with another value at a place."""
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = copy.deepcopy(value)
    return content


def remove(place: Place, content: Any) -> Any:
    """The content without a place."""
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return content


def others(value: Any) -> dict[str, Any]:
    """Values that might stand in a value's place; "another" has its form, most have not."""
    if isinstance(value, bool):
        return {"another": not value, "text": "yes", "null": None, "a number": 2}
    if isinstance(value, int | float):
        return _other_numbers(value)
    if isinstance(value, str):
        return _other_texts(value)
    if isinstance(value, list):
        return _other_lists(value)
    if isinstance(value, dict):
        more = {**value, "reviewed": f"99.9 % {SCRIPT}"}
        return {"a key more": more, "a list": [], "null": None} | ({"empty": {}} if value else {})
    return {"a number": 1, "text": "x", "a table": {}}


def _other_numbers(value: int | float) -> dict[str, Any]:
    whole = isinstance(value, int)
    same = {"the same as a float": float(value)} if whole else {}
    return same | {
        "another": value + 1 if whole else value * 1.02 + 1e-3,
        "less": value - 1 if whole else value * 0.98 - 1e-3,
        "much more": 1000 * value + 100_000,
        "negative": -value - 1,
        "of another type": value + 0.5 if whole else round(value) + 1,
        "NaN": float("nan"),
        "infinite": float("inf"),
        "huge": 10**400,
        "true": True,
        "text": str(value),
        "null": None,
    }


def _other_texts(value: str) -> dict[str, Any]:
    return {
        "another": _of_the_same_form(value),
        "empty": "",
        "with blanks": f" {value} ",
        "HTML": f"{value}{SCRIPT}",
        "control characters": f"{value}\x1b]0;x\x07\r\n=1+1\u2028",
        "very long": value + "x" * 100_000,
        "a huge power": "1e9999999999",
        "a number": 7,
        "a list": [value],
        "null": None,
    }


def _of_the_same_form(value: str) -> str:
    """Digits for digits, the rest as it is; text without a digit gets a letter more."""
    if not any(c.isdigit() for c in value):
        return f"{value}x"
    return "".join(str((int(c) + 1) % 10) if c.isascii() and c.isdigit() else c for c in value)


def _other_lists(value: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"an item more": [*value, "reviewed"], "a table": {}, "null": None}
    if value:
        found |= {
            "empty": [],
            "the last dropped": value[:-1],
            "the last twice": [*value, value[-1]],
        }
    if value != value[::-1]:
        found["reversed"] = value[::-1]
    return found
