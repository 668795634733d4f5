"""What one job found, and its form on disk: a Parquet file that tells when it is not what was
written.

Each column's name, kind and range stand here, once.  Every page has a checksum, and the file's
metadata a digest of all that it holds, so that no flipped bit reads as another number.  Whoever
alters a file on purpose can make both fit: what holds against him is ``verify``.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from robusteval.attacks.results import Stage, Warned
from robusteval.evaluation import measured, older
from robusteval.evaluation.plan import Job, JobKind

SCORE = "score_"  # and a detector's name: the column of its scores
_KEY = b"robusteval"
Column = NDArray[Any]


class _Nothing(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]


class AttackTold(TypedDict):
    """What an attack's job tells of its whole chunk."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    stages: list[Stage]  # what each part broke
    warned: list[Warned]
    notes: list[str]  # for people
    lost: Annotated[int, Field(ge=0)]  # successes that storing undid
    drifted: Annotated[int, Field(ge=0)]  # clean predictions that differed after it


_NOTHING, _OF_ATTACK = TypeAdapter(_Nothing), TypeAdapter(AttackTold)


def attack_told(told: dict[str, Any]) -> AttackTold:
    """What an attack's job tells, as records.

    Raises ValueError (pydantic's too) for what is not written as it is.
    """
    found = _OF_ATTACK.validate_json(json.dumps(told))
    if _OF_ATTACK.dump_python(found, mode="json") != told:
        raise ValueError("what it tells of the chunk leaves something out")
    return found


_TOLD: dict[JobKind, Callable[[dict[str, Any]], Any]] = {
    "clean": lambda told: _NOTHING.validate_json(json.dumps(told)),
    "outliers": lambda told: _NOTHING.validate_json(json.dumps(told)),
    "attack": attack_told,
    "diagnostics": measured.require_form,
}


@dataclass(frozen=True)
class Piece:
    """What one job found: columns of equal length, and what it told of the whole chunk.

    ``told`` is the same at each repetition; ``seconds`` is not.
    """

    columns: dict[str, Column]
    told: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Kind:
    """NumPy's type of a column's values, and which of them there can be."""

    dtype: str
    holds: Callable[[Column], Any] = lambda values: np.ones(len(values), bool)


def _at_least_0(values: Column) -> Any:
    return np.isfinite(values) & (values >= 0)


def _digests(values: Column) -> Any:
    return np.array([isinstance(v, bytes) and len(v) == 32 for v in values], bool)


_PLACE, _TRUTH = _Kind("int64", lambda v: v >= 0), _Kind("bool")
_SIZE, _GAP = _Kind("float64", _at_least_0), _Kind("float32", _at_least_0)
_ROWS: dict[JobKind, dict[str, _Kind]] = {
    "clean": {
        "index": _PLACE,
        "label": _PLACE,
        "prediction": _PLACE,
        "gap": _GAP,  # between the two largest logits
        "spread": _GAP,  # between the largest and the smallest
        "second_prediction": _PLACE,
    },
    "attack": {
        "index": _PLACE,
        "label": _PLACE,
        "prediction": _PLACE,
        "fooled": _TRUTH,
        "norm": _SIZE,
        "margin": _Kind("float32", np.isfinite),
        "survives_8_bit": _TRUTH,
        "forward_passes": _SIZE,
        "backward_passes": _SIZE,
        "sha256": _Kind("object", _digests),
    },
    "outliers": {},
    "diagnostics": {},
}
CLASSES = ("label", "prediction", "second_prediction")  # columns that name a class


def expected(job: Job, rows: int) -> dict[str, _Kind]:
    """The columns of a job's rows: an attack on a chunk without a correct sample has none, and of
    its own columns only the first two."""
    own = _ROWS[job.kind]
    if job.kind == "attack" and rows == 0:
        own = {name: own[name] for name in ("index", "label")}
    return {**own, **{SCORE + name: _Kind("float64") for name in job.scored_by}}


def require_form(job: Job, piece: Piece) -> None:
    """Raises ValueError for columns, values or told facts that no such job has."""
    rows = len(next(iter(piece.columns.values()), ()))
    wanted = expected(job, rows)
    if lacking := [name for name in wanted if name not in piece.columns]:
        raise ValueError(f"no column {lacking[0]!r}")
    if strange := [name for name in piece.columns if name not in wanted]:
        raise ValueError(f"a column {strange[0]!r} that this run has not")
    for name, kind in wanted.items():
        values = piece.columns[name]
        if values.dtype != kind.dtype or not np.all(kind.holds(values)):
            raise ValueError(f"no proper column {name!r}")
    if not (math.isfinite(piece.seconds) and piece.seconds >= 0):
        raise ValueError(f"seconds are {piece.seconds}")
    try:
        _TOLD[job.kind](piece.told)
    except ValidationError as error:
        raise other_form(error) from None
    if job.kind == "attack" and piece.told["drifted"] > rows:
        raise ValueError(f"{piece.told['drifted']} of {rows} predictions drifted")


def other_form(error: ValidationError) -> ValueError:
    """What to raise for told facts that no such job has."""
    where = ".".join(str(part) for part in error.errors()[0]["loc"])
    return ValueError(f"what it tells of the chunk is no such job's ({where})")


def sealed(columns: dict[str, Column], about: dict[str, Any], schema: int) -> bytes:
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
) -> tuple[dict[str, Column], dict[str, Any], int]:
    """Columns, what is said about them, and their schema; ``require_schema`` raises for one that
    can't be read.

    Raises ValueError, LookupError, TypeError, OSError or pyarrow's errors for a file that holds
    anything else than what was written.
    """
    table = pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    metadata = dict(table.schema.metadata or {})
    told = json.loads(metadata.pop(_KEY))
    require_schema(told["schema"])
    if metadata or told.keys() != {"schema", "sha256", "about"}:
        raise ValueError("it says more of itself than it should")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    if told["sha256"] != seal_of(columns, told["about"], told["schema"]):
        raise ValueError("it is not what was written")
    return columns, dict(told["about"]), told["schema"]


def seal_of(columns: dict[str, Column], about: Any, schema: int) -> str:
    """SHA-256 over all that a job's file holds, its schema included."""
    return content_digest(columns, older.sealed_with(schema, about))


def content_digest(columns: dict[str, Column], about: Any = None) -> str:
    """SHA-256 over columns, and over plain data about them."""
    digest = hashlib.sha256(canonical(about))
    for name, column in sorted(columns.items()):
        digest.update(f"{name}:{column.dtype.kind}".encode())
        digest.update(_column_bytes(column))
    return digest.hexdigest()


def canonical(content: Any) -> bytes:
    """Plain data as JSON, the same bytes for the same data."""
    return json.dumps(content, sort_keys=True).encode()


def _column_bytes(column: Column) -> bytes:
    if column.dtype.kind == "O":  # digests of images
        return b"".join(bytes(value) for value in column)
    return np.ascontiguousarray(column).tobytes()


def require_classes(piece: Piece, classes: int) -> None:
    """Raises ValueError for a row that names a class that there isn't."""
    for name in CLASSES:
        values: Sequence[int] | Column = piece.columns.get(name, ())
        if len(values) and max(values) >= classes:
            raise ValueError(f"column {name!r} names class {max(values)} of {classes}")
