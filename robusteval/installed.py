"""What is installed, by content: the project's code, what stands beside it, and Python."""

import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

Fact = tuple[object, ...]

_PACKAGE = Path(__file__).resolve().parent
_BUILT = {"__pycache__", "_models"}  # models are told of by themselves


def installation() -> str:
    """SHA-256 over the project's code, what is installed beside it, and Python."""
    parts: list[Fact] = [(sys.version, platform.machine())]
    for folder, below, names in os.walk(_PACKAGE):
        below[:] = sorted(set(below) - _BUILT)
        parts += [content_of(Path(folder, name)) for name in sorted(names)]
    installed = {name for place in sys.path for name in _entries(place) if _is_package(name)}
    return digest_of([*parts, tuple(sorted(installed))])


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read piece by piece.  Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(facts: Iterable[object]) -> str:
    """SHA-256 over facts, in their order."""
    return hashlib.sha256(repr(list(facts)).encode("utf-8", "surrogateescape")).hexdigest()


def _entries(place: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(place or ".")
    return []


def _is_package(name: str) -> bool:
    """Whether it tells of a package: its name and version are in the name."""
    return name.endswith((".dist-info", ".egg-info"))


def content_of(path: Path) -> Fact:
    """A file and its digest.  Raises OSError."""
    return str(path), file_digest(path)
