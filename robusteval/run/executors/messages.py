"""What passes between a run and those who do its jobs: plain JSON, no code and no pickles."""

from pathlib import Path
from typing import Any

from robusteval.errors import RobustevalError
from robusteval.evidence.store import Failure
from robusteval.plan.context import Access, Context
from robusteval.plan.plan import Job
from robusteval.run.jobs import Done

Message = dict[str, Any]


def access_message(context: Context) -> Message:
    """How another process reaches a run's model and data.

    Raises RobustevalError for a model or images that Python gave: they can't be sent.
    """
    access = context.access
    if not access.entry:
        raise RobustevalError(
            "a model given from Python can't be sent to workers: use workers=1, or an entry"
        )
    if context.spec.own_data and not access.data:
        raise RobustevalError(
            "images given from Python can't be sent to workers: use workers=1, or save them and "
            "pass data=…"
        )
    if context.spec.own_training and not isinstance(access.training, str):
        raise RobustevalError(
            "training data given from Python can't be sent to workers: use workers=1, or save them "
            "and pass fit_data=…"
        )
    if context.spec.surrogate and not context.spec.surrogate[0]:
        raise RobustevalError(
            "a surrogate given from Python can't be sent to workers: use workers=1, or an entry"
        )
    data_dir = None if access.data_dir is None else str(Path(access.data_dir).resolve())
    return {
        "entry": access.entry,
        "data_dir": data_dir,
        "data": access.data,
        "training": access.training if isinstance(access.training, str) else "",
        "allow_code": access.allow_code,
    }


def access_of(message: Message) -> Access:
    """What ``access_message`` said."""
    data_dir = Path(message["data_dir"]) if message["data_dir"] else None
    reached = message["data"], message["training"]
    return Access(message["entry"], data_dir, *reached, message["allow_code"])


def job_message(job: Job, budget: float | None) -> Message:
    """A job to be done within so many seconds."""
    return {"kind": job.kind, "part": job.part, "chunk": job.chunk, "budget": budget}


def found_message(found: Done | Failure) -> Message:
    """What became of a job."""
    return dict(found.__dict__)


def found_of(message: Message) -> Done | Failure:
    """What ``found_message`` said."""
    if "reason" in message:
        return Failure(message["kind"], message["reason"])
    return Done(message["samples"], message["robust"])


def error_message(error: RobustevalError) -> Message:
    """What ends the whole run."""
    return {"error": str(error), "exit_code": error.exit_code}


def error_of(message: Message) -> RobustevalError:
    """What ``error_message`` said."""
    error = RobustevalError(message["error"])
    error.exit_code = message["exit_code"]
    return error
