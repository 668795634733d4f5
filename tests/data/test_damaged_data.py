"""Damaged data files, a seeded sample: each is read or told in one line, and nothing else."""

import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from robusteval.data import readers
from robusteval.data.readers import Shape
from robusteval.errors import DataError
from tests.helpers.layouts import idx

SHAPE = Shape(3, 32, 32)
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
TRIES = 40


def image(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return image(kind, exif=exif)


def shard(**options: object) -> bytes:
    table = pa.table({"img": [{"bytes": image("PNG"), "path": "x"}] * 10, "label": list(range(10))})
    features = {"label": {"names": list("abcdefghij")}}
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(about), stream, **options)
    return stream.getvalue()


def matrices(compressed: bool) -> bytes:
    stream = io.BytesIO()
    content = {"X": np.stack([PIXELS, 255 - PIXELS], -1), "y": np.array([[10], [1]], np.uint8)}
    savemat(stream, content, do_compression=compressed)
    return stream.getvalue()


def batch(protocol: int) -> bytes:
    rows = PIXELS.reshape(1, -1).repeat(3, 0)
    return pickle.dumps({"data": rows, "labels": [1, 2, 3], "filenames": ["x"] * 3}, protocol)


def decoded(path: Path) -> object:
    return readers.decode_all([path], SHAPE)


def parquet(path: Path) -> object:
    return readers.read_parquet([path], SHAPE)


def cifar(path: Path) -> object:
    return readers.read_cifar_batches([path], "labels")


SOUND: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "png": (turned("PNG"), decoded),
    "jpeg": (turned("JPEG"), decoded),
    "webp": (turned("WEBP"), decoded),
    "tiff": (image("TIFF"), decoded),
    "gif": (image("GIF"), decoded),
    "bmp": (image("BMP"), decoded),
    "ppm": (image("PPM"), decoded),
    "parquet": (shard(), parquet),
    "parquet-checksums": (shard(write_page_checksum=True, compression="none"), parquet),
    "mat": (matrices(False), readers.read_svhn),
    "mat-compressed": (matrices(True), readers.read_svhn),
    "idx": (idx(PIXELS), readers.read_idx),
    "idx.gz": (gzip.compress(idx(PIXELS), mtime=0), readers.read_idx),
    "pickle-2": (batch(2), cifar),
    "pickle-4": (batch(4), cifar),
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, bits flipped, numbers made huge, or bytes left out; half of it near the start."""
    broken = bytearray(content)
    at = int(rng.integers(min(len(broken), 200) if rng.random() < 0.5 else len(broken)))
    how = rng.integers(4)
    if how == 0:
        del broken[at:]
    elif how == 1:
        broken[at] ^= 1 << int(rng.integers(8))
    elif how == 2:
        broken[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"])
    else:
        del broken[at : at + int(rng.integers(1, 50))]
    return bytes(broken)


@pytest.mark.parametrize("kind", SOUND)
def test_damaged_files_are_read_or_told_in_one_line(tmp_path: Path, kind: str) -> None:
    content, read = SOUND[kind]
    path = tmp_path / f"file.{kind}"
    path.write_bytes(content)
    read(path)
    rng = np.random.default_rng(7)
    told: list[str] = []
    for _ in range(TRIES):
        path.write_bytes(damaged(content, rng))
        try:
            read(path)
        except DataError as error:
            told.append(str(error))
    assert len(told) >= TRIES // 5
    for message in told:
        assert path.name in message
        assert message.isprintable()
        assert len(message) < 1000


def test_flipped_bits_are_found_where_checksums_were_written(tmp_path: Path) -> None:
    """Parquet's page checksums, if the file's writer wrote them: no other pixels, no other labels.

    The footer, which no checksum covers, is left out here.
    """
    content = SOUND["parquet-checksums"][0]
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    sound = readers.read_parquet([path], SHAPE)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for at in np.linspace(4, footer - 1, 60).astype(int):
        broken = bytearray(content)
        broken[at] ^= 4
        path.write_bytes(broken)
        try:
            raw = readers.read_parquet([path], SHAPE)
        except DataError:
            continue
        assert np.array_equal(raw.images, sound.images)
        assert np.array_equal(raw.labels, sound.labels)


def test_a_forged_array_in_a_pickle_cannot_reach_memory(tmp_path: Path) -> None:
    """NumPy's own unpickling takes raw bytes for pointers, if the state says so."""
    for state in (
        (1, (2,), "O8", False, b"\1" * 16),
        (1, (10**12,), "u1", False, b"\1"),
        (1, (-1, -1), "u1", False, b"\1"),
        (1, (2,), "V8", False, b"\1" * 16),
    ):
        path = tmp_path / "test_batch"
        path.write_bytes(pickle.dumps({"data": Forged(state), "labels": [1]}, 2))
        with pytest.raises(DataError, match="not a CIFAR batch"):
            readers.read_cifar_batches([path], "labels")


class Forged:
    """Pickled as an array with that state."""

    def __init__(self, state: tuple[object, ...]) -> None:
        version, shape, kind, by_columns, content = state
        self.state = (version, shape, np.dtype(kind), by_columns, content)

    def __reduce__(self) -> tuple[object, ...]:
        from numpy._core.multiarray import _reconstruct

        return _reconstruct, (np.ndarray, (0,), b"b"), self.state


def test_a_packed_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    head = b"\0\0\x08\x03" + b"\x7f\xff\xff\xff" * 3
    path.write_bytes(gzip.compress(head + bytes(10**6)))
    with pytest.raises(DataError, match="says that it holds"):
        readers.read_idx(path)
