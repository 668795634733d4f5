"""Detectors that go by distances to prototypes."""

from torch import Tensor

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter


def nearest_prototype(state: State, model: Adapter, images: Tensor) -> Tensor:
    """Minus the distance to the nearest prototype of any class."""
    return -model.distances(images).flatten(1).amin(1)


DETECTORS = (
    Detector(
        name="nearest_prototype",
        title="Distance to the nearest prototype",
        source="Yang et al. 2018, arXiv 1805.03438",
        package=OURS,
        reads="images",
        needs_prototypes=True,
        needs_linear_head=False,
        gradient=True,
        own_passes=1,
        settings=(),
        fit_read=None,
        score_read=nearest_prototype,
        version=1,
    ),
)
