"""The diagnostics of a run, part by part: each probe is a job, so that an interruption loses one at
most.

What a probe found is kept until all are there; then they are put together, and only the whole
stays.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robusteval.attacks.seeding import seeded
from robusteval.evidence.pieces import Piece
from robusteval.evidence.store import Store
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Context
from robusteval.plan.plan import Job, job_stream
from robusteval.run.attacking import clean_chunk
from robusteval.run.probes import PASSES, Subject, probe, put_together

Within = Callable[[float], None]
_NONE = {"samples": 0}  # what is told where no sample was right


def diagnosed(context: Context, store: Store, source: Adapter | None) -> dict[str, Any]:
    """All measurements made now; ``source``: the model whose adversarials are transferred."""
    jobs = [job for job in context.plan.probe_jobs() if source or job.label != "transfer"]
    parts = {}
    for job in jobs:
        with seeded(job_stream(context.spec.seed, job), torch.device(context.device)):
            parts[job.label] = probed(context, store, job, source)
    return _together(context, parts)


def probed(
    context: Context,
    store: Store,
    job: Job,
    source: Adapter | None,
    within: Within = lambda _: None,
) -> dict[str, Any]:
    """One probe's measurements on the first initially correct samples."""
    rows = _rows(context, store)
    if len(rows) == 0:
        return dict(_NONE)
    images, labels = context.images(rows), context.labels(rows)
    threat, seed = context.plan.threats[0], context.spec.seed
    seen = source if job.label == "transfer" and source else context.model
    with _told(seen, PASSES[job.label][0] * len(rows), within):
        return probe(job.label, Subject(context.model, images, labels, threat, seed, source))


def whole_of(context: Context, store: Store) -> Piece:
    """The diagnostics, from what the probes left, and the seconds that those took."""
    pieces = {job.label: store.read(job) for job in context.plan.probe_jobs()}
    facts = _together(context, {name: piece.facts for name, piece in pieces.items()})
    return Piece({}, facts, sum(piece.seconds for piece in pieces.values()))


def forget_probes(context: Context, store: Store) -> None:
    """Removes what probes left, once the whole is there."""
    if all(map(store.has, context.plan.diagnostics_jobs())):
        for job in context.plan.probe_jobs():
            store.remove(job)


def _together(context: Context, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if any(part == _NONE for part in parts.values()):
        return dict(_NONE)
    return put_together(parts, context.plan.threats[0])


def _rows(context: Context, store: Store) -> Tensor:
    wanted, rows = context.plan.diagnosed, torch.empty(0, dtype=torch.int64)
    for index in range(len(context.plan.chunks)):
        if len(rows) < wanted:
            chunk, _ = clean_chunk(context, store, index)
            rows = torch.cat([rows, chunk.rows])[:wanted]
    return rows


@contextmanager
def _told(model: nn.Module, most: int, within: Within) -> Iterator[None]:
    """Within it, ``within`` is told which share of so many forward passes was made."""
    made = 0

    def count(_: nn.Module, given: tuple[Tensor, ...], __: Any) -> None:
        nonlocal made
        made += len(given[0])
        within(min(made / most, 1.0))

    handle = model.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()
