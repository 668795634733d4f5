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
    title="Distance to the mean image",
    source="",  # the paper, with its year, where there is one
    package=PLUGIN,
    reads="images",  # or the model's "logits", its "features", "both", or "distances"
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,  # an attacker can follow the score to the pixels
    own_passes=0,  # the model isn't asked
    settings=(),  # nothing to choose
    fit_read=fit,  # None where nothing is fitted; then the state is empty
    score_read=score,
    version=1,  # raised whenever the scores change
)
