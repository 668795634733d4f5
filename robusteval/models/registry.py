"""Which models there are: entries in the user's folders, in plug-ins' and in the project's own.

Imports no torch.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from robusteval.catalogue import near_names
from robusteval.data.known import DATASETS
from robusteval.errors import EntryError, RobustevalError, UnknownNameError, shown
from robusteval.folders import named_folders, package_folders, toml_files
from robusteval.models.entry import Entry, read_entry, require_toml
from robusteval.models.readings import read_by, split_reading
from robusteval.models.robustbench import PREFIX, robustbench_entry
from robusteval.reading import named, named_path

_LOG = logging.getLogger("robusteval")


def built_in_folder() -> Path:
    """The models that come with the project: inside the wheel, or beside a checkout."""
    package = Path(__file__).resolve().parent.parent
    return inside if (inside := package / "_models").is_dir() else package.parent / "models"


def built_in_folders() -> list[Path]:
    """One for each data set, whose models are in it."""
    return sorted(path for path in built_in_folder().glob("*") if path.is_dir())


def user_folders() -> Iterator[Path | RobustevalError]:
    """Those of ``$ROBUSTEVAL_MODELS``."""
    return named_folders("ROBUSTEVAL_MODELS", "model folder", EntryError)


def _model_folders() -> Iterator[Path | RobustevalError]:
    """Folders with entries: ``$ROBUSTEVAL_MODELS``, installed packages', the project's own.

    One that can't be had is told, and the others go on.
    """
    yield from user_folders()
    yield from package_folders("models", EntryError)
    yield from built_in_folders()


def _registry() -> tuple[dict[str, Path], list[RobustevalError]]:
    """Every entry's name (its file's stem) and path, earlier folders first, and what is wrong.

    A user's entry may stand in for one that comes with the project; any other double is told.
    """
    found: dict[str, Path] = {}
    problems: list[RobustevalError] = []
    for folder in _model_folders():
        if isinstance(folder, RobustevalError):
            problems.append(folder)
            continue
        for path in _entries_of(folder, problems):
            first = found.setdefault(path.stem, path)
            if first != path and folder.parent != built_in_folder():
                problems.append(
                    EntryError(f"{path} is not used: {first} has its name and comes first")
                )
    return dict(sorted(found.items())), problems


def _entries_of(folder: Path, problems: list[RobustevalError]) -> list[Path]:
    try:
        return toml_files(folder, "model folder", EntryError)
    except EntryError as error:
        problems.append(error)
        return []


def entry_paths() -> dict[str, Path]:
    """Every entry's name (its file's stem) and path; earlier folders come first.

    What is wrong with a folder is logged.
    """
    found, problems = _registry()
    for problem in problems:
        _LOG.warning("%s", problem)
    return found


def find_entry(name_or_path: str | os.PathLike[str]) -> Entry:
    """An entry by name, by the path of its TOML file, or of RobustBench's: ``robustbench:NAME``.

    A name or path may be followed by a reading, as in ``pcl_digits@nearest_prototype``.
    """
    name, reading = split_reading(named(name_or_path, "model", EntryError))
    if reading is not None:
        entry = find_entry(name)
        return read_by(entry, reading, reference_to(entry))
    if name.startswith(PREFIX):
        return robustbench_entry(name)
    if name.lower().endswith(".toml") or os.sep in name:
        return read_entry(named_path(name, "entry file", EntryError))
    found, problems = _registry()
    if name in found:
        return _read_named(found[name])
    require_toml(Path(name))
    if problems:  # it may be in what could not be read
        raise EntryError(f"unknown model {shown(name)}, and {problems[0]}")
    hint = near_names(name, found)
    raise UnknownNameError(
        f"unknown model {shown(name)}: {hint} (`robusteval list models` shows all)"
    )


def reference_to(entry: Entry) -> str:
    """How to find an entry again: its name where that leads to it, else its path."""
    if entry.address:
        return entry.address
    known = entry_paths().get(entry.name)
    same = known is not None and known.resolve() == entry.path.resolve()
    return entry.name if same else str(entry.path.resolve())


def _read_named(path: Path) -> Entry:
    """A registered entry, whose name is its file's: two files can't share one."""
    entry = read_entry(path)
    if entry.name != path.stem:
        raise EntryError(f"{path}: name is {entry.name!r}, but the file is {path.name}")
    return entry


def all_entries() -> Iterator[Entry | RobustevalError]:
    """Every entry, or what is wrong with it, in order of name; folders' problems come first."""
    found, problems = _registry()
    yield from problems
    for path in found.values():
        try:
            entry = _read_named(path)
            if entry.dataset:
                DATASETS.get(entry.dataset)
        except UnknownNameError as error:
            yield EntryError(f"{path}: {error}")
        except RobustevalError as error:
            yield error
        else:
            yield entry


def readable_entries() -> list[Entry]:
    """Every entry that can be read; what is wrong with the others is logged."""
    entries = []
    for found in all_entries():
        if isinstance(found, Entry):
            entries.append(found)
        else:
            _LOG.warning("%s", found)
    return entries
