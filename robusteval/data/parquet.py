"""Parquet shards in the layout of public data-set hubs, as pandas, polars and others write them."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.data.files import open_file, parsing, read_bytes, shown
from robusteval.data.images import decode_all
from robusteval.data.raw import RawData, Shape, joined
from robusteval.errors import DataError

# What is taken where several columns could be meant: the first of these, whatever its case.
IMAGE_NAMES = ("image", "img", "images", "picture", "photo")
LABEL_NAMES = (
    *("fine_label", "label", "labels", "class", "class_id", "class_label", "label_id"),
    *("target", "targets", "category", "category_id", "y"),
)
# Numbers that are no labels, or not those that are meant: never taken, not even alone.
_NO_LABEL = re.compile("(.*_)?(coarse|super).*|(row_?)?(id|idx|index)|row_?number")
# pandas keeps its index in such a column; that it is none is certain.
_PANDAS_INDEX = re.compile("__index_level_[0-9]+__")
_BYTES = {"binary", "large_binary", "binary_view"}


def read_parquet(files: Sequence[Path], shape: Shape) -> RawData:
    """The shards of a split: encoded images, whole-number labels, and the class names if the
    schema's ``huggingface`` metadata tell them.

    The image column is binary, or a struct with a binary ``bytes``.  Of several columns that
    ``IMAGE_NAMES`` and ``LABEL_NAMES`` don't decide between none is taken.  Raises DataError.
    """
    shards = [_shard(file, shape) for file in files]
    if len(columns := {label for label, _ in shards}) > 1:
        raise DataError(
            f"the shards beside {shown(files[0])} have their labels in other columns, "
            f"{_listed(sorted(columns))}: fetch them anew"
        )
    return joined(files, [raw for _, raw in shards])


def parquet_class_names(files: Sequence[Path]) -> tuple[str, ...] | None:
    """The class names that the first shard's schema tells.  Raises DataError."""
    import pyarrow.parquet as pq

    with _reading(files[0]), open_file(files[0]) as stream:
        schema = pq.read_schema(stream)
        return _hub_class_names(schema.metadata, _columns(schema, files[0])[1])


def _shard(file: Path, shape: Shape) -> tuple[str, RawData]:
    """The label column's name, and the samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _reading(file):
        source = pa.BufferReader(read_bytes(file))
        table = pq.read_table(source, page_checksum_verification=True)
        image, label = _columns(table.schema, file)
        encoded = _encoded(table.column(image), file)
        labels = _labels(table.column(label), file)
        names = _hub_class_names(table.schema.metadata, label)
    where = [f"{shown(file)}, row {row}," for row in range(len(encoded))]
    return label, RawData(decode_all(encoded, shape, where, any_size=False), labels, names)


class ParquetRows:
    """One shard, whose images are read a row group at a time."""

    def __init__(self, file: Path, columns: tuple[str, str], groups: Sequence[int]) -> None:
        self.file, self.columns = file, columns  # image and label
        self._ends = np.cumsum([0, *groups])

    @classmethod
    def of(cls, file: Path) -> "ParquetRows":
        """Raises DataError for a file without images and labels."""
        import pyarrow.parquet as pq

        with _reading(file), open_file(file) as stream:
            about = pq.ParquetFile(stream)
            rows = [about.metadata.row_group(i).num_rows for i in range(about.num_row_groups)]
            return cls(file, _columns(about.schema_arrow, file), rows)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def class_names(self) -> tuple[str, ...] | None:
        """What the schema tells."""
        return parquet_class_names([self.file])

    def labels(self) -> NDArray[np.int64]:
        """The labels of all rows (N,)."""
        import pyarrow.parquet as pq

        with _reading(self.file), open_file(self.file) as stream:
            table = pq.read_table(
                stream, columns=[self.columns[1]], page_checksum_verification=True
            )
            return _labels(table.column(self.columns[1]), self.file)

    def images(self, rows: NDArray[np.int64]) -> Iterator[tuple[bytes, str]]:
        """The encoded images of ascending rows, and what a message calls each."""
        import pyarrow.parquet as pq

        with _reading(self.file), open_file(self.file) as stream:
            about = pq.ParquetFile(stream, page_checksum_verification=True)
            for group, (start, end) in enumerate(pairwise(self._ends)):
                wanted = rows[(rows >= start) & (rows < end)]
                if len(wanted):
                    table = about.read_row_group(group, columns=[self.columns[0]])
                    column = table.column(self.columns[0]).take(wanted - start)
                    for row, image in zip(wanted, _encoded(column, self.file), strict=True):
                        yield image, f"{shown(self.file)}, row {row},"


def _reading(file: Path) -> AbstractContextManager[None]:
    return parsing(f"{shown(file)} can't be read as Parquet", "fetch it anew")


def _columns(schema: Any, file: Path) -> tuple[str, str]:
    """The names of the image column and the label column."""
    images = [field.name for field in schema if _has_images(field.type)]
    labels = [field.name for field in schema if _has_labels(field)]
    if not images or not labels:
        raise DataError(
            f"{shown(file)} needs an image column (struct with bytes) and an integer label column; "
            f"it has {_listed(f'{field.name} ({field.type})' for field in schema)}"
        )
    return (
        _chosen(images, IMAGE_NAMES, "images", schema, file),
        _chosen(labels, LABEL_NAMES, "labels", schema, file),
    )


def _chosen(fitting: list[str], usual: tuple[str, ...], what: str, schema: Any, file: Path) -> str:
    """The column that is meant.  Raises DataError, naming the candidates, where nothing tells."""
    for name in usual:
        if len(found := [c for c in fitting if c.lower() == name]) == 1:
            return found[0]
    other = [field for field in schema if field.name.lower() in usual]
    if len(fitting) == 1 and not other and not _NO_LABEL.fullmatch(fitting[0].lower()):
        return fitting[0]
    raise DataError(
        f"{shown(file)}: which column holds the {what} is not clear: "
        f"{_listed(fitting + [f'{o.name} ({o.type})' for o in other if o.name not in fitting])} "
        f"could; call the right one {usual[1]}"
    )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(shown(name) for name in names)


def _plain(kind: Any) -> Any:
    """The type of a column's values, dictionary-encoded or not."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _has_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return str(_plain(kind)) in _BYTES


def _has_labels(field: Any) -> bool:
    import pyarrow as pa

    whole = bool(pa.types.is_integer(_plain(field.type)))
    return whole and not _PANDAS_INDEX.fullmatch(field.name)


def _encoded(column: Any, file: Path) -> list[bytes]:
    """Each row's encoded image."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    if column.null_count:
        raise DataError(f"{shown(file)}: {column.null_count} rows have no image bytes")
    cells: list[bytes] = column.to_pylist()
    return cells


def _labels(column: Any, file: Path) -> NDArray[np.int64]:
    if column.null_count:
        raise DataError(f"{shown(file)}: {column.null_count} rows have no label")
    labels: NDArray[np.int64] = column.cast(_plain(column.type)).to_numpy().astype(np.int64)
    return labels


def _hub_class_names(metadata: dict[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    """The label's class names, if the hub's metadata hold a list of texts."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    told = isinstance(names, list) and all(isinstance(n, str) and n.isprintable() for n in names)
    return tuple(names) if told else None
