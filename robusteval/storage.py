"""Files that are whole or not there, and folders that are tried before they are needed."""

import os
import tempfile
from pathlib import Path

from robusteval.errors import OutputError

LEADERBOARDS = Path("leaderboards")  # where they are published, unless one says otherwise


def replace_file(path: Path, content: bytes, advice: str) -> None:
    """Replaces a file atomically: a kill leaves the old one or the new one, never half of one.

    Raises OutputError, ending in ``advice``, if it can't be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} can't be written ({error.strerror}): {advice}") from None


def require_writable(folder: Path, advice: str) -> None:
    """Makes a folder, and finds out at once whether it can be written.  Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"folder {folder} can't be written ({error.strerror}): {advice}"
        ) from None


def is_partial(name: str) -> bool:
    """Whether a file of this name is what a killed process had half written."""
    return name.startswith(".") and name.endswith(".partial")


def remove_partials(folder: Path) -> None:
    """Clears what a killed process had half written."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
