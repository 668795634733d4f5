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
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError

from robusteval import inert
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evidence import older
from robusteval.evidence.arrays import Arrays, images_bytes, images_of, state_bytes, state_of
from robusteval.evidence.columns import SCHEMA
from robusteval.evidence.images import Stored
from robusteval.evidence.pieces import (
    Piece,
    canonical,
    content_digest,
    require_form,
    sealed,
    unsealed,
)
from robusteval.hardware import is_out_of_memory
from robusteval.plan.plan import Job
from robusteval.reading import read_file
from robusteval.storage import locked, remove_partials, replace_file, require_writable

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
    """One run's folder.

    ``schema``: the run's own.  No evidence in it is older, since it was begun by that version.
    """

    def __init__(self, folder: Path, spec_digest: str, schema: int = older.OLDEST) -> None:
        self.folder = folder
        self.evidence = folder / "evidence"
        self.spec_digest = spec_digest
        self.schema = schema

    def path(self, job: Job) -> Path:
        """The Parquet file that marks a job as done."""
        return self.evidence / f"{job.stem}.parquet"

    def images_path(self, job: Job) -> Path:
        """Where a job's kept images are."""
        return self.evidence / f"{job.stem}.safetensors"

    def has(self, job: Job) -> bool:
        """Whether a job is done."""
        return self.path(job).is_file()

    def state_path(self, job: Job) -> Path:
        """Where the state of a fit is."""
        return self.images_path(job)

    def files(self, job: Job) -> list[str]:
        """The names of a finished job's files: its rows, and its kept images if there are some."""
        return [p.name for p in (self.path(job), self.images_path(job)) if p.is_file()]

    def is_empty(self) -> bool:
        """Whether there is no evidence yet."""
        return not any(self.evidence.glob("*.parquet"))

    def remove_if_empty(self) -> None:
        """Removes the folder of a run that found nothing, unless another process is at work."""
        with suppress(RobustevalError, OSError), self.lock():
            if self.is_empty():
                shutil.rmtree(self.folder, ignore_errors=True)

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
            "told": piece.told,
            "seconds": piece.seconds,
        }
        replace_file(self.path(job), sealed(piece.columns, about, SCHEMA), _ADVICE)
        self.failure_path(job).unlink(missing_ok=True)

    def write_images(self, job: Job, kept: Kept) -> None:
        """Replaces a job's kept images; no file stays where there are none."""
        path = self.images_path(job)
        if len(kept.rows) == 0:
            path.unlink(missing_ok=True)
            return
        replace_file(path, images_bytes(kept.rows, kept.images, job.stem), _ADVICE)

    def _write_state(self, job: Job, state: Arrays) -> None:
        replace_file(self.state_path(job), state_bytes(state, job.stem), _ADVICE)

    def read(self, job: Job) -> Piece:
        """A job's rows.  Raises EvidenceError if they are corrupt, newer or not this job's."""
        return self._read(job)[0]

    def _read(self, job: Job) -> tuple[Piece, Any]:
        """A job's rows, and what it told as it was written."""
        path = self.path(job)
        try:
            columns, about, schema = unsealed(read_file(path), lambda s: require_readable(s, path))
            if schema < self.schema:
                raise ValueError(f"it has schema {schema}, its run {self.schema}")
            written = about.pop("told")
            told = older.attack_told(schema, written) if job.kind == "attack" else written
            piece = Piece(columns, told, float(about.pop("seconds")))
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

    def unusable(self, job: Job, reason: str) -> EvidenceError:
        """What to raise for rows that contradict the run, and how to mend that."""
        return _corrupt(self.path(job), ValueError(reason))

    def read_images(self, job: Job) -> Kept:
        """A job's kept images.  Raises EvidenceError if they are corrupt."""
        path = self.images_path(job)
        if not path.is_file():
            return Kept(np.empty(0, np.int64), np.empty((0, 1, 1, 1), np.uint16))
        try:
            return Kept(*images_of(read_file(path), job.stem))
        except (OSError, SafetensorError, LookupError, *_MALFORMED) as error:
            raise _corrupt(path, error, self._delete_both(job)) from None

    def read_state(self, job: Job) -> Arrays:
        """A fit's state.  Raises EvidenceError if it is missing or corrupt."""
        told, path = self.read(job).told, self.state_path(job)
        try:
            return state_of(read_file(path), job.stem, told["state"])
        except FileNotFoundError:
            mend = self._delete_both(job)
            raise EvidenceError(f"evidence {path} is missing: {mend}") from None
        except (OSError, SafetensorError, LookupError, *_MALFORMED) as error:
            raise _corrupt(path, error, self._delete_both(job)) from None

    def _delete_both(self, job: Job) -> str:
        return (
            f"delete it and {self.path(job).name}, then run the same command again: all other "
            "evidence is kept"
        )

    # Failures

    def failure_path(self, job: Job) -> Path:
        """Where it stands why a job has no evidence."""
        return self.evidence / f"{job.stem}.failed.json"

    def fail(self, job: Job, failure: Failure) -> None:
        """Says why a job has no evidence."""
        replace_file(self.failure_path(job), json_bytes(failure.__dict__), _ADVICE)

    def failure(self, job: Job) -> Failure | None:
        """Why a job has no evidence, if it was tried."""
        path = self.failure_path(job)
        if (content := self._read_json(path)) is None:
            return None
        found = older.failure(content)
        sound = found.keys() == {"kind", "reason"} and isinstance(found["reason"], str)
        if not sound or found["kind"] not in get_args(FailureKind):
            raise _corrupt(path, ValueError("it tells of no failure"))
        return Failure(found["kind"], found["reason"])

    def forget_failures(self, but: Sequence[Job] = ()) -> None:
        """So that what failed is tried again, ``but`` for some jobs."""
        settled = [self.failure_path(job) for job in but]
        for path in self.evidence.glob("*.failed.json"):
            if path not in settled:
                path.unlink(missing_ok=True)

    # What is about the run as a whole

    def write_verification(self, content: dict[str, int]) -> None:
        """How many kept images held when they were predicted again."""
        replace_file(self.evidence / VERIFICATION, json_bytes(content), _ADVICE)

    def read_verification(self) -> dict[str, int] | None:
        """What ``write_verification`` wrote; None if it never did."""
        path = self.evidence / VERIFICATION
        if (found := self._read_json(path)) is None:
            return None
        counts = all(type(v) is int and v >= 0 for v in found.values())
        if found.keys() != set(_VERIFIED) or not counts:
            raise _corrupt(path, ValueError(f"it needs the counts {', '.join(_VERIFIED)}"))
        if found["images"] != found["held"] + found["near_ties"] + found["failed"]:
            raise _corrupt(path, ValueError("its counts don't add up"))
        return found

    def forget_conclusions(self) -> None:
        """Removes what is made anew from the rest of the evidence."""
        for name in (VERIFICATION, EXAMPLES):
            (self.evidence / name).unlink(missing_ok=True)

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        try:
            content = json.loads(read_file(path).decode())
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
        require_writable(self.evidence, _ADVICE)
        busy = EvidenceError(
            f"another process is at work on {self.folder}: wait for it, or stop it"
        )
        with locked(self.folder / ".lock", busy, make=True):
            remove_partials(self.evidence)
            remove_partials(self.folder)
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


def _corrupt(path: Path, error: BaseException, mend: str = _DELETE) -> EvidenceError:
    if is_out_of_memory(error):
        return EvidenceError(f"evidence {path} can't be read: memory ran out; free some")
    if isinstance(error, OSError) and error.errno is not None:
        return EvidenceError(f"evidence {path} can't be read ({error.strerror}): mend that first")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, TypeError | AttributeError | LookupError):  # in Python's words
        reason = "it has not the form of evidence"
    return EvidenceError(f"evidence {path} is corrupt ({reason}): {mend}")


def require_readable(schema: Any, path: Path) -> None:
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


def json_bytes(content: Any) -> bytes:
    """As run files hold it: indented, no NaN; bytes of a path that are no text are kept."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    return (inert.json_text(text) + "\n").encode()
