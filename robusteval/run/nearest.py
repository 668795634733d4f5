"""Which prototype an image is nearest to, by the column's name."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.errors import AttackError
from robusteval.evidence.columns import NEAREST
from robusteval.evidence.images import decode
from robusteval.evidence.judge import VERIFY_BATCH, predict
from robusteval.models.adapter import Adapter
from robusteval.models.places import PrototypeLayer
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.run.attacking import JobResult


def distances(
    context: Context, images: Tensor, batch_size: int = VERIFY_BATCH
) -> dict[str, Tensor]:
    """For each layer of ``context.prototypes`` the distances (B, K · M), on the CPU.

    Raises AttackError for distances of another shape, or that are no numbers.
    """
    model, layers = context.model, context.prototypes

    def joined(part: Tensor) -> Tensor:
        found = model.all_distances(part)
        return torch.cat([_checked(found, layer, len(part), model) for layer in layers], 1)

    apart = predict(joined, images, batch_size).cpu()
    sizes = [model.classes * layer.per_class for layer in layers]
    return {layer.name: values for layer, values in zip(layers, apart.split(sizes, 1), strict=True)}


def _checked(found: dict[str, Tensor], layer: PrototypeLayer, count: int, model: Adapter) -> Tensor:
    apart = found.get(layer.name)
    due = (count, model.classes, layer.per_class)
    if apart is None or apart.shape != due or not torch.isfinite(apart).all():
        told = "none" if apart is None else f"{tuple(apart.shape)}, or some that are no numbers"
        raise AttackError(
            f"distances to the prototypes of {layer.name} are {told}: return finite ones of shape "
            f"{due} (B, K, M)"
        )
    return apart.flatten(1)


def nearest(context: Context, images: Tensor) -> dict[str, Any]:
    """Each layer's nearest prototypes (B,); of those that coincide the first."""
    unknown = np.full(len(images), -1, np.int64)
    columns = {f"{NEAREST}{place}": unknown for place in range(context.plan.layers)}
    if not context.prototypes or not len(images):
        return columns
    places = {name: place for place, name in enumerate(context.model.layers)}
    for layer, apart in zip(context.prototypes, distances(context, images).values(), strict=True):
        found = apart.argmin(1).numpy()
        firsts = found if layer.firsts is None else layer.firsts[found]
        columns[f"{NEAREST}{places[layer.name]}"] = firsts
    return columns


def clean_nearest(context: Context, job: Job) -> dict[str, Any]:
    """Of a chunk's clean images."""
    return nearest(context, context.images(context.plan.chunks[job.chunk]))


def attacked_nearest(context: Context, result: JobResult) -> dict[str, Any]:
    """Of a job's successes; −1 for the other images."""
    fooled = result.judged.fooled.numpy()
    found = nearest(context, decode(result.stored[fooled]).to(context.device))
    columns = {name: np.full(len(fooled), -1, np.int64) for name in found}
    for name, values in found.items():
        columns[name][fooled] = values
    return columns
