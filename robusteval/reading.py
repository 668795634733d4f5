"""Reading what a user names: regular files alone, so that nothing blocks, and TOML."""

import errno
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from robusteval.errors import RobustevalError, reason, shown

MOST_TOML = 2**20  # bytes; the largest of our own has 4,000
_MOST_DOTS, _BETWEEN_KEYS = 60, re.compile(r"[=,{\[]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes that file systems take


def parse_path(value: object) -> Path:
    """A path of text or of a path.  Raises ValueError for nothing, and for what none can be."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ValueError("give a path")
    if not text:
        raise ValueError("the path is empty: name one, or . for this folder")
    if "\0" in text:
        raise ValueError("no path can hold a NUL character")
    try:
        longest = max(len(part.encode()) for part in text.split(os.sep))
    except UnicodeEncodeError:  # reports and records are UTF-8, and name it
        raise ValueError("the path is not UTF-8 text: rename it, or link to it") from None
    if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
        raise ValueError("no file can have so long a name: shorten it")
    return Path(text)


def named(value: object, what: str, error: type[RobustevalError]) -> str:
    """A name or a path as text.  Raises ``error`` for what is neither."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise error(f"{what} {shown(value)}: give its name or its path")
    return text


def named_path(name: str, what: str, error: type[RobustevalError]) -> Path:
    """The same, with ``error`` for a ``what`` that can't be."""
    try:
        return parse_path(name)
    except ValueError as failed:
        raise error(f"{what} {shown(name)}: {failed}") from None


def read_file(path: Path, most: int | None = None) -> bytes:
    """A regular file's content.

    Raises OSError, with a short ``strerror``, for everything that keeps it from being read: what
    is no regular file (a pipe would block), one of more than ``most`` bytes, too little memory.
    """
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "not a regular file"
            raise OSError(errno.EINVAL, f"it is {what}")
        if most is not None and about.st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
        return path.read_bytes()
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have such a name") from None
    except MemoryError:
        raise OSError(errno.ENOMEM, "too little memory") from None


def _require_flat(text: str) -> None:
    """Raises RecursionError for a key of many parts: tomllib takes their square in memory."""
    for line in text.splitlines():
        keys = _BETWEEN_KEYS.split(line) if line.count(".") > _MOST_DOTS else []
        if any(key.count(".") > _MOST_DOTS for key in keys):
            raise RecursionError


def read_toml(path: Path, what: str, error: type[RobustevalError]) -> dict[str, Any]:
    """A TOML file's content; ``what``: "entry file", say.  Raises ``error`` with one line."""
    try:
        content = read_file(path, MOST_TOML)
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist: check the path") from None
    except OSError as failed:
        raise error(f"{what} {path} can't be read ({failed.strerror}): check the path") from None
    try:
        text = content.decode("utf-8-sig")
        _require_flat(text)
        return tomllib.loads(text)
    except UnicodeDecodeError as failed:
        coded = "UTF-16" if content[:2] in _UTF16 else f"byte {failed.start} is not"
        raise error(f"{what} {path} is not UTF-8 text ({coded}): save it as UTF-8") from None
    except tomllib.TOMLDecodeError as failed:
        raise error(f"{what} {path} is not valid TOML ({reason(failed)}): mend that line") from None
    except RecursionError:
        raise error(f"{what} {path} is nested too deeply: it should need few levels") from None
    except ValueError:  # Python's own limit on digits
        raise error(f"{what} {path} holds a number of thousands of digits: mend it") from None
