"""The store of a run's evidence.

    <run>/run.json                       the spec, and what a report needs beside the evidence
    <run>/evidence/<job>.safetensors     its kept adversarial images, 16-bit fixed point
    <run>/evidence/<job>.parquet         its rows, one per sample; written last: the job is done
    <run>/evidence/<job>.failed.json     why it has none

Each file is replaced atomically, so a kill at any moment leaves whole files and nothing else.
Nothing read here runs as code.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as serialise

from robusteval.errors import EvidenceError
from robusteval.evaluation.images import Stored
from robusteval.evaluation.plan import Job
from robusteval.reading import read_file
from robusteval.storage import remove_partials, replace_file

SCHEMA = 1
SCORE = "score_"  # and a detector's name: the column of its scores
_KEY = b"robusteval"
_ADVICE = "free space or mend the folder, then run the same command again: finished jobs are kept"
_DELETE = "delete it and run the same command again: all other evidence is kept"
Column = NDArray[Any]


@dataclass(frozen=True)
class Piece:
    """What one job found: columns of equal length, and what it told of the whole chunk.

    ``told`` is the same at each repetition; ``seconds`` is not.
    """

    columns: dict[str, Column]
    told: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """Why a job has no evidence."""

    status: str  # failed, not_finished
    reason: str


@dataclass(frozen=True)
class Kept:
    """Stored adversarial images (B, C, H, W) and the rows they belong to (B,)."""

    rows: NDArray[np.int64]
    images: Stored


class Store:
    """One run's folder."""

    def __init__(self, folder: Path, spec_digest: str) -> None:
        self.folder = folder
        self.evidence = folder / "evidence"
        self.spec_digest = spec_digest

    def path(self, job: Job) -> Path:
        """The Parquet file that marks a job as done."""
        return self.evidence / f"{job.stem}.parquet"

    def images_path(self, job: Job) -> Path:
        """Where a job's kept images are."""
        return self.evidence / f"{job.stem}.safetensors"

    def has(self, job: Job) -> bool:
        """Whether a job is done."""
        return self.path(job).is_file()

    def is_empty(self) -> bool:
        """Whether there is no evidence yet."""
        return not any(self.evidence.glob("*.parquet"))

    def remove_if_empty(self) -> None:
        """Removes the folder of a run that found nothing, unless another process is at work."""
        with suppress(EvidenceError, OSError), self.lock():
            if self.is_empty():
                shutil.rmtree(self.folder, ignore_errors=True)

    # Jobs

    def write(self, job: Job, piece: Piece, kept: Kept | None = None) -> None:
        """Images first, then the rows as the mark that the job is done."""
        if kept is not None:
            self.write_images(job, kept)
        about = {
            "schema": SCHEMA,
            "spec": self.spec_digest,
            "job": job.stem,
            "told": piece.told,
            "seconds": piece.seconds,
        }
        table = pa.table(piece.columns).replace_schema_metadata({_KEY: json.dumps(about)})
        stream = io.BytesIO()
        pq.write_table(table, stream, compression="zstd")
        replace_file(self.path(job), stream.getvalue(), _ADVICE)
        self._failed(job).unlink(missing_ok=True)

    def write_images(self, job: Job, kept: Kept) -> None:
        """Replaces a job's kept images; no file stays where there are none."""
        path = self.images_path(job)
        if len(kept.rows) == 0:
            path.unlink(missing_ok=True)
            return
        content = serialise({"rows": kept.rows, "images": kept.images}, {"job": job.stem})
        replace_file(path, content, _ADVICE)

    def read(self, job: Job) -> Piece:
        """A job's rows.  Raises EvidenceError if they are corrupt, newer or not this job's."""
        path = self.path(job)
        try:
            table = pq.read_table(io.BytesIO(_bytes_of(path)))
            about = json.loads((table.schema.metadata or {})[_KEY])
            schema, spec, stem = about["schema"], about["spec"], about["job"]
            told, seconds = about["told"], float(about["seconds"])
        except MemoryError as error:
            raise _not_read(path, error) from None
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EvidenceError(f"evidence {path} is corrupt ({reason}): {_DELETE}") from None
        require_readable(schema, SCHEMA, path)
        if (spec, stem) != (self.spec_digest, job.stem):
            raise EvidenceError(f"evidence {path} belongs to another run or job: {_DELETE}")
        columns = {name: table[name].to_numpy() for name in table.column_names}
        _require_columns(job, columns, path)
        return Piece(columns, told, seconds)

    def read_images(self, job: Job) -> Kept:
        """A job's kept images.  Raises EvidenceError if they are corrupt."""
        path = self.images_path(job)
        if not path.is_file():
            return Kept(np.empty(0, np.int64), np.empty((0, 1, 1, 1), np.uint16))
        try:
            arrays = load_arrays(_bytes_of(path))
            rows, images = arrays["rows"], arrays["images"]
            if len(rows) != len(images) or images.ndim != 4 or images.dtype != np.uint16:
                raise ValueError("its arrays don't belong together")
        except MemoryError as error:
            raise _not_read(path, error) from None
        except (SafetensorError, KeyError, ValueError) as error:
            raise EvidenceError(
                f"evidence {path} is corrupt ({error}): delete it and {self.path(job).name}, "
                "then run the same command again: all other evidence is kept"
            ) from None
        return Kept(rows, images)

    # Failures

    def _failed(self, job: Job) -> Path:
        return self.evidence / f"{job.stem}.failed.json"

    def fail(self, job: Job, failure: Failure) -> None:
        """Says why a job has no evidence."""
        replace_file(self._failed(job), json_bytes(failure.__dict__), _ADVICE)

    def failure(self, job: Job) -> Failure | None:
        """Why a job has no evidence, if it was tried."""
        found = self._read_json(self._failed(job))
        return Failure(str(found["status"]), str(found["reason"])) if found else None

    def forget_failures(self) -> None:
        """So that what failed is tried again."""
        for path in self.evidence.glob("*.failed.json"):
            path.unlink(missing_ok=True)

    # What is about the run as a whole

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Findings about the whole run, as ``evidence/<name>.json``."""
        replace_file(self.evidence / f"{name}.json", json_bytes(content), _ADVICE)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """What ``write_json`` wrote; None if it never did."""
        return self._read_json(self.evidence / f"{name}.json")

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            content = json.loads(_bytes_of(path).decode())
        except MemoryError as error:
            raise _not_read(path, error) from None
        except (ValueError, RecursionError) as error:
            raise EvidenceError(f"evidence {path} is corrupt ({error}): {_DELETE}") from None
        if not isinstance(content, dict):
            raise EvidenceError(f"evidence {path} is corrupt (no table): {_DELETE}")
        return content

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time works on a run.  A kill frees the lock."""
        self.evidence.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            yield
            return
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EvidenceError(
                    f"another process is at work on {self.folder}: wait for it, or stop it"
                ) from None
            except OSError:  # a file system without locks
                yield
                return
            remove_partials(self.evidence)
            remove_partials(self.folder)
            yield

    def digest(self, jobs: list[Job], record: dict[str, Any]) -> str:
        """SHA-256 over all evidence and what it is about, but for times and places."""
        about = {k: record[k] for k in ("spec", "entry", "model", "attacks")}
        digest = hashlib.sha256(_canonical(about))
        for job in jobs:
            digest.update(job.stem.encode())
            if not self.has(job):
                continue
            piece = self.read(job)
            digest.update(_canonical(piece.told))
            for name, column in sorted(piece.columns.items()):
                digest.update(f"{name}:{column.dtype.kind}".encode())
                digest.update(_column_bytes(column))
        return digest.hexdigest()


# What a job's rows must hold: name → kinds of its values.  An attack on a chunk without a correct
# sample has no rows, and of the columns only the first two.
_ROWS = {
    "clean": {"index": "i", "label": "i", "prediction": "i", "gap": "f", "second_prediction": "i"},
    "attack": {
        "index": "i",
        "label": "i",
        "prediction": "i",
        "fooled": "b",
        "norm": "f",
        "margin": "f",
        "survives_8_bit": "b",
        "forward_passes": "f",
        "backward_passes": "f",
        "sha256": "O",
    },
}


def _bytes_of(path: Path) -> bytes:
    """A file of evidence.  Raises EvidenceError; what can't be read now may be whole."""
    try:
        return read_file(path)
    except FileNotFoundError:
        raise EvidenceError(f"evidence {path} is missing: run the same command again") from None
    except OSError as error:
        raise _not_read(path, error) from None


def _not_read(path: Path, error: OSError | MemoryError) -> EvidenceError:
    why = error.strerror if isinstance(error, OSError) else "too little memory"
    return EvidenceError(f"evidence {path} can't be read now ({why}): mend that, and try again")


def _require_columns(job: Job, columns: dict[str, Column], path: Path) -> None:
    expected = _ROWS.get(job.kind, {})
    empty = job.kind == "attack" and len(columns.get("label", ())) == 0
    for name, kind in list(expected.items())[: 2 if empty else None]:
        if name not in columns or columns[name].dtype.kind != kind:
            raise EvidenceError(f"evidence {path} has no proper column {name!r}: {_DELETE}")


def require_readable(schema: Any, known: int, path: Path) -> None:
    """Raises EvidenceError for what a newer version of the project wrote."""
    if not isinstance(schema, int) or schema > known:
        raise EvidenceError(
            f"{path} has schema {schema}, this version reads up to {known}: "
            "upgrade robusteval to read this run"
        )


def json_bytes(content: Any) -> bytes:
    """As run files hold it: indented, no NaN."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _column_bytes(column: Column) -> bytes:
    if column.dtype.kind == "O":  # digests of images
        return b"".join(bytes(value) for value in column)
    return np.ascontiguousarray(column).tobytes()
