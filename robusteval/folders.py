"""Folders of TOML files: those that a variable names, and those that packages bring along.

Models and data sets are looked for in the same way.  A folder that can't be had comes as the error
that says so, and the others go on.
"""

import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from robusteval.errors import RobustevalError, reason


def named_folders(
    variable: str, what: str, error: type[RobustevalError]
) -> Iterator[Path | RobustevalError]:
    """The folders of an environment variable, in its order; ``what``: "model folder", say."""
    for name in os.environ.get(variable, "").split(os.pathsep):
        if os.path.isdir(name):
            yield Path(name)
        elif name:
            fault = "is no folder" if os.path.exists(name) else "does not exist"
            yield error(f"{what} {name} of ${variable} {fault}: correct it")


def package_folders(group: str, error: type[RobustevalError]) -> Iterator[Path | RobustevalError]:
    """The folders of the packages that entry points of a group name.  None is imported."""
    for point in entry_points(group=group):
        yield from _of_point(point, group, error)


def _of_point(
    point: EntryPoint, group: str, error: type[RobustevalError]
) -> list[Path | RobustevalError]:
    try:
        spec = find_spec(point.value)
    except Exception as failed:  # noqa: BLE001 - a package's parents are imported
        spec, why = None, reason(failed)
    else:
        why = "there is no such package"
    if spec is None:
        said = f"the entry point {point.name} = {point.value} of {group} leads nowhere"
        return [error(f"{said} ({why}): mend or remove its package")]
    return [Path(place) for place in spec.submodule_search_locations or []]


def toml_files(folder: Path, what: str, error: type[RobustevalError]) -> list[Path]:
    """The TOML files of a folder, without hidden ones: systems leave such beside a copy.

    Raises ``error`` for a folder that can't be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as failed:
        raise error(f"{what} {folder} can't be read ({failed.strerror})") from None
    return [folder / name for name in names if name.endswith(".toml") and name[0] != "."]
