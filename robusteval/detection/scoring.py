"""Detectors' scores of many images."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robusteval.detection.reading import Shared
from robusteval.detection.record import State
from robusteval.detection.registry import find
from robusteval.models.adapter import Adapter

BATCH = 250  # images


def scores(
    name: str, model: Adapter, images: Tensor, state: State | None = None, batch_size: int = BATCH
) -> Tensor:
    """A detector's scores (N,) in float64 on the CPU, batch by batch: higher = more
    in-distribution.

    ``state``: of its fit; None where it has none.
    """
    return scores_together({name: state or {}}, model, images, batch_size)[name]


@torch.no_grad()
def scores_together(
    states: Mapping[str, State], model: Adapter, images: Tensor, batch_size: int = BATCH
) -> dict[str, Tensor]:
    """The scores (N,) of several detectors, as ``scores`` gives them, by one pass for all.

    ``states``: each detector's, by its name; empty where it isn't fitted.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in states}
    records = {name: find(name) for name in states}
    wanted = [record.reads for record in records.values()]
    fitted = {
        name: {key: value.to(images.device) for key, value in state.items()}
        for name, state in states.items()
    }
    for batch in images.split(batch_size) if len(images) else ():
        shared = Shared(model, batch, wanted)
        for name, record in records.items():
            score = record.score_of(fitted[name], model, shared.read(record.reads))
            found[name].append(score.double().cpu())
    nothing = torch.empty(0, dtype=torch.float64)
    return {name: torch.cat(parts) if parts else nothing for name, parts in found.items()}
