"""Which data sets are known: an entry each, the project's own, the user's and packages'.

    >>> from robusteval.data.known import DATASETS
    >>> DATASETS.get("cifar10").default_threat("Linf").title
    'L∞ 8/255'

Entries are files of ``$ROBUSTEVAL_DATASETS`` and of packages that an entry point of the group
``robusteval.datasets`` names, besides the project's own (``robusteval/data/sets``).  A name means
one data set wherever its numbers are read, so the project's own can't be replaced.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from robusteval.catalogue import Catalogue, near_names
from robusteval.data.entry import (
    DatasetEntry,
    DatasetInfo,
    info_of,
    read_entry,
    regrouped,
)
from robusteval.errors import DataError, RobustevalError, shown
from robusteval.folders import named_folders, package_folders, toml_files

__all__ = ["DATASETS", "PROVIDERS", "DatasetInfo", "Known"]

KIND, FOLDER = "data set", "data set folder"
VARIABLE = "ROBUSTEVAL_DATASETS"
_LOG = logging.getLogger("robusteval")

Places = Iterable[Path | RobustevalError]  # folders of entries, or why one can't be had


def _own() -> Places:
    return [Path(__file__).resolve().parent / "sets"]


def _users() -> Places:
    return named_folders(VARIABLE, FOLDER, DataError)


def _packages() -> Places:
    return package_folders("datasets", DataError)


# Who brings folders; of two files of one name, the first one's counts.
PROVIDERS: list[Callable[[], Places]] = [_own, _users, _packages]


@dataclass(frozen=True)
class _Registry:
    """What the files say, and what is wrong with others, by the name that they would have."""

    found: Catalogue[DatasetInfo] = field(default_factory=lambda: Catalogue(KIND))
    broken: dict[str, DataError] = field(default_factory=dict)
    unused: list[RobustevalError] = field(default_factory=list)


Stamp = tuple[Path, int, int]  # a file, when it was changed, its size


@lru_cache(maxsize=8)
def _read(stamps: tuple[Stamp, ...]) -> _Registry:
    """Every file once; what it says holds until one of them changes."""
    registry, entries = _Registry(), dict[str, DatasetEntry]()
    paths: dict[str, Path] = {}
    for path, *_ in stamps:
        if paths.setdefault(path.stem, path) != path:
            first = paths[path.stem]
            said = f"{path} is not used: {first} has its name and comes first"
            registry.unused.append(DataError(said))
    for name, path in paths.items():
        try:
            entries[name] = read_entry(path, set(paths))
        except DataError as error:
            registry.broken[name] = error
    for name, entry in entries.items():
        try:
            registry.found.add(name, _info(entry, entries, paths, registry.broken))
        except DataError as error:
            registry.broken[name] = error
    return registry


def _info(
    entry: DatasetEntry,
    entries: dict[str, DatasetEntry],
    paths: dict[str, Path],
    broken: dict[str, DataError],
) -> DatasetInfo:
    """What an entry says, with what its base does.  Raises DataError if that can't be had."""
    path, name = paths[entry.name], entry.base
    if name is None:
        return info_of(entry, path)
    if name in broken:
        raise DataError(f"{path}: its base can't be used: {broken[name]}")
    plain = {other for other in entries if entries[other].base is None}
    if name not in plain:
        what = "groups labels itself" if name in entries else "is unknown"
        raise DataError(f"{path}: base {shown(name)} {what}: {near_names(name, plain)}")
    return regrouped(entry, path, info_of(entries[name], paths[name]))


def info_at(path: Path) -> DatasetInfo:
    """What an entry says that stands outside of all folders; it may name known ones.

    Raises DataError.
    """
    found, _ = _registry()
    entry = read_entry(path, {*found.found, path.stem})
    if entry.base is None:
        return info_of(entry, path)
    if entry.base not in found.found or found.found.get(entry.base).base is not None:
        hint = near_names(entry.base, found.found)
        raise DataError(f"{path}: base {shown(entry.base)} can't be grouped: {hint}")
    return regrouped(entry, path, found.found.get(entry.base))


def is_known(data: str) -> bool:
    """Whether ``--data`` names a known data set; what looks like a path is one."""
    return not re.search(r"[/\\.]", data) and data in DATASETS


class Known:
    """Every known data set by name, read when one is asked for.

    What is wrong with others is logged once, in a line each; who asks for one of these is told.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()

    def get(self, name: str) -> DatasetInfo:
        """Raises UnknownNameError, naming near names, and DataError for a file that is wrong."""
        found, problems = _registry()
        if name in found.broken:
            raise found.broken[name]
        self._tell(problems)
        return found.found.get(name)

    def __contains__(self, name: object) -> bool:
        return name in _registry()[0].found

    def __iter__(self) -> Iterator[str]:
        found, problems = _registry()
        self._tell(problems)
        return iter(found.found)

    def __len__(self) -> int:
        return len(_registry()[0].found)

    def _tell(self, problems: list[RobustevalError]) -> None:
        for told in map(str, problems):
            if told not in self._told:
                self._told.add(told)
                _LOG.warning("%s", told)


def _registry() -> tuple[_Registry, list[RobustevalError]]:
    """All that is known now, and all that is wrong."""
    stamps: list[Stamp] = []
    problems: list[RobustevalError] = []
    for provide in PROVIDERS:
        for folder in provide():
            try:
                if isinstance(folder, RobustevalError):
                    raise folder
                stamps += map(_stamp, toml_files(folder, FOLDER, DataError))
            except RobustevalError as error:
                problems.append(error)
    registry = _read(tuple(dict.fromkeys(stamps)))
    return registry, [*problems, *registry.unused, *registry.broken.values()]


def _stamp(path: Path) -> Stamp:
    try:
        about = os.stat(path)
    except OSError:  # reading it says why
        return path, 0, 0
    return path, about.st_mtime_ns, about.st_size


DATASETS = Known()
