"""Folders of TOML files: those that a variable names, and those that packages bring along.

Models and data sets are looked for in the same way.  A folder that can't be had comes as the error
that says so, and the others go on.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from robusteval.errors import PluginError, RobustevalError
from robusteval.plugins import Kind, plugins


def named_folders(
    variable: str, what: str, error: type[RobustevalError]
) -> Iterator[Path | RobustevalError]:
    """The folders of an environment variable, in its order; ``what``: "model folder", say."""
    for name in os.environ.get(variable, "").split(os.pathsep):
        if os.path.isdir(name):
            yield Path(name)
        elif name:
            fault = "is not a folder" if os.path.exists(name) else "does not exist"
            yield error(f"{what} {name} of ${variable} {fault}: correct it")


def package_folders(kind: Kind, error: type[RobustevalError]) -> Iterator[Path | RobustevalError]:
    """The folders of the packages of files that plug-ins of a kind name.  None is imported."""
    for plugin in plugins(kind):
        try:
            yield from plugin.folders()
        except PluginError as failed:
            yield error(str(failed))


def toml_files(folder: Path, what: str, error: type[RobustevalError]) -> list[Path]:
    """The TOML files of a folder, without hidden ones: systems leave such beside a copy.

    Raises ``error`` for a folder that can't be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as failed:
        raise error(f"{what} {folder} can't be read ({failed.strerror})") from None
    return [folder / name for name in names if name.endswith(".toml") and name[0] != "."]
