"""A run in a store that fsspec knows: S3, Google Cloud Storage, a memory, and others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, NoReturn

from robusteval.errors import EvidenceError, OutputError, RobustevalError
from robusteval.evidence.copies import Copies
from robusteval.evidence.filesystems import Patience, excludes, open_filesystem
from robusteval.evidence.lease import Times, leased
from robusteval.places import Url

_LOG = logging.getLogger("robusteval")
# What a browser shows instead of saving it, and by protocol how a store is told.
_TYPES = {"html": "text/html; charset=utf-8", "json": "application/json", "csv": "text/csv"}
_TYPES["md"] = "text/markdown; charset=utf-8"
_TYPED = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}
_WAIT = "see to the store, then run the same command again: finished jobs are kept"


class Remote:
    """A run below a URL.

    Evidence that was read or written here is there, and as it was, until it is removed here: a copy
    on this machine answers.  Whoever is to see what the store holds now makes a new one.  Nothing
    else is remembered, and listings say what is there now.
    """

    read_only = False
    times = Times()  # of the lock

    def __init__(self, url: Url) -> None:
        self.url = url
        self.patience = Patience(url)
        self.copies = Copies()

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels as its URL."""
        return Remote, (self.url,)

    def read(self, name: str) -> bytes:
        if (content := self.copies.read(name)) is not None:
            return content
        once = {"max_concurrency": 1} if self.url.protocol in ("s3", "s3a") else {}  # no HEAD
        found: bytes = self.patience.ask(lambda: self._fs.cat_file(self._path(name), **once))
        self._keep(name, found)
        return found

    def write(self, name: str, content: bytes, advice: str) -> None:
        self.copies.drop(name)
        with self._told(name, advice):
            self.patience.ask(
                lambda: self._fs.pipe_file(self._path(name), content, **self._typed(name))
            )
        self._keep(name, content)

    def create(self, name: str, content: bytes, advice: str) -> bool:
        if not self._excludes(advice):
            if self.has(name):
                return False
            self.write(name, content, advice)
            return True

        def create(again: bool) -> bool:
            try:
                self._fs.pipe_file(self._path(name), content, mode="create")
                return True
            except FileExistsError:  # perhaps made by the try before, whose answer was lost
                return again and bool(self._fs.cat_file(self._path(name)) == content)

        with self._told(name, advice):
            return self.patience.ask_again(create)

    def has(self, name: str) -> bool:
        return name in self.copies or self.size(name) >= 0

    def size(self, name: str) -> int:
        try:
            found = self.patience.ask(lambda: self._fs.info(self._path(name)))
        except FileNotFoundError:
            return -1
        except OSError as error:
            self._unanswered(name, error)
        return int(found["size"]) if found["type"] == "file" else -1

    def names(self, folder: str) -> list[str]:
        place = self._path(folder) if folder else self._root
        try:
            found = self.patience.ask(lambda: self._fs.ls(place, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._unanswered(folder, error)
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        # Some stores list a folder among its files.
        return sorted(name for name in names if name != place.rpartition("/")[2])

    def remove(self, name: str, advice: str) -> None:
        self.copies.drop(name)
        with self._told(name, advice, "removed"), suppress(FileNotFoundError):
            self.patience.ask(lambda: self._fs.rm_file(self._path(name)))

    def require_replaceable(self, name: str, advice: str) -> None:
        """Whatever is there is replaced."""

    def prepare(self, folder: str, advice: str) -> None:
        """A store has no folders, and nothing is half written: only whether it takes a file."""
        self._excludes(advice)

    def tidy(self, folder: str) -> None:
        """A store has no folders."""

    @contextmanager
    def lock(self, busy: RobustevalError) -> Iterator[None]:
        with leased(self, busy, self.times):
            yield

    def sizes(self) -> list[int]:
        try:
            found = self.patience.ask(lambda: self._fs.find(self._root, detail=True))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._unanswered("", error)
        return [int(one["size"] or 0) for one in found.values()]

    def remove_all(self, advice: str) -> None:
        self.copies = Copies()
        with self._told("", advice, "removed"), suppress(FileNotFoundError):
            self.patience.ask(lambda: self._fs.rm(self._root, recursive=True))

    def where(self, name: str = "") -> str:
        return f"{self.url}/{name}" if name else str(self.url)

    def from_anywhere(self) -> "Remote":
        return Remote(self.url)

    def open(self) -> None:
        """Raises OutputError where nothing here can open such a URL; asks the store nothing."""
        _ = self._fs

    def require_answer(self) -> None:
        """Raises OutputError for a store that can't be reached or listed at all."""
        try:
            self.patience.ask(lambda: self._fs.ls(self._root, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            pass  # it will be made
        except OSError as error:
            raise OutputError(
                f"{self.url} can't be used ({error.strerror}): see to the keys and the endpoint in "
                "the environment, or choose another place with --out"
            ) from None

    @cached_property
    def _fs(self) -> Any:
        return open_filesystem(self.url)

    @cached_property
    def _root(self) -> str:
        return str(self._fs._strip_protocol(str(self.url))).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _excludes(self, advice: str) -> bool:
        """Whether the store lets one of several create a file; tried once.

        Raises OutputError where it takes no file.
        """
        if "does_exclude" not in self.__dict__:
            with self._told("", advice):
                self.does_exclude = self.patience.ask(lambda: excludes(self._fs, self._root))
            if not self.does_exclude:
                _LOG.warning(
                    "%s has no conditional writes: let one process alone work there", self.url
                )
        return self.does_exclude

    def _keep(self, name: str, content: bytes) -> None:
        """Of evidence alone: a job's is what it is, whoever made it."""
        if name.endswith((".parquet", ".safetensors")):
            self.copies.keep(name, content)

    def _typed(self, name: str) -> dict[str, str]:
        kind = _TYPES.get(name.rpartition(".")[2])
        return {_TYPED[self.url.protocol]: kind} if kind and self.url.protocol in _TYPED else {}

    @contextmanager
    def _told(self, name: str, advice: str, done: str = "written") -> Iterator[None]:
        """Turns what a store says of writing into one line.  Raises OutputError."""
        try:
            yield
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            told = "there is no such bucket" if missing else error.strerror
            raise OutputError(f"{self.where(name)} can't be {done} ({told}): {advice}") from None

    def _unanswered(self, name: str, error: OSError) -> NoReturn:
        raise EvidenceError(
            f"{self.where(name)} can't be looked for ({error.strerror}): {_WAIT}"
        ) from None
