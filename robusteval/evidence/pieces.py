"""What one job found, and its form on disk: a Parquet file that tells when it is not what was
written.

What it holds is declared in ``columns`` and, of diagnostics, in ``measured``.  Every page has a
checksum, and the file's metadata a digest of all that it holds, so that no flipped bit reads as
another number.  Whoever alters a file on purpose can make both fit: what holds against him is
``verify``.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from typing_extensions import TypedDict

from robusteval import inert
from robusteval.errors import shown
from robusteval.evidence import measured, older
from robusteval.evidence.columns import (
    COLUMNS,
    FACTS,
    NEAREST,
    SCHEMA,
    Column,
    Values,
    columns_of,
    nearest_columns,
    score_column,
)
from robusteval.plan.plan import Job, JobKind
from robusteval.plan.suite import MOST_RESTARTS

_KEY = b"robusteval"


class _Nothing(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]


_NOTHING = TypeAdapter(_Nothing)
_OF_ATTACK: Any = create_model(
    "AttackFacts",
    __config__=ConfigDict(extra="forbid", strict=True),
    **{fact.name: (fact.form, ...) for fact in FACTS},  # type: ignore[call-overload]
)


def attack_facts(told: dict[str, Any]) -> dict[str, Any]:
    """What an attack's job tells of its chunk, each fact as what it is declared to be.

    Raises ValueError (pydantic's too) for what is not written as it is.
    """
    found = _OF_ATTACK.model_validate_json(json.dumps(told))
    if found.model_dump(mode="json") != told:
        raise ValueError("what it says of its chunk leaves something out")
    return {fact.name: getattr(found, fact.name) for fact in FACTS}


class _Fit(TypedDict):
    """What a fit tells: the digest of the state that stands beside it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    state: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Pursuit(TypedDict):
    """What an attack on a detector tells: for how many samples its score had a gradient."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    guided: Annotated[int, Field(ge=0)]


_FIT, _PURSUIT = TypeAdapter(_Fit), TypeAdapter(_Pursuit)
_FACTS_OF: dict[JobKind, Callable[[dict[str, Any]], Any]] = {
    "fit": lambda told: _FIT.validate_json(json.dumps(told)),
    "clean": lambda told: _NOTHING.validate_json(json.dumps(told)),
    "outliers": lambda told: _NOTHING.validate_json(json.dumps(told)),
    "attack": attack_facts,
    "pursuit": lambda told: _PURSUIT.validate_json(json.dumps(told)),
    "diagnostics": measured.require_form,
}


@dataclass(frozen=True)
class Piece:
    """What one job found: columns of equal length, and the facts of the whole chunk.

    ``facts`` are the same at each repetition; ``seconds`` are not.
    """

    columns: dict[str, Values]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def expected(job: Job, rows: int, schema: int = SCHEMA) -> dict[str, Column]:
    """The columns of a job's rows, by the version of that schema."""
    found = [*columns_of(job.kind, rows, schema), *map(score_column, job.scored_by)]
    if rows or job.kind == "clean":
        found += [column for column in nearest_columns(job.layers) if column.since <= schema]
    return {column.name: column for column in found}


def require_form(job: Job, piece: Piece, schema: int = SCHEMA) -> None:
    """Raises ValueError for columns, values or told facts that no such job of that schema has."""
    rows = len(next(iter(piece.columns.values()), ()))
    wanted = expected(job, rows, schema)
    if lacking := [name for name in wanted if name not in piece.columns]:
        raise ValueError(f"no column {lacking[0]!r}")
    if strange := [name for name in piece.columns if name not in wanted]:
        raise ValueError(f"a column {strange[0]!r} that this run has not")
    for name, column in wanted.items():
        values = piece.columns[name]
        if values.dtype != column.dtype or not np.all(column.holds(values)):
            raise ValueError(f"no proper column {name!r}")
    if not (math.isfinite(piece.seconds) and piece.seconds >= 0):
        raise ValueError(f"seconds are {piece.seconds}")
    try:
        if job.kind == "probe":
            measured.require_part(job.label, piece.facts)
        else:
            _FACTS_OF[job.kind](piece.facts)
    except ValidationError as error:
        raise other_form(error) from None
    if job.kind == "attack":
        _require_counts(piece.facts, rows)
    if job.kind == "pursuit" and piece.facts["guided"] > rows:
        raise ValueError(f"{piece.facts['guided']} of {rows} samples had a gradient")


def _require_counts(facts: Mapping[str, Any], rows: int) -> None:
    """Raises ValueError where an attack counts more samples than its chunk has."""
    if facts["drifted"] > rows:
        raise ValueError(f"{facts['drifted']} of {rows} predictions drifted")
    if facts["lost"] > rows * MOST_RESTARTS:
        raise ValueError(f"storing undid {shown(facts['lost'])} successes on {rows} samples")
    for stage in facts["stages"]:
        if stage["of"] > rows:
            raise ValueError(f"a stage was given {shown(stage['of'])} of {rows} samples")


def other_form(error: ValidationError) -> ValueError:
    """What to raise for told facts that no such job has."""
    where = ".".join(str(part) for part in error.errors()[0]["loc"])
    return ValueError(f"what it says of its chunk is no such job's ({where})")


def sealed(columns: dict[str, Values], about: dict[str, Any], schema: int) -> bytes:
    """A Parquet file of columns and what is said about them, with a digest over both."""
    table = pa.table(columns)
    seal = seal_of({n: table[n].to_numpy() for n in table.column_names}, about, schema)
    told = json.dumps({"schema": schema, "sha256": seal, "about": about})
    stream = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({_KEY: told}),
        stream,
        compression="zstd",
        write_page_checksum=True,
    )
    return stream.getvalue()


def unsealed(
    content: bytes, require_schema: Callable[[Any], None] = lambda _: None
) -> tuple[dict[str, Values], dict[str, Any], int]:
    """Columns, what is said about them, and their schema; ``require_schema`` raises for one that
    can't be read.

    Raises ValueError, LookupError, TypeError, OSError or pyarrow's errors for a file that holds
    anything else than what was written.
    """
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    table = file.read(use_threads=False)  # small files: threads take longer to wake than to read
    metadata = dict(table.schema.metadata or {})
    told = json.loads(metadata.pop(_KEY))
    require_schema(told["schema"])
    if metadata or told.keys() != {"schema", "sha256", "about"}:
        raise ValueError("it says more of itself than it should")
    for column in table.columns:  # others may read alike
        if not (pa.types.is_primitive(column.type) or column.type == pa.binary()):
            raise ValueError(f"it holds values of type {column.type}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    if told["sha256"] != seal_of(columns, told["about"], told["schema"]):
        raise ValueError("it is not what was written")
    return columns, dict(told["about"]), told["schema"]


def seal_of(columns: dict[str, Values], about: Any, schema: int) -> str:
    """SHA-256 over all that a job's file holds, its schema included."""
    return content_digest(columns, older.sealed_with(schema, about))


def content_digest(columns: dict[str, Values], about: Any = None) -> str:
    """SHA-256 over columns, and over plain data about them."""
    digest = hashlib.sha256(canonical(about))
    for name, column in sorted(columns.items()):
        digest.update(f"{name}:{column.dtype.kind}".encode())
        digest.update(_column_bytes(column))
    return digest.hexdigest()


def canonical(content: Any) -> bytes:
    """Plain data as JSON, the same bytes for the same data."""
    return json.dumps(content, sort_keys=True).encode()


def _column_bytes(column: Values) -> bytes:
    if column.dtype.kind == "O":  # digests of images
        return b"".join(bytes(value) for value in column)
    return np.ascontiguousarray(column).tobytes()


def require_known(piece: Piece, model: Mapping[str, Any]) -> None:
    """Raises ValueError for a row that names a class or a prototype that there isn't.

    ``model``: what the run's record says of it.
    """
    limits = {c.name: ("class", model["classes"]) for c in COLUMNS if c.names_class}
    limits |= {name: ("prototype", count) for name, count in prototype_counts(model).items()}
    for name, (what, count) in limits.items():
        values: Sequence[int] | Values = piece.columns.get(name, ())
        if len(values) and max(values) >= count:
            raise ValueError(f"column {name!r} names {what} {max(values)} of {count}")


def prototype_counts(model: Mapping[str, Any]) -> dict[str, int]:
    """How many prototypes each layer has, by its column; nothing in an older run's record."""
    if "prototype_layers" not in model:
        return {}
    layers = model["prototype_layers"]
    known = {told["layer"]: model["classes"] * told["per_class"] for told in layers}
    return {f"{NEAREST}{i}": known.get(name, 0) for i, name in enumerate(model["layers"])}


def json_bytes(content: Any) -> bytes:
    """As run files hold it: indented, no NaN; bytes of a path that are no text are kept."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    return (inert.json_text(text) + "\n").encode()
