"""Attacks that know a detector, checked again: their images, and what is said of these."""

from typing import Any

import numpy as np
import torch

from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import norms
from robusteval.evidence.images import decode, digests
from robusteval.evidence.judge import TOLERANCE
from robusteval.evidence.results import RunResult
from robusteval.evidence.store import Store
from robusteval.plan.context import Context
from robusteval.plan.plan import Job, job_stream
from robusteval.run.pursuing import guard_of, measured, prey_of, pursued
from robusteval.trust.scores import other_scores


def pursuits_hold(context: Context, store: Store, result: RunResult) -> tuple[bool, str]:
    """Every image is the counted one and in its ball; classes and scores are what rows say."""
    wrong: list[str] = []
    total = 0
    for job in context.plan.pursuit_jobs():
        if store.has(job):
            columns = store.read(job).columns
            total += len(columns["index"])
            if not _holds(context, store, job, columns, result.tie):
                wrong.append(job.stem)
    told = f"{total} images" + (f"; other than stored in {', '.join(wrong)}" if wrong else "")
    return not wrong, told


def _holds(context: Context, store: Store, job: Job, columns: dict[str, Any], tie: float) -> bool:
    pursuit, kept = context.plan.pursuits[job.part], store.read_images(job)
    count = len(columns["index"])
    if not np.array_equal(kept.rows, np.arange(count)):
        return False
    if not count:
        return True
    if digests(kept.images) != list(columns["sha256"]):
        return False
    prey, guard = prey_of(context, store, pursuit), guard_of(context, store, pursuit.detector)
    images = decode(kept.images).to(context.device)
    if images.shape != prey.images.shape or not np.array_equal(prey.indices, columns["index"]):
        return False
    lengths = norms(images.double() - prey.images.double(), pursuit.threat.norm).cpu().numpy()
    inside = (lengths <= pursuit.threat.radius + TOLERANCE).all()
    inside &= bool(((images >= 0) & (images <= 1)).all())
    inside &= np.abs(lengths - columns["norm"]).max() <= TOLERANCE
    prediction, scores = measured(context.model, guard, images)
    _, before = measured(context.model, guard, prey.images)
    with torch.no_grad():
        first, second = context.model(images).topk(2, dim=1).values.T.cpu().numpy()
    other = (prediction.numpy() != columns["prediction"]) & (first - second > tie)
    differ = other_scores(columns["score"], scores.numpy())
    differ += other_scores(columns["clean_score"], before.numpy())
    return bool(inside) and not other.any() and not differ


def repeats(context: Context, store: Store, job: Job) -> bool:
    """Whether one done again reaches the same scores, up to what kernels change."""
    then = store.read(job).columns
    with seeded(job_stream(context.spec.seed, job), torch.device(context.device)):
        now = pursued(context, store, job)
    return not other_scores(then["score"], now.scores.numpy())
