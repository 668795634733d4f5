"""Rows of evidence changed in a Parquet file, whose checksums are made to fit."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.forgery.leaves import SCRIPT, Edit
from robusteval.evidence.pieces import seal_of

ABOUT = b"robusteval"  # the key of what a Parquet file tells of itself


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrites a Parquet file; its checksums and its seal are made to fit."""
    table = read_table(path)
    changed = change(table)
    metadata = dict(changed.schema.metadata or table.schema.metadata)
    if metadata.get(ABOUT) == table.schema.metadata[ABOUT]:
        metadata[ABOUT] = json.dumps(_sealed(changed, json.loads(metadata[ABOUT]))).encode()
    write_table(path, changed.replace_schema_metadata(metadata))


def read_table(path: Path) -> pa.Table:
    return pq.read_table(path, memory_map=False, use_threads=False)


def write_table(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _sealed(table: pa.Table, told: Any) -> Any:
    """What a file tells of itself, with the digest of what it holds now, where one can be had."""
    try:
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return {**told, "sha256": seal_of(columns, told["about"], told["schema"])}
    except Exception:  # noqa: BLE001  # columns or a table that no run writes
        return told


def about_of(path: Path) -> dict[str, Any]:
    """What a job's file tells of itself."""
    about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[ABOUT])
    return about


def change_about(path: Path, edit: Edit) -> None:
    """Changes what a job's file tells of itself; its seal is made to fit, unless it was changed."""
    table, before = read_table(path), about_of(path)
    told = edit(about_of(path))
    if isinstance(told, dict) and told.get("sha256") == before["sha256"]:
        told = _sealed(table, told)
    write_table(path, table.replace_schema_metadata({ABOUT: json.dumps(told)}))


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """The table with a column replaced, or with one more."""
    if name not in table.column_names:
        return table.append_column(name, pa.array(values))
    field = table.schema.field(name)
    column = values if isinstance(values, pa.ChunkedArray) else pa.array(values, field.type)
    place = table.column_names.index(name)
    return table.set_column(place, pa.field(name, column.type), column)


def changed_column(name: str, change: Callable[[Any], Any], table: pa.Table) -> pa.Table:
    """A column as an array (N,) changed as a whole."""
    return with_column(table, name, change(table[name].to_numpy().copy()))


def changed_cell(name: str, row: int, change: Callable[[Any], Any], table: pa.Table) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = change(values[row])
    return with_column(table, name, values)


def column_edits(
    table: pa.Table, rows: Mapping[str, int]
) -> Iterator[tuple[str, str, Callable[[pa.Table], pa.Table]]]:
    """Every column: a cell of each kind of row, the whole, another type, gone or renamed."""
    none_kept = "failure" in rows and "kept success" not in rows
    whole = "every row, none kept" if none_kept else "every row"
    for field in table.schema:
        name, place = field.name, f"[{field.name}]"
        for how, change in _cell_changes(field.type, _scale(table[name])).items():
            for kind, row in rows.items():
                yield place, f"{how}, {kind}", partial(changed_cell, name, row, change)
            every = partial(_each, change)
            yield place, f"{how}, {whole}", partial(changed_column, name, every)
        if table.num_rows > 1 and len(set(table[name].to_pylist())) > 1:
            how = f"another order, {whole}"
            yield place, how, partial(changed_column, name, _other_order)
        for how, kind in _other_types(field.type).items():
            yield place, f"as {how}", partial(_cast, name, kind)
        yield place, "deleted", lambda t, name=name: t.drop_columns([name])
        yield place, "renamed", partial(_renamed, name)


def _each(change: Callable[[Any], Any], values: Any) -> list[Any]:
    return [change(value) for value in values.tolist()]


def _other_order(values: Any) -> Any:
    """The first order of its rows, rolled on, that differs."""
    rolled = (np.roll(values, by) for by in range(1, len(values)))
    return next(other for other in rolled if other.tolist() != values.tolist())


def _cast(name: str, kind: pa.DataType, table: pa.Table) -> pa.Table:
    """The same values in another type; digests as text where they are to be text."""
    column = table[name]
    if column.type == pa.binary() and kind == pa.string():
        return with_column(table, name, pa.chunked_array([[v.hex() for v in column.to_pylist()]]))
    return with_column(table, name, column.cast(kind, safe=False))


def _renamed(name: str, table: pa.Table) -> pa.Table:
    return table.rename_columns([f"{n}_" if n == name else n for n in table.column_names])


def _scale(column: pa.ChunkedArray) -> float:
    """The largest size of a column's numbers."""
    numbers = [abs(v) for v in column.to_pylist() if isinstance(v, int | float)]
    return max(numbers, default=0.0)


def _cell_changes(kind: pa.DataType, scale: float) -> dict[str, Callable[[Any], Any]]:
    """``scale``: what numbers of the column are measured by, as tolerances are."""
    if pa.types.is_boolean(kind):
        return {"flipped": lambda v: not v, "null": lambda _: None}
    if pa.types.is_integer(kind):
        return {
            "one more": lambda v: v + 1,
            "one less": lambda v: v - 1,
            "much more": lambda v: v + 1_000_000,
            "null": lambda _: None,
        }
    if pa.types.is_floating(kind):
        return {
            "a little more": lambda v: v + 0.02 * scale + 2e-3,
            "a little less": lambda v: v - 0.02 * scale - 2e-3,
            "much more": lambda v: 10 * abs(v) + 5,
            "negative": lambda v: -abs(v) - 1,
            "zero": lambda v: 0.0 if v else 1.0,
            "NaN": lambda _: float("nan"),
            "infinite": lambda _: float("inf"),
            "null": lambda _: None,
        }
    return {
        "reversed": lambda v: v[::-1],
        "shorter": lambda v: v[:4],
        "empty": lambda _: b"",
        "null": lambda _: None,
    }


def _other_types(kind: pa.DataType) -> dict[str, pa.DataType]:
    if pa.types.is_boolean(kind):
        return {"int8": pa.int8(), "text": pa.string()}
    if pa.types.is_integer(kind):
        return {"int32": pa.int32(), "uint64": pa.uint64(), "double": pa.float64()}
    if pa.types.is_floating(kind):
        return {"float": pa.float32(), "int64": pa.int64(), "text": pa.string()}
    return {"large_binary": pa.large_binary(), "text": pa.string()}


def table_edits(table: pa.Table) -> Iterator[tuple[str, str, Callable[[pa.Table], pa.Table]]]:
    """The table as a whole: rows and columns more, fewer, in another order."""
    n = table.num_rows
    if n:
        yield "", "the last row twice", lambda t: pa.concat_tables([t, t.slice(n - 1)])
        yield "", "the last row deleted", lambda t: t.slice(0, n - 1)
        yield "", "the first row deleted", lambda t: t.slice(1)
        yield "", "rows reversed", lambda t: t.take(list(range(n))[::-1])
        yield "", "all rows deleted", lambda t: t.slice(0, 0)
        yield "", "first column twice", lambda t: t.append_column(t.column_names[0], t.column(0))
    more = {
        "score_magic": [1.0] * n,
        "reviewed": [SCRIPT] * n,
        "forward_passes_saved": [5.0] * n,
        "": [1] * n,
    }
    for name, values in more.items():
        yield f"[{name}]", "a column more", partial(with_column, name=name, values=values)
    nested = pa.array([[1.0]] * n, pa.list_(pa.float64()))
    yield "[nested]", "a column more", lambda t: t.append_column("nested", nested)
    yield "", "a key more in the file's metadata", partial(_with_metadata, {b"note": b"99.9 %"})
    yield "", "no metadata", lambda t: t.replace_schema_metadata({b"other": b"{}"})


def _with_metadata(more: dict[bytes, bytes], table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata({**table.schema.metadata, **more})
