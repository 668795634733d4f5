"""The cache of decoded pixels, bound to its sources' content and to its own.

A file of the cache opens with a digest over its key and all that follows.  One that is damaged or
made for other sources is not read: the sources are decoded anew.  (Whoever may write into the
user's cache could still forge a file with its digest, or the program itself.)
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version
from safetensors import SafetensorError
from safetensors.numpy import load, save

from robusteval.data.files import open_file, read_bytes
from robusteval.data.locate import Source
from robusteval.data.raw import RawData, Shape
from robusteval.errors import DataError, OutputError
from robusteval.storage import cache_dir, replace_file

_RULES = 3  # one more whenever the same files are read as other pixels or labels
_DIGEST = hashlib.sha256().digest_size


def read_cached(source: Source, shape: Shape) -> RawData:
    """Reads through the cache, keyed by each file's content.

    A folder of loose files is read anew each time: to compare them all would take about as long.
    """
    folder = cache_dir()
    if source.layout == "folder" or folder is None:
        return source.read()
    key = _key(source, shape)
    path = folder / "decoded" / f"{key[:24]}.pixels"
    if (known := _load(path, key, shape)) is not None:
        return known
    raw = source.read()
    with suppress(OSError, OutputError):  # a cache that can't be written costs time, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _packed(raw, key), "the cache is left out")
    return raw


def _key(source: Source, shape: Shape) -> str:
    """What decides the pixels: the files' content, how they are read, and the decoder."""
    contents = []
    for path in source.files:
        with open_file(path) as stream:
            contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
    what = (_RULES, pillow_version, source.layout, contents, shape)
    return hashlib.sha256(repr(what).encode()).hexdigest()


def _packed(raw: RawData, key: str) -> bytes:
    names = np.frombuffer(json.dumps(raw.class_names).encode(), np.uint8)
    images = np.ascontiguousarray(raw.images)
    content = save({"images": images, "labels": raw.labels, "class_names": names})
    return _digest(key, content) + content


def _load(path: Path, key: str, shape: Shape) -> RawData | None:
    """What is cached under that key, if it is sound."""
    try:
        stored = read_bytes(path)
        if stored[:_DIGEST] != _digest(key, memoryview(stored)[_DIGEST:]):
            return None
        content = load(stored[_DIGEST:])
        images, labels = content["images"], content["labels"]
        names = json.loads(content["class_names"].tobytes())
    except (DataError, SafetensorError, KeyError, ValueError):
        return None
    expected = (len(labels), shape.channels, shape.height, shape.width)
    if images.dtype != np.uint8 or labels.dtype != np.int64 or images.shape != expected:
        return None
    return RawData(images, labels, None if names is None else tuple(names))


def _digest(key: str, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(content)
    return digest.digest()
