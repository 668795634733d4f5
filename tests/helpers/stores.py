"""Runs in stores: their objects, and a memory that counts what it is asked."""

from collections import Counter
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import load

from robusteval.evidence.pieces import unsealed

ASKED = ("cat_file", "pipe_file", "rm_file", "info", "ls")


class Counting(MemoryFileSystem):
    """``counting://``: a memory of its own; ``asked`` counts requests."""

    protocol = ("counting",)
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    asked: ClassVar[Counter[str]] = Counter()
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("counting://", "memory://"))

    def cat_file(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["cat_file"] += 1
        return super().cat_file(*args, **kwargs)

    def pipe_file(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["pipe_file"] += 1
        return super().pipe_file(*args, **kwargs)

    def rm_file(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["rm_file"] += 1
        return super().rm_file(*args, **kwargs)

    def info(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["info"] += 1
        return super().info(*args, **kwargs)

    def ls(self, *args: Any, **kwargs: Any) -> Any:
        self.asked["ls"] += 1
        return super().ls(*args, **kwargs)


def objects_at(url: str) -> dict[str, bytes]:
    """All that a store holds below a URL, by names below it."""
    filesystem, root = fsspec.core.url_to_fs(url)
    found = filesystem.find(root)
    return {path.removeprefix(f"{root}/"): filesystem.cat_file(path) for path in found}


def stored_evidence(url: str) -> dict[str, Any]:
    """As ``helpers.evidence.evidence_of`` has it of a folder: all of a run's but for times."""
    found: dict[str, Any] = {}
    for path, content in sorted(objects_at(f"{url}/evidence").items()):
        if path.endswith(".parquet"):
            columns, about, _ = unsealed(content)
            about.pop("seconds")
            found[path] = ({name: v.tolist() for name, v in columns.items()}, about)
        elif path.endswith(".safetensors"):
            found[path] = {k: v.tobytes() for k, v in load(content).items()}
        else:
            found[path] = content.decode()
    return found
