"""One attack that knows a detector: its samples, what it makes of them, and what holds of that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.evasion import Evasion, Guard
from robusteval.attacks.steps import norms, project
from robusteval.detection.reading import Shared
from robusteval.detection.record import Detector, State
from robusteval.detection.registry import find
from robusteval.detection.thresholds import threshold_at
from robusteval.errors import AttackError
from robusteval.evidence.columns import SCORE
from robusteval.evidence.images import Stored, decode, encode, encode_within
from robusteval.evidence.judge import VERIFY_BATCH, predict
from robusteval.evidence.pursued import places_of
from robusteval.evidence.store import Store
from robusteval.hardware import exact_float32
from robusteval.models.adapter import Adapter
from robusteval.plan.context import Context
from robusteval.plan.plan import Job, Pursuit, job_stream
from robusteval.run.scoring import outlier_images, states_of

Spent = tuple[Tensor, Tensor]  # forward and backward passes of each sample


@dataclass(frozen=True)
class Prey:
    """The samples of one attack on a detector, in order.

    ``indices`` (B,): of inliers in their split, of outliers in their set; ``labels`` (B,): true
    classes, of outliers the predicted ones.
    """

    indices: Tensor
    images: Tensor  # (B, C, H, W)
    labels: Tensor


@dataclass(frozen=True)
class Pursued:
    """What an attack on a detector came to, sample by sample, on the CPU."""

    indices: Tensor  # (B,)
    stored: Stored  # (B, C, H, W)
    prediction: Tensor  # (B,)
    scores: Tensor  # (B,) float64
    clean_scores: Tensor  # (B,) float64
    norm: Tensor  # (B,) float64
    forward_passes: Tensor  # (B,)
    backward_passes: Tensor  # (B,)
    guided: int


def pursued(
    context: Context, store: Store, job: Job, on_pass: Callable[[int], None] = lambda _: None
) -> Pursued:
    """Does one: attacked, stored, and measured as stored.

    Raises AttackError where the detector's fit failed, and ScoreError for scores that aren't
    finite.
    """
    pursuit = context.plan.pursuits[job.part]
    asked = context.spec.suite.detection.attackers
    prey, guard = prey_of(context, store, pursuit), guard_of(context, store, pursuit.detector)
    if not len(prey.indices):
        return _nothing(prey)
    counted = Counted(context.model, len(prey.indices), None, on_pass)
    search = Evasion(
        counted, prey.images, prey.labels, pursuit.threat, guard, pursuit.goal, asked.method
    )
    guided = search.run(job_stream(context.spec.seed, job), asked.passes)
    spent = counted.forward_passes.clone(), counted.backward_passes.clone()
    return _settled(context, prey, search, guided, spent)


def _nothing(prey: Prey) -> Pursued:
    none = torch.empty(0, dtype=torch.float64)
    stored = np.empty((0, 1, 1, 1), np.uint16)
    return Pursued(prey.indices, stored, none.long(), none, none, none, none, none, 0)


def prey_of(context: Context, store: Store, pursuit: Pursuit) -> Prey:
    """Its samples.  Raises AttackError for outliers that have no scores."""
    count = context.spec.suite.detection.attackers.samples
    sizes: dict[str, int] = {}
    if pursuit.goal == "accept":
        sizes[pursuit.outliers] = _size(context, store, pursuit)
    pieces = [store.read(job).columns for job in context.plan.clean_jobs()]
    correct = np.concatenate([p["label"] == p["prediction"] for p in pieces])
    places = torch.from_numpy(places_of(pursuit, count, correct, sizes))
    if pursuit.goal == "accept":
        return _outliers(context, pursuit.outliers, places)
    return Prey(context.data.indices[places], context.images(places), context.labels(places))


def _size(context: Context, store: Store, pursuit: Pursuit) -> int:
    """How many images its set of outliers has."""
    job = context.plan.outlier_jobs()[context.plan.outliers.index(pursuit.outliers)]
    if not store.has(job):
        raise AttackError(f"the outliers {pursuit.outliers} have no scores: none to begin with")
    return len(store.read(job).columns[SCORE + pursuit.detector])


def _outliers(context: Context, name: str, places: Tensor) -> Prey:
    """Some images of a set, which is read batch by batch."""
    found, seen = list[Tensor](), 0
    for batch in outlier_images(context, context.plan.outliers.index(name)):
        here = places[(places >= seen) & (places < seen + len(batch))] - seen
        found.append(batch[here.to(batch.device)])
        seen += len(batch)
    images = torch.cat(found)
    return Prey(places, images, predict(context.model, images).argmax(1))


def guard_of(context: Context, store: Store, name: str) -> Guard:
    """A detector with its state, its threshold and its unit, both from all clean samples.

    Raises AttackError where its fit failed.
    """
    state = states_of(store, context.plan, [name]).get(name, {})
    if state is None:
        raise AttackError(f"the fit of {name} failed: there is nothing to attack")
    clean = clean_scores_of(context, store, name)
    spread = float(np.subtract(*np.percentile(clean, [84, 16])) / 2)
    on_device = {key: value.to(context.device) for key, value in state.items()}
    return Guard(look_of(find(name), on_device), threshold_at(clean), spread or 1.0)


def clean_scores_of(context: Context, store: Store, name: str) -> Any:
    """(N,) A detector's scores of all clean samples, as they are stored."""
    pieces = [store.read(job).columns for job in context.plan.clean_jobs()]
    return np.concatenate([piece[SCORE + name] for piece in pieces])


def look_of(detector: Detector, state: State) -> Callable[[Adapter, Tensor], tuple[Tensor, Tensor]]:
    """What a model and a detector say of images, with a graph where they have one."""

    def look(model: Adapter, images: Tensor) -> tuple[Tensor, Tensor]:
        shared = Shared(model, images, (detector.reads, "logits"))
        scores = detector.score_of(state, model, shared.read(detector.reads))
        return shared.logits, scores

    return look


def _settled(context: Context, prey: Prey, search: Evasion, guided: int, passes: Spent) -> Pursued:
    """What an attack made, as it is stored, measured by the model itself.

    Of the two ways to store an image, each takes the one that leaves it the larger merit.
    """
    threat, rows = search.threat, search.alive()
    made = project(search.best, prey.images, threat)
    ways = [encode(made, prey.images, "inward"), encode_within(made, prey.images, threat)]
    merits = torch.stack([search.margins(rows, decode(way).to(made.device)) for way in ways])
    stored = np.stack(ways)[merits.argmax(0).cpu().numpy(), np.arange(len(rows))]
    images = decode(stored).to(made.device)
    prediction, scores = measured(context.model, search.guard, images)
    _, before = measured(context.model, search.guard, prey.images)
    lengths = norms(images.double() - prey.images.double(), threat.norm).cpu()
    return Pursued(prey.indices, stored, prediction, scores, before, lengths, *passes, guided)


@torch.no_grad()
def measured(model: Adapter, guard: Guard, images: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted classes (B,) and scores (B,), float64, of images by the model itself, on the
    CPU."""
    with exact_float32():
        found = [guard.look(model, part) for part in images.split(VERIFY_BATCH)]
    logits, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits.argmax(1).cpu(), scores.double().cpu()
