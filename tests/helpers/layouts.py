"""Data in the layouts that people have them in."""

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RNG = np.random.default_rng(0)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    path: Path, arrays: list[np.ndarray], labels: list[int], names: list[str]
) -> None:
    images = [{"bytes": png(a), "path": f"{i}.png"} for i, a in enumerate(arrays)]
    feature = {"label": {"names": names, "_type": "ClassLabel"}}
    meta = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
    table = pa.table({"img": images, "label": pa.array(labels, pa.int64())})
    pq.write_table(table.replace_schema_metadata(meta), path)


def idx(array: np.ndarray) -> bytes:
    header = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def cifar_batch(count: int, key: str, classes: int) -> tuple[bytes, np.ndarray, list[int]]:
    rows = RNG.integers(0, 256, (count, 3072), np.uint8)
    labels = RNG.integers(0, classes, count).tolist()
    return pickle.dumps({"data": rows, key: labels, "filenames": ["x"] * count}, 2), rows, labels
