"""A run's folder altered as a forger would: one thing is changed, and all else made to fit it.

An ``Alteration`` changes a copy of a run in place.  ``fit`` then renews what hangs on the spec: the
digest in every Parquet file, jobs' names, what run.json tells of attacks, and the folder's name.
"""

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from robusteval.evaluation.context import Access, rebuild
from robusteval.evaluation.examples import write_examples
from robusteval.evaluation.kept import PROOF_BATCH, float32_tally
from robusteval.evaluation.outcomes import load_result
from robusteval.evaluation.plan import Plan, RunSpec, make_plan
from robusteval.evaluation.record import open_store
from robusteval.evaluation.suite import Suite

ABOUT = b"robusteval"  # the key of what a Parquet file tells of itself
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


# JSON


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """NaN included: a forger writes what parsers take."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def change_json(path: Path, edit: Edit) -> None:
    write_json(path, edit(read_json(path)))


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
        return {"a key more": more, "a list": [], "null": None, "empty": {}}
    return {"a number": 1, "text": "x", "a table": {}}


def _other_numbers(value: int | float) -> dict[str, Any]:
    whole = isinstance(value, int)
    return {
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


# Parquet


def change_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrites a Parquet file with what it tells of itself, its checksums made to fit."""
    table = pq.read_table(path, memory_map=False)
    changed = change(table)
    metadata = changed.schema.metadata or table.schema.metadata
    write_table(path, changed.replace_schema_metadata(metadata))


def write_table(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def about_of(path: Path) -> dict[str, Any]:
    """What a job's file tells of itself."""
    about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[ABOUT])
    return about


def change_about(path: Path, edit: Edit) -> None:
    table = pq.read_table(path, memory_map=False)
    about = edit(about_of(path))
    write_table(path, table.replace_schema_metadata({ABOUT: json.dumps(about)}))


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
        for how, change in _cell_changes(field.type).items():
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


def _cell_changes(kind: pa.DataType) -> dict[str, Callable[[Any], Any]]:
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
            "a little more": lambda v: v + 0.02 * abs(v) + 2e-3,
            "a little less": lambda v: v - 0.02 * abs(v) - 2e-3,
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


# Kept images


def read_images(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A safetensors file's arrays and its metadata."""
    with safe_open(path, "numpy") as file:
        metadata = dict(file.metadata() or {})
    return load_file(path), metadata


def write_images(path: Path, arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(whole, path, metadata or None)


def change_images(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    arrays, metadata = read_images(path)
    write_images(path, change(arrays), metadata)


def indices_of(folder: Path) -> Any:
    """Each sample's index (N,) in its split."""
    files = sorted((folder / "evidence").glob("clean-*.parquet"))
    return np.concatenate([pq.read_table(f, memory_map=False)["index"].to_numpy() for f in files])


def kept_places(path: Path) -> list[int]:
    """The rows of a job's Parquet file whose images are kept."""
    images = path.with_suffix(".safetensors")
    if not images.is_file():
        return []
    rows = load_file(images)["rows"]
    wanted = indices_of(path.parent.parent)[rows].tolist()
    index = pq.read_table(path, memory_map=False)["index"].to_pylist()
    return [index.index(value) for value in wanted]


def kinds_of_rows(path: Path) -> dict[str, int]:
    """One row of each kind: of attacks a success whose image is kept, one whose image isn't, and a
    failure; of the rest the first, and of clean predictions a wrong one."""
    table = pq.read_table(path, memory_map=False)
    if path.name.startswith("attack-"):
        fooled, kept = np.array(table["fooled"].to_pylist()), kept_places(path)
        free = [i for i in np.flatnonzero(fooled) if i not in kept]
        groups = {"kept success": kept, "other success": free, "failure": np.flatnonzero(~fooled)}
    elif path.name.startswith("clean-"):
        wrong = table["label"].to_numpy() != table["prediction"].to_numpy()
        groups = {"right": np.flatnonzero(~wrong), "wrong": np.flatnonzero(wrong)}
    else:
        groups = {"first": range(min(1, table.num_rows))}
    return {kind: int(rows[0]) for kind, rows in groups.items() if len(rows)}


def digests_made_to_fit(path: Path) -> None:
    """The SHA-256 column, of the kept images as they are now."""
    images = load_file(path.with_suffix(".safetensors"))["images"]
    found = [hashlib.sha256(np.ascontiguousarray(i).data).digest() for i in images]
    places = kept_places(path)

    def renewed(table: pa.Table) -> pa.Table:
        values = table["sha256"].to_pylist()
        for place, digest in zip(places, found, strict=True):
            values[place] = digest
        return with_column(table, "sha256", values)

    change_table(path, renewed)


# All else made to fit


def plan_of(record: Any) -> Plan | None:
    """What a record plans; None where that makes no sense."""
    try:
        spec = RunSpec.from_json(record["spec"])
        return make_plan(Suite(**spec.suite), spec, bool(record["model"]["layers"]))
    except Exception:  # noqa: BLE001  # whatever is wrong with it is the tool's to say
        return None


def fit(folder: Path, before: Any) -> Path:
    """Renews what hangs on the spec, where that was changed; the folder's new path.

    ``before``: the record as it was.  A spec that plans other chunks or jobs keeps the old files.
    """
    record = read_json(folder / "run.json")
    spec, old = record.get("spec"), before["spec"]
    if spec == old or not isinstance(spec, dict):
        return folder
    _fit_jobs(folder, record, before)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    for path in sorted((folder / "evidence").glob("*.parquet")):
        change_about(path, partial(put, ("spec",), digest))
    suite = spec.get("suite")
    name = f"{spec.get('model')}-{suite.get('name') if isinstance(suite, dict) else ''}"
    target = folder.with_name(f"{name[:80]}-{digest[:8]}".replace("/", "_").replace("\0", "_"))
    return Path(shutil.move(folder, target)) if target != folder else folder


def proof_made_to_fit(folder: Path) -> None:
    """The proof at the run's end and the report's pictures, of the images that are there now."""
    store, spec, record = open_store(folder)
    context = rebuild(spec, Access(record["entry_reference"]))
    tally = float32_tally(context, store)
    held = {"images": tally.held + tally.near_ties + tally.failed, **tally.__dict__}
    store.write_json("verification", {**held, "batch_size": PROOF_BATCH})
    write_examples(context, store, load_result(folder))


def _fit_jobs(folder: Path, record: Any, before: Any) -> None:
    """Files and what run.json tells of attacks, by the new plan's names."""
    same = all(record["spec"].get(k) == before["spec"][k] for k in ("samples", "batch_size"))
    plan, was = plan_of(record) if same else None, plan_of(before)
    if plan is None or was is None or len(plan.jobs()) != len(was.jobs()):
        return
    try:
        described = {
            cell.key: {
                "library_version": cell.call.library_version,
                "parameters": cell.call.all_parameters(),
            }
            for cell in plan.cells
        }
    except Exception:  # noqa: BLE001  # an attack that there isn't
        return
    write_json(folder / "run.json", {**record, "attacks": described})
    for old, new in zip(was.jobs(), plan.jobs(), strict=True):
        if old.stem != new.stem and "/" not in new.stem:
            rename_job(folder, old.stem, new.stem)


def rename_job(folder: Path, old: str, new: str) -> None:
    """A job's files under another name, which they tell themselves."""
    for ending in (".parquet", ".safetensors", ".failed.json"):
        source = folder / "evidence" / f"{old}{ending}"
        if not source.is_file():
            continue
        target = Path(shutil.move(source, source.with_name(f"{new}{ending}")))
        if ending == ".parquet":
            change_about(target, partial(put, ("job",), new))
        elif ending == ".safetensors":
            arrays, metadata = read_images(target)
            write_images(target, arrays, {**metadata, "job": new})


def swap_jobs(folder: Path, one: str, other: str) -> None:
    """Two jobs' files in each other's place, and saying so."""
    for old, new in ((one, "between"), (other, one), ("between", other)):
        rename_job(folder, old, new)


def evidence_files(folder: Path, pattern: str) -> Sequence[Path]:
    return sorted((folder / "evidence").glob(pattern))


def flipped_bit(content: bytes, rng: random.Random) -> bytes:
    """The same bytes but for one bit."""
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)
