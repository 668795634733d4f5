"""Where runs are kept: a folder's path, or a URL that fsspec knows, such as ``s3://bucket/runs``."""

import os
import re
from pathlib import Path
from typing import Self

from robusteval.errors import RobustevalError, shown
from robusteval.reading import parse_path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_COLLAPSED = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/[^/]")  # what pathlib makes of a URL
_LOCAL = ("file", "local")
_LONGEST = 900  # bytes: S3 takes keys of 1,024, and a run's files have names of their own


class Url(str):
    """A place in a store.  ``/``, ``name`` and ``parent`` are as a path has them."""

    __slots__ = ()

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self}/{name}")

    @property
    def protocol(self) -> str:
        """Such as ``s3``."""
        return self.partition("://")[0]

    @property
    def is_of_one_process(self) -> bool:
        """Whether no other process sees what is there."""
        return self.protocol == "memory"

    @property
    def name(self) -> str:
        return self.partition("://")[2].rpartition("/")[2]

    @property
    def parent(self) -> Self:
        head, _, name = self.rpartition("/")
        return self if head.endswith("/") or not name else type(self)(head)


Place = Path | Url


def parse_place(value: object) -> Place:
    """A path, or a URL.  Raises ValueError for what is neither, and for a URL with a password.

    >>> parse_place("runs"), parse_place("S3://bucket/runs/")
    (PosixPath('runs'), 's3://bucket/runs')
    """
    if isinstance(value, Url):
        return value
    found = _URL.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        if isinstance(value, Path) and _COLLAPSED.match(str(value)):
            raise ValueError("a Path can't hold a URL: pass it as text")
        return parse_path(value)
    protocol, rest = found[1].lower(), found[2].rstrip("/")
    if protocol in _LOCAL:
        return parse_path(rest or os.sep)
    return _url(protocol, rest)


def _url(protocol: str, rest: str) -> Url:
    """Raises ValueError for what can't be kept in a record and shown to people."""
    if "@" in rest.partition("/")[0]:
        raise ValueError("a URL may hold no user and no password: put them in the environment")
    if "?" in rest or "#" in rest or "::" in rest:
        raise ValueError(
            "a URL is a protocol, a bucket or host, and folders: leave ?, # and :: out"
        )
    if not rest.isprintable() or not _is_utf8(rest):
        raise ValueError("a URL is text that can be printed")
    if any(part in ("", ".", "..") for part in rest.lstrip("/").split("/")):
        raise ValueError("a URL names a bucket or host, and folders without // and ..")
    if len(rest.encode()) > _LONGEST:
        raise ValueError("no store takes so long a name: shorten it")
    return Url(f"{protocol}://{rest}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def named_place(value: object, what: str, error: type[RobustevalError]) -> Place:
    """The same, with ``error`` for a ``what`` that can't be."""
    try:
        return parse_place(value)
    except ValueError as failed:
        told = without_secrets(value) if isinstance(value, str) else value
        raise error(f"{what} {shown(told)}: {failed}") from None


def without_secrets(text: str) -> str:
    """A text in which no URL tells a user or a password.

    >>> without_secrets("no answer from http://me:secret@host/x")
    'no answer from http://…@host/x'
    """
    return re.sub(r"://[^/@\s]*@", "://…@", text)
