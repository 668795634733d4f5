"""Detectors' scores of a job's images, by the column's name; fitted ones read their state from the
evidence."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.data.outliers import outlier_batches
from robusteval.detection.record import State
from robusteval.detection.scoring import scores_together
from robusteval.evidence.columns import SCORE
from robusteval.evidence.images import Stored, decode
from robusteval.evidence.store import Store
from robusteval.plan.context import Context
from robusteval.plan.plan import Job, Plan

# Of each fitted detector its state; None where its fit failed.
States = Mapping[str, State | None]


def states_of(store: Store, plan: Plan, detectors: Sequence[str]) -> States:
    """The states of those detectors that are fitted.

    Raises EvidenceError where one is corrupt, or where its fit was neither done nor failed.
    """
    return {name: _state(store, plan.fit_job(name)) for name in detectors if name in plan.fits}


def _state(store: Store, job: Job) -> State | None:
    if not store.has(job) and store.failure(job):
        return None
    return {name: torch.from_numpy(array) for name, array in store.read_state(job).items()}


def score_columns(
    context: Context, states: States, detectors: Sequence[str], images: Tensor
) -> dict[str, Any]:
    """Each detector's scores (B,) of images, which the model reads once for all.

    NaN where its fit failed, so that a job has the same columns whatever became of the fits.
    """
    unfitted = {name for name in detectors if name in states and states[name] is None}
    usable = {name: states.get(name) or {} for name in detectors if name not in unfitted}
    found = scores_together(usable, context.model, images)
    nothing = np.full(len(images), np.nan)
    return {SCORE + n: nothing if n in unfitted else found[n].numpy() for n in detectors}


def clean_scores(context: Context, store: Store, job: Job) -> dict[str, Any]:
    """Each detector's scores on a chunk's clean images."""
    images = context.images(context.plan.chunks[job.chunk])
    states = states_of(store, context.plan, job.scored_by)
    return score_columns(context, states, job.scored_by, images)


def outlier_scores(context: Context, store: Store, job: Job) -> dict[str, Any]:
    """Each detector's scores on a set of outliers."""
    states = states_of(store, context.plan, job.scored_by)
    parts: dict[str, list[Any]] = {SCORE + detector: [] for detector in job.scored_by}
    for images in outlier_images(context, job.part):
        for column, values in score_columns(context, states, job.scored_by, images).items():
            parts[column].append(values)
    return {column: np.concatenate(found) for column, found in parts.items()}


def outlier_images(context: Context, part: int) -> Iterator[Tensor]:
    """The images of the plan's set of that place, batch by batch, on the model's device."""
    name: str | Path = context.plan.outliers[part]
    if part >= len(context.spec.outliers):
        name = Path(name)
    spec, shape = context.spec, context.data.info.shape
    place, inliers = context.access.data_dir, context.data
    for batch in outlier_batches(name, spec.samples, shape, spec.seed, place, inliers):
        yield batch.to(context.device)


def attacked_scores(context: Context, store: Store, job: Job, stored: Stored) -> dict[str, Any]:
    """Each detector's scores on a job's attacked images."""
    if not job.scored_by:
        return {}
    states = states_of(store, context.plan, job.scored_by)
    return score_columns(context, states, job.scored_by, decode(stored).to(context.device))
