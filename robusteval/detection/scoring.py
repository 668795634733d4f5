"""A detector's scores of many images."""

import torch
from torch import Tensor

from robusteval.detection.record import State
from robusteval.detection.registry import find
from robusteval.models.adapter import Adapter


@torch.no_grad()
def scores(
    name: str, model: Adapter, images: Tensor, state: State | None = None, batch_size: int = 250
) -> Tensor:
    """A detector's scores (N,) in float64 on the CPU, batch by batch: higher = more
    in-distribution.

    ``state``: of its fit; None where it has none.
    """
    detector = find(name)
    fitted = {key: value.to(images.device) for key, value in (state or {}).items()}
    parts = [
        detector.score(fitted, model, batch).double().cpu() for batch in images.split(batch_size)
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
