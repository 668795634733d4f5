"""Results of benchmarks as CSV files: one row for each, a dataclass's fields as columns."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from robusteval.storage import replace_file

Result = TypeVar("Result")  # a dataclass whose fields are strings and numbers


def read(path: Path, kind: type[Result]) -> list[Result]:
    """Results of earlier runs; none where there is no file yet."""
    if not path.is_file():
        return []
    types: dict[str, Any] = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]
    with path.open(encoding="utf-8", newline="") as file:
        return [
            kind(**{name: types[name](value) for name, value in row.items()})
            for row in csv.DictReader(file)
        ]


def grouped(results: Sequence[Result], *names: str) -> dict[tuple[Any, ...], list[Result]]:
    """Results by the values of some of their fields, as these are met."""
    found: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        found.setdefault(tuple(getattr(result, name) for name in names), []).append(result)
    return found


def write(path: Path, results: Sequence[Any]) -> None:
    """At least one result, all of one kind; a kill leaves the old file or the new one."""
    text = io.StringIO(newline="")
    names = [field.name for field in fields(results[0])]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    replace_file(path, text.getvalue().encode(), "name another file with --out")
