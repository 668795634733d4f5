"""Stores for tests: a memory that counts, refuses and forgets answers, and files that processes
share."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from robusteval import api
from robusteval.evidence.lease import Times
from robusteval.evidence.remote import Remote
from robusteval.evidence.store import Store
from tests.helpers.plugins import lay_package

ROOT = Path(__file__).resolve().parents[2]
SHORT = Times(lease=1.0, beat=0.2, look=0.1)  # signs of life


class Counting(MemoryFileSystem):
    """``counting://``: a memory of its own; ``asked`` counts requests, ``hinder`` is called before
    each with its kind and path, and may raise what a store says."""

    protocol = ("counting",)
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[Counter[str]] = Counter()
    hinder: ClassVar[Callable[[str, str], None]] = staticmethod(lambda kind, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("counting://", "memory://"))

    def _ask(self, kind: str, path: str) -> None:
        self.asked[kind] += 1
        type(self).hinder(kind, path)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._ask("get", path)
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._ask("put", path)
        return super().pipe_file(path, *args, **kwargs)

    def rm_file(self, path: str) -> None:
        self._ask("delete", path)
        super().rm_file(path)

    def info(self, path: str, **kwargs: Any) -> Any:
        self._ask("head", path)
        return super().info(path, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._ask("list", path)
        return super().ls(path, detail, **kwargs)


@contextmanager
def counting() -> Iterator[type[Counting]]:
    """Within it ``counting://`` is known, empty, and has been asked nothing."""
    fsspec.register_implementation("counting", Counting, clobber=True)
    Counting.store.clear()
    Counting.asked.clear()
    try:
        yield Counting
    finally:
        Counting.hinder = staticmethod(lambda kind, path: None)
        Counting.store.clear()


def objects_at(url: str) -> dict[str, bytes]:
    """All that a store holds below a URL, by names below it."""
    filesystem, root = fsspec.core.url_to_fs(url)
    found = filesystem.find(root)
    return {path.removeprefix(f"{root}/"): filesystem.cat_file(path) for path in found}


# Files of this machine as a store that other processes know, too, by what a package says of itself.
SHELF = """
import os
import secrets
from fsspec.implementations.local import LocalFileSystem


class Shelf(LocalFileSystem):
    protocol = ("shelf",)

    @classmethod
    def _strip_protocol(cls, path):
        return os.fspath(path).removeprefix("shelf://").rstrip("/")

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        half = f"{path}.{secrets.token_hex(4)}"
        with open(half, "wb") as file:
            file.write(value)
        (os.link if mode == "create" else os.replace)(half, path)
        if mode == "create":
            os.unlink(half)

    def ls(self, path, detail=False, **kwargs):
        return super().ls(self._strip_protocol(path), detail, **kwargs)
"""


def lay_shelf(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes ``shelf://…`` known here, and to processes that are started."""
    folder.mkdir(exist_ok=True)
    lay_package(folder, "shelf", "1.0", {}, {"shelf_store": SHELF})
    points = folder / "shelf-1.0.dist-info" / "entry_points.txt"
    points.write_text("[fsspec.specs]\nshelf = shelf_store:Shelf\n")
    patch.syspath_prepend(folder)
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    from shelf_store import Shelf  # type: ignore[import-not-found]

    fsspec.register_implementation("shelf", Shelf, clobber=True)
    patch.delitem(sys.modules, "shelf_store", raising=False)


# The next, as a program of its own.
KILLED = """
import sys
from tests.helpers.stores import die_at_work

die_at_work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def die_at_work(suite: str, out: str, after: int) -> None:
    """Is killed as it writes the evidence of so many jobs; short signs of life."""
    plain, left = Store.write, after

    def write(self: Store, *given: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(self, *given)

    Store.write = write  # type: ignore[method-assign]
    Remote.times = SHORT
    api.evaluate("ce_digits", suite, samples=40, batch_size=12, threads=1, out=out)


def killed_at_work(suite: Path, out: str, after: int) -> None:
    """The same in a process that is forked from this one."""
    if (pid := os.fork()) == 0:
        try:
            die_at_work(str(suite), out, after)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
