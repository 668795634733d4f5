"""What every table in TOML is checked by, and its problems in our words."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from robusteval.catalogue import near_names
from robusteval.errors import RobustevalError, cut, shown
from robusteval.types import parse_eps

DEEPEST = 20  # levels of a file
LONGEST_NAME = 80  # characters: it becomes a part of file names, which take 255 bytes
T = TypeVar("T", bound=BaseModel)


# Every field is known, of the right kind, and finite.
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _eps_as_text(value: Any) -> Any:
    """A number as people write it; a TOML float's shortest form is what stood there."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and math.isfinite(value) else value


def _a_number(value: str) -> str:
    parse_eps(value)
    return value


# An ε, or a multiple of one, kept as it was written.
Eps = Annotated[str, BeforeValidator(_eps_as_text), AfterValidator(_a_number)]


def short(value: str) -> str:
    """A name that may stand in file names.  Raises ValueError."""
    if len(value) > LONGEST_NAME:
        raise ValueError(f"has {len(value)} characters: choose {LONGEST_NAME} or fewer")
    return value


def plain_name(value: str) -> str:
    """A name that is also that of its file.  Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.\-]*", value):
        raise ValueError("takes a-z, 0-9, _, . and -, and begins with a letter or a digit")
    return short(value)


def require_plain(content: Any) -> Any:
    """What both TOML and JSON can hold.  Raises ValueError, naming the place.

    Not that: NaN and infinity, integers beyond 64 bits, NUL in text, and more levels than any
    table needs.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), content)]
    while waiting:
        place, value = waiting.pop()
        if len(place) > DEEPEST:
            raise ValueError(f"{_dotted(place[:3])}… is nested more than {DEEPEST} levels deep")
        if isinstance(value, Mapping):
            waiting += [((*place, str(key)), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*place, i), inner) for i, inner in enumerate(value)]
        elif wrong := _unfit(value):
            raise ValueError(f"{_dotted(place)} {wrong}")
    return content


def _unfit(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"needs a finite number, not {value}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is a whole number beyond 64 bits"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character"
    return None


def checked(schema: type[T], content: Any, where: str, error: type[RobustevalError]) -> T:
    """Content by a schema.  Raises ``error``: ``where``, the field, and the mend in one line."""
    try:
        return schema.model_validate(content)
    except ValidationError as found:
        raise error(f"{where}: {first_problem(found, schema, content)}") from None


def first_problem(error: ValidationError, schema: type[BaseModel], content: Any = None) -> str:
    """The first thing that a schema found wrong, in our words, and how many more there are.

    A misspelt field comes first: it explains the one that is missing.
    """
    found = _by_place(error.errors(), content)
    misspelt = next((p for p, es in found.items() if es[0]["type"] == "extra_forbidden"), None)
    place = next(iter(found)) if misspelt is None else misspelt
    more = len(found) - 1
    return _problem(place, found[place], schema) + (f" (and {more} more)" if more else "")


def told_problem(error: ValidationError) -> str:
    """The first thing that a schema of our own records found wrong, in our words."""
    first = error.errors()[0]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown field {_dotted(first['loc'])}"
    return _problem(first["loc"], [first], BaseModel)


Place = tuple[int | str, ...]


def _by_place(errors: Sequence[ErrorDetails], content: Any) -> dict[Place, list[ErrorDetails]]:
    """Errors by where they are: a value that may be of several kinds has one for each."""
    found: dict[Place, list[ErrorDetails]] = {}
    for error in errors:
        place = error["loc"]
        if error["type"] in _KINDS:
            place = _real(place, content)
        found.setdefault(place, []).append(error)
    return found


def _real(place: Place, content: Any) -> Place:
    """As much of a place as the content has: the rest are names of kinds."""
    for depth, part in enumerate(place):
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return place[:depth] or place
    return place


_KINDS = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list in [ ]",
    "tuple_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table",
    "finite_number": "a finite number",
}
_LIMITS: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda limit: f"must be above {limit['gt']}",
    "greater_than_equal": lambda limit: f"must be {limit['ge']} or more",
    "less_than": lambda limit: f"must be below {limit['lt']}",
    "less_than_equal": lambda limit: f"must be {limit['le']} or less",
    "too_short": lambda limit: f"needs {limit['min_length']} or more values",
    "too_long": lambda limit: f"takes {limit['max_length']} values at most",
    "literal_error": lambda limit: f"must be {limit['expected']}",
}


def _problem(place: Place, errors: Sequence[ErrorDetails], schema: type[BaseModel]) -> str:
    error = errors[0]
    kind, limits, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden" or _is_ours(place, schema):
        return _unknown(place, value, schema)
    if kind == "value_error":
        said = str(limits["error"])
        return f"{_dotted(place)}: {said}" if place else said
    if kind == "missing":
        return f"{_dotted(place)} is missing: give it"
    if kind in _KINDS:
        wanted = dict.fromkeys(_KINDS[e["type"]] for e in errors if e["type"] in _KINDS)
        return f"{_dotted(place)} needs {' or '.join(wanted)}, not {shown(value)}"
    if kind in _LIMITS:
        return f"{_dotted(place)} {_LIMITS[kind](limits)}, not {shown(value)}"
    return f"{_dotted(place)} doesn't fit, {shown(value)}"


def _is_ours(place: Place, schema: type[BaseModel]) -> bool:
    """Whether a field is none of the file's, but set by the program."""
    field = schema.model_fields.get(str(place[0])) if place else None
    return field is not None and bool(field.exclude)


def _unknown(place: Place, value: Any, schema: type[BaseModel]) -> str:
    """A field that there isn't, and those with near names."""
    table = _table_at(schema, place[:-1])
    fields = {name: field for name, field in table.model_fields.items() if not field.exclude}
    if len(place) == 1 and _stands_in_brackets(value):
        tables = [name for name, field in fields.items() if _table_in(field.annotation)]
        name = _dotted(place)
        return f"unknown table [{name}]: {near_names(name, tables, '[{}]')}"
    return f"unknown field {_dotted(place)}: {near_names(str(place[-1]), fields)}"


def _stands_in_brackets(value: Any) -> bool:
    """Whether a value is a table, or a list of tables, and not one of a field."""
    rows = value if isinstance(value, list) else [value]
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def _table_at(schema: type[BaseModel], place: Place) -> type[BaseModel]:
    """The table that a place leads to; a list's numbers lead nowhere else."""
    for part in place:
        field = schema.model_fields.get(str(part))
        schema = (field and _table_in(field.annotation)) or schema
    return schema


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The table in such as ``list[Claim]`` or ``Paper | None``; None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    tables = (_table_in(inner) for inner in get_args(annotation))
    return next((table for table in tables if table), None)


def _dotted(place: Sequence[str | int]) -> str:
    name = ".".join(str(part) for part in place if part != "[key]")
    return cut(name or "the file", LONGEST_NAME)
