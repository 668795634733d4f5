"""The store of a run's evidence.

    <run>/run.json                       the spec, and what a report needs beside the evidence
    <run>/evidence/<job>.safetensors     its kept adversarial images, 16-bit fixed point; of a fit
                                         the detector's state
    <run>/evidence/<job>.parquet         its rows, one per sample; written last: the job is done
    <run>/evidence/<job>.failed.json     why it has none

Each file is replaced atomically, so a kill at any moment leaves whole files and nothing else.
Nothing read here runs as code.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError

from robusteval.errors import BusyError, EvidenceError, RobustevalError, shown
from robusteval.evidence import older
from robusteval.evidence.arrays import Arrays, images_bytes, images_of, state_bytes, state_of
from robusteval.evidence.columns import SCHEMA
from robusteval.evidence.files import Files
from robusteval.evidence.images import Stored
from robusteval.evidence.packs import Packs
from robusteval.evidence.pieces import (
    Piece,
    canonical,
    content_digest,
    json_bytes,
    require_form,
    sealed,
    unsealed,
)
from robusteval.hardware import is_out_of_memory
from robusteval.places import Place, Url
from robusteval.plan.plan import Job

EVIDENCE = "evidence"  # the folder of what jobs leave
_FAILED = ".failed.json"
VERIFICATION, EXAMPLES = "verification.json", "examples.safetensors"
_ADVICE = "free space or mend the folder, then run the same command again: finished jobs are kept"
_DELETE = "delete it and run the same command again: all other evidence is kept"
NoEvidence = Literal["failed", "not_finished"]
FailureKind = Literal["error", "time_limit", "changed"]


@dataclass(frozen=True)
class Failure:
    """Why a job has no evidence: an ``error``, its ``time_limit``, or that it ``changed`` the
    model; and that in words."""

    kind: FailureKind
    reason: str

    @property
    def status(self) -> NoEvidence:
        return "not_finished" if self.kind == "time_limit" else "failed"


@dataclass(frozen=True)
class Kept:
    """Stored adversarial images (B, C, H, W) and the rows they belong to (B,)."""

    rows: NDArray[np.int64]
    images: Stored


class Store:
    """One run's evidence, in its files.

    ``schema``: the run's own.  No evidence in it is older, since it was begun by that version.
    """

    def __init__(self, files: Files, spec_digest: str, schema: int = older.OLDEST) -> None:
        self.files = files
        self.spec_digest = spec_digest
        self.schema = schema
        self.packs = Packs(files, EVIDENCE)
        self._there: set[str] | None = None  # names of evidence, within ``listed``

    @property
    def folder(self) -> Place:
        """Where the run is: a path, or a URL."""
        where = self.files.where()
        return Url(where) if "://" in where else Path(where)

    def names(self) -> list[str]:
        """Of all files of evidence; of packs, those in them."""
        return self.packs.listed(self.files.names(EVIDENCE))

    @contextmanager
    def listed(self) -> Iterator[None]:
        """Within it one listing, and what this store writes, says what is there: in a store far
        away each question is a request.  What others write meanwhile is not seen."""
        if self._there is not None:
            yield
            return
        self._there = {f"{EVIDENCE}/{name}" for name in self.names()}
        try:
            yield
        finally:
            self._there = None

    def _has(self, name: str) -> bool:
        return self.files.has(name) if self._there is None else name in self._there

    def _write(self, name: str, content: bytes) -> None:
        self.files.write(name, content, _ADVICE)
        if self._there is not None:
            self._there.add(name)

    def _remove(self, name: str) -> None:
        self.files.remove(name, _ADVICE)
        if self._there is not None:
            self._there.discard(name)

    def has(self, job: Job) -> bool:
        """Whether a job is done."""
        return self._has(rows_name(job)) or self.packs.of(f"{job.stem}.parquet") is not None

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those that are not done now."""
        with self.listed():
            return [job for job in jobs if not self.has(job)]

    def files_of(self, job: Job) -> list[str]:
        """The names of a finished job's files: its rows, and its kept images if there are some."""
        found = [rows_name(job)] if self.has(job) else []
        found += [beside_name(job)] if self._has(beside_name(job)) else []
        return [name.removeprefix(f"{EVIDENCE}/") for name in found]

    def where(self, name: str) -> str:
        """Where a file is, or the pack that it is in: for people."""
        pack = self.packs.of(name.removeprefix(f"{EVIDENCE}/"))
        is_packed = pack is not None and not self.files.has(name)
        return self.files.where(f"{EVIDENCE}/{pack}" if is_packed else name)

    def is_empty(self) -> bool:
        """Whether there is no evidence yet."""
        return not any(name.endswith(".parquet") for name in self.names())

    def remove_if_empty(self) -> None:
        """Removes a run that found nothing, unless another process is at work."""
        with suppress(RobustevalError, OSError), self.lock():
            if self.is_empty():
                self.files.remove_all(_ADVICE)

    # Jobs

    def write(self, job: Job, piece: Piece, beside: Kept | Arrays | None = None) -> None:
        """Images or a state first, then the rows as the mark that the job is done."""
        if isinstance(beside, Kept):
            self.write_images(job, beside)
        elif beside is not None:
            self._write_state(job, beside)
        about = {
            "spec": self.spec_digest,
            "job": job.stem,
            "told": piece.facts,
            "seconds": piece.seconds,
        }
        self._write(rows_name(job), sealed(piece.columns, about, SCHEMA))
        if job.kind != "probe":  # another one's failure stays
            self._remove(failure_name(job))

    def write_images(self, job: Job, kept: Kept) -> None:
        """Replaces a job's kept images; no file stays where there are none."""
        name = beside_name(job)
        if len(kept.rows) == 0:
            self._remove(name)
            return
        self._write(name, images_bytes(kept.rows, kept.images, job.stem))

    def remove(self, job: Job) -> None:
        """Removes a job's rows, if they are there."""
        self._remove(rows_name(job))

    def _write_state(self, job: Job, state: Arrays) -> None:
        self._write(beside_name(job), state_bytes(state, job.stem))

    def read(self, job: Job) -> Piece:
        """A job's rows.  Raises EvidenceError if they are corrupt, newer or not this job's."""
        return self._read(job)[0]

    def _read(self, job: Job) -> tuple[Piece, Any]:
        """A job's rows, and what it told as it was written."""
        path = self.where(rows_name(job))
        try:
            content = self.read_rows(job)
            columns, about, schema = unsealed(content, lambda s: require_readable(s, path))
            if schema < self.schema:
                raise ValueError(f"it has schema {schema}, its run {self.schema}")
            written = about.pop("told")
            told = older.attack_facts(schema, written) if job.kind == "attack" else written
            if type(seconds := about.pop("seconds")) not in (int, float):
                raise ValueError(f"its seconds are {shown(seconds)}")
            piece = Piece(columns, told, float(seconds))
            mine = about == {"spec": self.spec_digest, "job": job.stem}
            if mine:
                require_form(job, piece, schema)
        except FileNotFoundError:
            raise EvidenceError(f"evidence {path} is missing: run the same command again") from None
        except (OSError, pa.ArrowException, LookupError, *_MALFORMED) as error:
            raise _corrupt(path, error) from None
        if not mine:
            raise EvidenceError(f"evidence {path} belongs to another run or job: {_DELETE}")
        return piece, written

    def read_rows(self, job: Job) -> bytes:
        """A job's file of rows, as it was written.  Raises OSError, ValueError for a damaged
        pack."""
        try:
            return self.files.read(rows_name(job))
        except FileNotFoundError:
            return self.packs.read(f"{job.stem}.parquet")

    def rows_file(self, job: Job) -> str:
        """The name of the file that holds a job's rows: its own, or a pack."""
        return self.where(rows_name(job)).rpartition("/")[2]

    def delete_both(self, job: Job) -> str:
        """How to have a job done again whose images or state, "it", can't be used."""
        return (
            f"delete it and {self.rows_file(job)}, then run the same command again: all other "
            "evidence is kept"
        )

    def unusable(self, job: Job, reason: str) -> EvidenceError:
        """What to raise for rows that contradict the run, and how to mend that."""
        return _corrupt(self.where(rows_name(job)), ValueError(reason))

    def read_images(self, job: Job) -> Kept:
        """A job's kept images.  Raises EvidenceError if they are corrupt."""
        name = beside_name(job)
        if not self._has(name):
            return Kept(np.empty(0, np.int64), np.empty((0, 1, 1, 1), np.uint16))
        try:
            return Kept(*images_of(self.files.read(name), job.stem))
        except (OSError, SafetensorError, LookupError, *_MALFORMED) as error:
            raise _corrupt(self.where(name), error, self.delete_both(job)) from None

    def read_state(self, job: Job) -> Arrays:
        """A fit's state.  Raises EvidenceError if it is missing or corrupt."""
        facts, name = self.read(job).facts, beside_name(job)
        try:
            return state_of(self.files.read(name), job.stem, facts["state"])
        except FileNotFoundError:
            missing = f"evidence {self.where(name)} is missing: {self.delete_both(job)}"
            raise EvidenceError(missing) from None
        except (OSError, SafetensorError, LookupError, *_MALFORMED) as error:
            raise _corrupt(self.where(name), error, self.delete_both(job)) from None

    # Failures

    def fail(self, job: Job, failure: Failure) -> None:
        """Says why a job has no evidence."""
        self._write(failure_name(job), json_bytes(failure.__dict__))

    def failure(self, job: Job) -> Failure | None:
        """Why a job has no evidence, if it was tried."""
        name = failure_name(job)
        if (content := self._read_json(name)) is None:
            return None
        found = older.failure(content)
        sound = found.keys() == {"kind", "reason"} and isinstance(found["reason"], str)
        if not sound or found["kind"] not in get_args(FailureKind):
            raise _corrupt(self.where(name), ValueError("it tells of no failure"))
        return Failure(found["kind"], found["reason"])

    def forget_failures(self, but: Sequence[Job] = ()) -> None:
        """So that what failed is tried again, ``but`` for some jobs."""
        settled = [failure_name(job) for job in but]
        for name in (f"{EVIDENCE}/{name}" for name in self.names()):
            if name.endswith(_FAILED) and name not in settled:
                self._remove(name)

    # What is about the run as a whole

    def write_verification(self, content: dict[str, int]) -> None:
        """How many kept images held when they were predicted again."""
        self._write(f"{EVIDENCE}/{VERIFICATION}", json_bytes(content))

    def read_verification(self) -> dict[str, int] | None:
        """What ``write_verification`` wrote; None if it never did."""
        name = f"{EVIDENCE}/{VERIFICATION}"
        if (found := self._read_json(name)) is None:
            return None
        path = self.where(name)
        counts = all(type(v) is int and v >= 0 for v in found.values())
        if found.keys() != set(_VERIFIED) or not counts:
            raise _corrupt(path, ValueError(f"it needs the counts {', '.join(_VERIFIED)}"))
        if found["images"] != found["held"] + found["near_ties"] + found["failed"]:
            raise _corrupt(path, ValueError("its counts don't add up"))
        return found

    def forget_conclusions(self) -> None:
        """Removes what is made anew from the rest of the evidence."""
        for name in (VERIFICATION, EXAMPLES):
            self._remove(f"{EVIDENCE}/{name}")

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.where(name)
        if self._there is not None and name not in self._there:
            return None
        try:
            content = json.loads(self.files.read(name).decode())
        except FileNotFoundError:
            return None
        except (OSError, *_MALFORMED) as error:
            raise _corrupt(path, error) from None
        if not isinstance(content, dict):
            raise _corrupt(path, ValueError("no table"))
        return content

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time works on a run.  A kill frees the lock."""
        self.files.prepare(EVIDENCE, _ADVICE)
        busy = BusyError(f"another process is at work on {self.folder}: wait for it, or stop it")
        with self.files.lock(busy):
            self.files.prepare("", _ADVICE)
            yield

    def digest(self, jobs: list[Job], record: dict[str, Any]) -> str:
        """SHA-256 over all evidence and what it is about, but for times and places."""
        about = {k: record[k] for k in ("spec", "entry", "model", "attacks")}
        digest = hashlib.sha256(canonical(about))
        for job in jobs:
            digest.update(job.stem.encode())
            if not self.has(job):
                continue
            piece, written = self._read(job)
            digest.update(content_digest(piece.columns, written).encode())
        return digest.hexdigest()


def rows_name(job: Job) -> str:
    """The Parquet file that marks a job as done."""
    return f"{EVIDENCE}/{job.stem}.parquet"


def beside_name(job: Job) -> str:
    """A job's kept images, or the state of a fit."""
    return f"{EVIDENCE}/{job.stem}.safetensors"


def failure_name(job: Job) -> str:
    """Why a job has no evidence; a probe's failure is that of the diagnostics."""
    stem = "diagnostics" if job.kind == "probe" else job.stem
    return f"{EVIDENCE}/{stem}{_FAILED}"


_VERIFIED = ("images", "held", "near_ties", "failed", "batch_size")
# What parsers raise for content that isn't theirs, deep nesting among it.
_MALFORMED = (
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)


def _corrupt(path: str, error: BaseException, mend: str = _DELETE) -> EvidenceError:
    if is_out_of_memory(error):
        return EvidenceError(f"evidence {path} can't be read: memory ran out; free some")
    if isinstance(error, OSError) and error.errno is not None:
        return EvidenceError(f"evidence {path} can't be read ({error.strerror}): mend that first")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, TypeError | AttributeError | LookupError):  # in Python's words
        reason = "it has not the form of evidence"
    return EvidenceError(f"evidence {path} is corrupt ({reason}): {mend}")


def require_readable(schema: Any, path: str) -> None:
    """Raises EvidenceError for what an older or a newer version of the project wrote."""
    if type(schema) is not int or schema > SCHEMA:
        raise EvidenceError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA}: "
            "upgrade robusteval to read this run"
        )
    if schema < older.OLDEST:
        raise EvidenceError(
            f"{path} has schema {schema}, which has no checksums, so that anything could be in it: "
            "run the same command again in another folder"
        )
