"""Where two tables, files or runs differ in what they say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.forgery.fitting import read_images
from benchmarks.forgery.leaves import RUN, read_json
from benchmarks.forgery.rows import ABOUT, read_table
from benchmarks.forgery.rules import excepted
from robusteval.models.entry import Entry


def differing(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """The places in which two tables differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            place = f"{at}.{key}" if at else str(key)
            if key in one and key in other:
                yield from differing(one[key], other[key], place)
            else:
                yield place
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differing(a, b, f"{at}.{number}")
    elif type(one) is not type(other) or one != other:
        yield at


def reads_the_same(run: Path, copy: Path) -> bool:
    """Whether a copy holds the same, whatever its bytes, but for what can't be proven."""
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name == ".lock":
            continue
        name, other = path.relative_to(run), copy / path.relative_to(run)
        try:
            if not _same_file(path, other, str(name)):
                return False
        except Exception:  # noqa: BLE001  # can't be read
            return False
    return True


def _same_file(path: Path, other: Path, name: str) -> bool:
    if not other.is_file():
        return False
    if path.read_bytes() == other.read_bytes():
        return True
    if path.suffix == ".json":
        return _same_tables(_read(path), _read(other), f"{name}:")
    if path.suffix == ".safetensors":
        (a, about), (b, told) = read_images(path), read_images(other)
        arrays = a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)
        return arrays and about == told
    return path.suffix == ".parquet" and _same_rows(path, other)


def _read(path: Path) -> Any:
    """A JSON file as the tool reads it: what an entry leaves out has its default."""
    content = read_json(path)
    if path.name == RUN and content["entry"] is not None:
        content["entry"] = Entry(**content["entry"]).model_dump(mode="json")
    return content


def _same_rows(path: Path, other: Path) -> bool:
    a, b = (read_table(p) for p in (path, other))
    about, told = (json.loads(t.schema.metadata[ABOUT]) for t in (a, b))
    same = a.equals(b) and a.schema.metadata.keys() == b.schema.metadata.keys()
    return bool(same) and _same_tables(about, told, f"{path.name}#")


def _same_tables(one: Any, other: Any, head: str) -> bool:
    return all(excepted(f"{head}{place}", "another") for place in differing(one, other))
