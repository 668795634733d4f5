"""One attack on one chunk: attacked, restarted, stored, judged."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.losses import require_finite
from robusteval.attacks.results import AttackResult, Stage, Warned
from robusteval.evidence.images import Stored, decode, encode, encode_within
from robusteval.evidence.judge import Judged, in_threat, judge, predict
from robusteval.evidence.pieces import Piece
from robusteval.evidence.store import Store
from robusteval.hardware import is_out_of_memory
from robusteval.models.acceleration import Forms
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Context
from robusteval.plan.plan import Cell
from robusteval.types import ThreatModel

Seeds = Callable[[int], int]  # restart → seed
Encoding = Callable[[Tensor, Tensor], Stored]  # of images, with the clean ones
_DITHERED = 8  # tries with dither for a success that storing would undo


@dataclass(frozen=True)
class Chunk:
    """Initially correct samples of a chunk, on the model's device."""

    rows: Tensor  # (B,) into the run's samples
    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)


def clean_chunk(context: Context, store: Store, chunk: int) -> tuple[Chunk, Piece]:
    """A chunk's initially correct samples, and its clean evidence."""
    clean = store.read(context.plan.clean_job(chunk))
    correct = clean.columns["prediction"] == clean.columns["label"]
    rows = torch.from_numpy(np.flatnonzero(correct)) + context.plan.chunks[chunk].start
    if len(rows) == 0:
        empty = torch.empty(0, device=context.device)
        return Chunk(rows, empty, empty.long()), clean
    return Chunk(rows, context.images(rows), context.labels(rows)), clean


@dataclass
class JobResult:
    """The counted image of each of a chunk's correct samples, and what holds of it."""

    stored: Stored  # (B, C, H, W), uint16
    judged: Judged
    lost: int  # successes that storing undid
    forward_passes: Tensor  # (B,) float64
    backward_passes: Tensor  # (B,) float64
    stages: list[Stage] = field(default_factory=list)
    warned: list[Warned] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Settled(NamedTuple):
    """The stored form of a batch's attacked images, judged, and how many successes it undid."""

    stored: Stored
    judged: Judged
    lost: int

    def replaced(self, rows: Tensor, later: "Settled") -> "Settled":
        """With ``rows`` taken from a later try at them."""
        stored = self.stored.copy()
        stored[rows.numpy()] = later.stored
        judged = self.judged.replaced(rows, later.judged, torch.ones(len(rows), dtype=torch.bool))
        return Settled(stored, judged, self.lost + later.lost)


def run_job(
    forms: Forms,
    cell: Cell,
    chunk: Chunk,
    seeds: Seeds,
    deadline: float | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> JobResult:
    """Attacks a chunk's correct samples; each restart only those not yet broken.

    Third-party attacks see the model's form for libraries; our own see the model itself, and take
    gradients from its form for them.  Raises AttackError where the attack fails, TimeLimitReached
    where it runs past ``deadline`` (a time of ``time.monotonic``).
    """
    model = forms.plain
    seen = forms.libraries if cell.attack.library.accelerated else model
    count = len(chunk.images)
    counted = Counted(seen, count, deadline, on_pass, forms.gradients, forms.surrogate)
    threat = cell.threats[0]
    known = cell.attack.knows_eps
    tries, kept = [], None
    alive = torch.arange(len(chunk.images), device=chunk.images.device)
    for restart in range(cell.spec.restarts):
        if len(alive) == 0:
            break
        clean, labels = chunk.images[alive], chunk.labels[alive]
        with counted.attending(alive):
            tries.append(_attack(counted, cell, clean, labels, threat, seeds(restart)))
        found = in_threat(tries[-1].images, clean, threat if known else None)
        settled = settle(model, found, Chunk(alive, clean, labels), threat, bound=known)
        kept = settled if kept is None else kept.replaced(alive.cpu(), settled)
        alive = alive[~settled.judged.fooled.to(alive.device)]
    assert kept is not None, "there are samples, and one try at least"
    return JobResult(
        kept.stored,
        kept.judged,
        kept.lost,
        counted.forward_passes,
        counted.backward_passes,
        *_told(tries),
    )


def run_elsewhere(
    source: Adapter,
    model: Adapter,
    cell: Cell,
    chunk: Chunk,
    seeds: Seeds,
    deadline: float | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> JobResult:
    """A static transfer: an attack on ``source``, whose images ``model`` is then asked about once.

    Restarts and storing go by the source's word, as if it were attacked itself; passes are its own.
    Its stages and warnings are left out, since they tell nothing of the model.
    """
    made = run_job(Forms(source, source, None), cell, chunk, seeds, deadline, on_pass)
    images = decode(made.stored).to(chunk.images.device)
    known = cell.attack.knows_eps
    judged = judge(model, images, chunk.images, chunk.labels, cell.threats[0], known)
    return replace(made, judged=judged, lost=0, stages=[], warned=[])


def attack_chunk(
    context: Context,
    cell: Cell,
    chunk: Chunk,
    seeds: Seeds,
    deadline: float | None = None,
    on_pass: Callable[[int], None] = lambda _: None,
) -> JobResult:
    """A cell's attack on a chunk, on the model or on the source that it is made on."""
    rest = cell, chunk, seeds, deadline, on_pass
    if not cell.spec.source:
        return run_job(context.forms, *rest)
    return run_elsewhere(context.static_sources[cell.spec.source], context.model, *rest)


def _told(results: list[AttackResult]) -> tuple[list[Stage], list[Warned], list[str]]:
    """What several calls tell, one after the other."""
    return (
        [stage for result in results for stage in result.stages],
        [warned for result in results for warned in result.warned],
        [note for result in results for note in result.notes],
    )


def settle(
    model: Adapter, images: Tensor, chunk: Chunk, threat: ThreatModel, bound: bool
) -> Settled:
    """The stored form of attacked images, judged.

    Rounded towards the clean image; where that undoes a success, to the nearest levels (in the
    ball, and several times with dither, if the attack is ``bound`` to one), and else away from the
    clean image.  Also tells how many successes none of these kept.
    """

    def inspected(rows: Tensor, encoded: Encoding) -> tuple[Stored, Judged]:
        clean, labels = chunk.images[rows], chunk.labels[rows]
        stored = encoded(images[rows], clean)
        counted = decode(stored).to(images.device)
        return stored, judge(model, counted, clean, labels, threat, bound)

    everything = torch.arange(len(images), device=images.device)
    stored, judged = inspected(everything, partial(encode, rounding="inward"))
    undone = everything[~judged.fooled.to(images.device)]
    if len(undone):
        logits = predict(model, images[undone])
        require_finite(logits)
        undone = undone[logits.argmax(1) != chunk.labels[undone]]
    others: list[Encoding] = [partial(encode, rounding=r) for r in ("nearest", "outward")]
    if bound:
        seeds = [None, *range(_DITHERED)]
        others = [partial(encode_within, threat=threat, dither=seed) for seed in seeds]
    for encoding in others:
        if len(undone) == 0:
            break
        other, again = inspected(undone, encoding)
        saved = again.fooled
        places = undone.cpu()[saved]
        stored[places.numpy()] = other[saved.numpy()]
        judged = judged.replaced(places, again, saved)
        undone = undone[~saved.to(undone.device)]
    return Settled(stored, judged, len(undone))


def _attack(
    model: Counted,
    cell: Cell,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    seed: int,
) -> AttackResult:
    """Calls the attack; a batch that doesn't fit in memory is halved and tried again."""
    try:
        return cell.attack.run(model, images, labels, threat, seed, cell.parameters)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(images) == 1:
            raise
    half = torch.arange(len(images)) < len(images) // 2
    parts = []
    for rows, part_seed in ((half, seed), (~half, seed + 1)):
        with model.attending(torch.nonzero(rows)[:, 0]):
            parts.append(_attack(model, cell, images[rows], labels[rows], threat, part_seed))
    stages, warned, notes = _told(parts)
    halved = f"out of memory at {len(images)} images: halved"
    return AttackResult(torch.cat([p.images for p in parts]), stages, warned, [halved, *notes])
