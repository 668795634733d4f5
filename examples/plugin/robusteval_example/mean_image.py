"""A detector that is fitted: how far an image is from the training data's mean."""

from torch import Tensor

from robusteval.detection.record import PLUGIN, Detector, State
from robusteval.models.adapter import Adapter


def fit(model: Adapter, images: Tensor, labels: Tensor) -> State:
    """The mean (C, H, W) of images (N, C, H, W)."""
    return {"mean": images.mean(0)}


def score(state: State, model: Adapter, images: Tensor) -> Tensor:
    """Minus the distance (B,) to the mean: higher = more in-distribution."""
    return -(images - state["mean"]).flatten(1).norm(dim=1)


MEAN_IMAGE = Detector(
    name="mean_image",
    package=PLUGIN,
    reads="images",  # or the model's "logits", or its "features"
    needs_prototypes=False,
    fit_read=fit,  # None where nothing is fitted; then the state is empty
    score_read=score,
    version=1,  # raised whenever the scores change
)
