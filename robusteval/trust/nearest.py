"""What evidence says of prototypes, looked at again: which one each image is nearest to."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from robusteval.evidence.columns import NEAREST
from robusteval.evidence.kept import PROOF_BATCH, kept_images
from robusteval.evidence.results import RunResult
from robusteval.evidence.store import Store
from robusteval.models.places import PrototypeLayer
from robusteval.plan.context import Context
from robusteval.run.nearest import distances

_SAME_DISTANCE = 1e-4  # of an image's largest one; kernels differ with the batch in the last bits


def nearest_hold(context: Context, store: Store, result: RunResult) -> tuple[bool, str]:
    """Clean and stored images are nearest to the prototypes that rows say, and of an attack's
    images only successes say any."""
    if not context.prototypes:
        return True, "the model has none"
    if "prototype_layers" not in result.record["model"]:  # an older run
        return True, "not measured"
    wrong = total = 0
    for job in context.plan.clean_jobs():
        images = context.images(context.plan.chunks[job.chunk])
        wrong += _elsewhere(context, images, store.read(job).columns)
        total += len(images)
    for batch in kept_images(context, store):
        claimed = {name: values[batch.places] for name, values in batch.columns.items()}
        wrong += _elsewhere(context, batch.images, claimed)
        total += len(batch.images)
    for job in context.plan.attack_jobs():
        if store.has(job):
            wrong += _of_no_success(context, store.read(job).columns)
    told = f"{total} images" + (f", {wrong} other than stored" if wrong else "")
    return wrong == 0, told


def _columns(context: Context) -> Iterator[tuple[PrototypeLayer, str]]:
    """Each layer whose prototypes are known, with its column's name."""
    places = {name: place for place, name in enumerate(context.model.layers)}
    return ((layer, f"{NEAREST}{places[layer.name]}") for layer in context.prototypes)


def _elsewhere(context: Context, images: Tensor, claimed: Mapping[str, Any]) -> int:
    """How many images are not nearest to what is claimed, by more than kernels differ."""
    wrong = np.zeros(len(images), bool)
    found = distances(context, images, PROOF_BATCH)
    for layer, column in _columns(context):
        said, apart = claimed[column], found[layer.name].numpy()
        there = np.take_along_axis(apart, said.clip(0)[:, None], 1)[:, 0]
        slack = _SAME_DISTANCE * np.abs(apart).max(1)
        wrong |= (said < 0) | ~(there <= apart.min(1) + slack)
        if layer.firsts is not None:
            wrong |= layer.firsts[said] != said
    return int(wrong.sum())


def _of_no_success(context: Context, claimed: Mapping[str, Any]) -> int:
    """How many of an attack's rows name a prototype without a success, or the other way round."""
    if not len(claimed["label"]):
        return 0
    differ = [(claimed[column] >= 0) != claimed["fooled"] for _, column in _columns(context)]
    return int(np.any(differ, 0).sum())
