"""One job, written as evidence: a detector's fit, clean predictions, one attack, outlier scores, an
attack on a detector, or diagnostics."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.attacks.counting import TimeLimitReached
from robusteval.attacks.seeding import seeded
from robusteval.errors import AttackError, RobustevalError, ScoreError
from robusteval.evidence.arrays import Arrays, digest_of_state
from robusteval.evidence.columns import SCORE, facts_by, filled, merged_facts
from robusteval.evidence.judge import (
    VERIFY_BATCH,
    first_successes,
    near_tie,
    predict,
    state_digest,
    success,
)
from robusteval.evidence.pieces import Piece
from robusteval.evidence.store import Failure, Kept, Store
from robusteval.hardware import give_memory_back, keep_freed_memory
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Context
from robusteval.plan.plan import Job, expected_passes, job_seed, job_stream
from robusteval.run.attacking import Chunk, JobResult, attack_chunk, clean_chunk
from robusteval.run.diagnosing import probed, whole_of
from robusteval.run.fits import fitted_state
from robusteval.run.nearest import attacked_nearest, clean_nearest
from robusteval.run.pursuing import pursued
from robusteval.run.scoring import attacked_scores, clean_scores, outlier_scores
from robusteval.types import ThreatModel

# What a third-party attack may raise: its cell fails, the run goes on.
FAILURES = (
    AttackError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
OTHER_BATCH = 7  # clean predictions are made once more at this batch size
Within = Callable[[float], None]  # told the share of a job that is done


@dataclass(frozen=True)
class Done:
    """What progress is told of a job: how many samples, how many of them are still robust."""

    samples: int
    robust: int


@dataclass(frozen=True)
class Made:
    """What a job writes: its rows and what it told, images or a state beside them."""

    piece: Piece
    beside: Kept | Arrays | None = None
    done: Done = Done(0, 0)


@dataclass(frozen=True)
class Predicted:
    """What fills a clean job's columns: of its samples, (B,), and their logits (B, K)."""

    indices: Tensor
    labels: Tensor
    logits: Tensor
    second: Tensor  # classes at another batch size


@dataclass(frozen=True)
class Attacked:
    """What fills the columns of an attack's job, and what it tells of its chunk."""

    indices: Tensor  # (B,)
    labels: Tensor  # (B,)
    result: JobResult | None  # None where no sample of the chunk was right
    drifted: int  # see ``drifted``


def attacked(context: Context, chunk: Chunk, result: JobResult | None, drift: int) -> Attacked:
    """One attack's outcome on a chunk."""
    return Attacked(context.data.indices[chunk.rows], chunk.labels, result, drift)


def perform(
    context: Context, store: Store, job: Job, budget: float | None, within: Within
) -> Done | Failure:
    """Does one job and writes its evidence; ``budget`` is in seconds.

    An attack or a fit that fails leaves a failure behind and the model as it was; so do outliers
    whose scores aren't finite.  Raises
    RobustevalError where the model or the data can't be used at all.
    """
    keep_freed_memory()
    try:
        with seeded(job_stream(context.spec.seed, job), torch.device(context.device)):
            if job.kind not in ("clean", "outliers"):
                return _guarded(context, store, job, budget, within)
            with _models_errors(job):
                return (_clean if job.kind == "clean" else _outliers)(context, store, job)
    except ScoreError as error:
        if job.kind not in ("outliers", "pursuit"):
            raise
        failure = Failure("error", str(error))  # far from the data a model may say nothing
        store.fail(job, failure)
        return failure
    finally:
        give_memory_back()


@contextmanager
def _models_errors(job: Job) -> Iterator[None]:
    """What a foreign model raises on images that nobody attacked is bad input."""
    try:
        yield
    except RobustevalError:
        raise
    except FAILURES as error:
        what = "clean images" if job.kind == "clean" else f"the outliers {job.label}"
        reason = (str(error) or "no reason given").splitlines()[0]
        raise AttackError(
            f"the model or a detector fails on {what} ({type(error).__name__}: {reason}): mend it"
        ) from error


def _guarded(
    context: Context, store: Store, job: Job, budget: float | None, within: Within
) -> Done | Failure:
    """An attack, a fit or the diagnostics: foreign code, which may fail or change the model."""
    started = time.perf_counter()
    before = {name: value.clone() for name, value in _state(context.model).items()}
    digest = _digest(context)
    failure: Failure | None = None
    made = Made(Piece({}))
    try:
        made = _made(context, store, job, budget, within)
    except TimeLimitReached:  # what it had so far is not counted
        limit = context.spec.time_limit
        failure = Failure("time_limit", f"the time limit of {limit:g} s was reached")
    except (*FAILURES, RobustevalError) as error:
        if job.kind not in ("probe", "diagnostics") and not isinstance(error, FAILURES):
            raise  # not the attack's or the fit's: the run's own evidence or data
        reason = str(error) or type(error).__name__
        name = "" if isinstance(error, RobustevalError) else f"{type(error).__name__}: "
        failure = Failure("error", f"{name}{reason}".splitlines()[0])
    if _digest(context) != digest:
        _restore(context.model, before)
        for kept in ("forms", "static_sources"):  # made anew, from the model and from weights
            context.__dict__.pop(kept, None)
        reason = "it changed the model's parameters or buffers; they were put back"
        failure = Failure("changed", reason)
    if failure is not None:
        store.fail(job, failure)
        return failure
    seconds = made.piece.seconds + time.perf_counter() - started
    piece = replace(made.piece, seconds=seconds)
    store.write(job, piece, made.beside)
    return made.done


def _made(context: Context, store: Store, job: Job, budget: float | None, within: Within) -> Made:
    if job.kind == "attack":
        return _attack_chunk(context, store, job, budget, within)
    if job.kind == "fit":
        state = fitted_state(context, job)
        return Made(Piece({}, {"state": digest_of_state(state)}), state)
    if job.kind == "pursuit":
        return _pursuit(context, store, job, within)
    if job.kind == "probe":
        source = context.transfer_source() if job.label == "transfer" else None
        return Made(Piece({}, probed(context, store, job, source, within)))
    return Made(whole_of(context, store))


def _digest(context: Context) -> str:
    """Of the model and of its forms, which share nothing with it, and of models beside it."""
    own = context.model, context.forms.libraries, context.forms.gradients
    forms = {id(f): f for f in (*own, *context.static_sources.values())}
    return "".join(state_digest(form) for form in forms.values() if form is not None)


def _state(model: Adapter) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def _restore(model: Adapter, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _state(model).items():
            value.copy_(state[name])


def _clean(context: Context, store: Store, job: Job) -> Done:
    """Predictions on clean images, twice: the second time at another batch size."""
    started = time.perf_counter()
    rows = context.plan.chunks[job.chunk]
    images, labels = context.images(rows), context.labels(rows)
    logits = predict(context.model, images)
    if logits.dim() != 2 or logits.shape[1] != context.model.classes:
        raise AttackError(
            f"the model returns shape {tuple(logits.shape)}, not (B, {context.model.classes})"
        )
    if not torch.isfinite(logits).all():
        raise AttackError("the model returns NaN or infinite logits on clean images: mend it")
    second = predict(context.model, images, OTHER_BATCH).argmax(1)
    indices = context.data.indices[rows.start : rows.stop]
    columns = filled("clean", Predicted(indices, labels, logits, second))
    columns |= clean_scores(context, store, job) | clean_nearest(context, job)
    store.write(job, Piece(columns, {}, time.perf_counter() - started))
    return Done(len(rows), int((columns["prediction"] == columns["label"]).sum()))


def _outliers(context: Context, store: Store, job: Job) -> Done:
    """Each detector's scores on one outlier set."""
    started = time.perf_counter()
    store.write(job, Piece(outlier_scores(context, store, job), {}, time.perf_counter() - started))
    return Done(0, 0)


def _attack_chunk(
    context: Context, store: Store, job: Job, budget: float | None, within: Within
) -> Made:
    cell, seed = context.plan.cells[job.part], context.spec.seed
    chunk, clean = clean_chunk(context, store, job.chunk)
    size = len(context.plan.chunks[job.chunk])
    if len(chunk.rows) == 0:
        columns = filled("attack", attacked(context, chunk, None, 0))
        columns |= {SCORE + name: np.empty(0) for name in job.scored_by}
        nothing = Kept(np.empty(0, np.int64), np.empty((0, 1, 1, 1), np.uint16))
        return Made(Piece(columns, merged_facts([])), nothing, Done(size, 0))
    most = max(expected_passes(cell, context.model.classes)[0] * len(chunk.rows), 1)
    result = attack_chunk(
        context,
        cell,
        chunk,
        lambda restart: job_seed(seed, cell, job.chunk, restart),
        None if budget is None else time.monotonic() + budget,
        lambda passes: within(min(passes / most, 1.0)),
    )
    made = attacked(context, chunk, result, drifted(context, chunk, clean))
    columns = filled("attack", made) | attacked_scores(context, store, job, result.stored)
    columns |= attacked_nearest(context, result)
    keep = _to_keep(context, store, job, columns)
    kept = Kept(chunk.rows.numpy()[keep], result.stored[keep])
    broken = int(success(columns, cell.threats[0]).sum())
    return Made(Piece(columns, facts_by(made)), kept, Done(size, len(chunk.rows) - broken))


def _pursuit(context: Context, store: Store, job: Job, within: Within) -> Made:
    """An attack that knows a detector; all of its images are kept, since its scores are counted
    whatever they reach."""
    size, passes = context.spec.samples, context.spec.suite.detection.attackers.passes
    made = pursued(context, store, job, lambda done: within(min(done / (size * passes), 1.0)))
    kept = Kept(np.arange(len(made.indices)), made.stored)
    return Made(Piece(filled("pursuit", made), {"guided": made.guided}), kept)


def drifted(context: Context, chunk: Chunk, clean: Piece) -> int:
    """How many clean predictions differ after the attack, near-ties apart."""
    correct = clean.columns["prediction"] == clean.columns["label"]
    sure = torch.from_numpy(clean.columns["gap"][correct] > near_tie(clean.columns["spread"]))
    now = predict(context.model, chunk.images, VERIFY_BATCH).argmax(1)
    return int(((now != chunk.labels).cpu() & sure).sum())


def _to_keep(context: Context, store: Store, job: Job, columns: dict[str, Any]) -> Any:
    """Which images to store: all successes, or those that no earlier attack broke.

    Earlier attacks that are not done yet are left out of account here; ``prune`` puts that right.
    """
    if context.spec.keep == "all":
        return columns["fooled"]

    def broke(part: int, threat: ThreatModel) -> Any:
        if part == job.part:
            return success(columns, threat)
        before = context.plan.attack_job(part, job.chunk)
        if not store.has(before):
            return np.zeros(len(columns["label"]), bool)
        return success(store.read(before).columns, threat)

    return first_successes([c.threats for c in context.plan.cells[: job.part + 1]], broke)
