"""What a training leaves beside its entry: weights, and an entry that names them.

Each file is replaced as a whole, but the two can't be replaced at once.  So no file is written that
the entry names at that moment: killed wherever it is, a training leaves an entry whose weights are
the ones that it names, the old or the new.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import tomlkit
from torch import Tensor

from robusteval.errors import TrainingError
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Trained
from robusteval.models.loading import write_weights
from robusteval.storage import remove_file, replace_file, require_replaceable

_ADVICE = "free space in its folder"


def publish(entry: Entry, tensors: dict[str, Tensor], trained: Trained) -> None:
    """Writes weights and ``[trained]``, by way of another file where the entry names its own."""
    target, aside = _files(entry)
    for path in (aside, target) if _names(entry, target) else (target,):
        _write_entry(entry, path.name, write_weights(path, tensors), trained)
    remove_file(aside, "remove it by hand")


def require_own_files(entry: Entry, begun: bool) -> None:
    """Raises TrainingError where weights would take the place of somebody else's.

    That is a file that another entry of the folder names; and, unless this training has ``begun``
    before, one that is there and not named by ``entry``.
    """
    files = _files(entry)
    for path in (*files, entry.path):
        require_replaceable(path, "see to it before training")
    for other, named in _named_by_others(entry):
        if named.casefold() in {path.name.casefold() for path in files}:
            raise TrainingError(
                f"weights would go to {files[0]}, but {other} names {named}: give {entry.path} "
                f"another name, or take [weights] out of {other}"
            )
    if files[0].exists() and not begun and not _names(entry, files[0]):
        raise TrainingError(
            f"weights would go to {files[0]}, which is there, and {entry.path} does not name it: "
            "move it away"
        )


def _names(entry: Entry, path: Path) -> bool:
    return entry.weights is not None and entry.weights_path == path


def _files(entry: Entry) -> tuple[Path, Path]:
    """Where weights go, and where they are until the entry names them: no model is called so."""
    folder = entry.path.parent
    return folder / f"{entry.name}.safetensors", folder / f"{entry.name}~.safetensors"


def _named_by_others(entry: Entry) -> Iterator[tuple[Path, str]]:
    """(entry file, the weights file that it names) of the folder's others."""
    for path in sorted(entry.path.parent.glob("*.toml")):
        try:
            if path.samefile(entry.path) or not path.is_file():
                continue
            named = tomllib.loads(path.read_text("utf-8-sig"))["weights"]["file"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # it names none
        if isinstance(named, str):
            yield path, Path(named).name


def _write_entry(entry: Entry, file: str, digest: str, trained: Trained) -> None:
    document = tomlkit.parse(entry.path.read_text("utf-8-sig"))
    if entry.weights is None or entry.weights.sha256 != digest:
        _forget_measured(document)
    if "weights" not in document:
        document.pop("trained", None)  # it stands after them
    document["weights"] = {"file": file, "sha256": digest}
    document["trained"] = trained.model_dump(exclude_none=True)
    replace_file(entry.path, tomlkit.dumps(document).encode(), _ADVICE)


def _forget_measured(document: tomlkit.TOMLDocument) -> None:
    """Takes out claims that were measured on other weights (see ``entry.Claim``)."""
    claims = document.get("claims", [])
    for place in reversed(range(len(claims))):
        if claims[place].get("by") == "protocol":
            del claims[place]
    if not claims:
        document.pop("claims", None)
