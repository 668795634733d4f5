"""Stability of the margin under noise, after Roth et al. 2019 (arXiv 1902.04818), who look at how
noise moves the gaps between logits."""

import torch
from torch import Tensor

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_DRAWS = 8
_SIGMA = 0.05  # of noise on pixels in [0, 1]
_SEED = 0


def noise_for(images: Tensor) -> Tensor:
    """(V, C, H, W) The same for every image, so that no score depends on the rest of its batch."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn(_DRAWS, *images.shape[1:], generator=generator)
    return (_SIGMA * drawn).to(images)


def _margins(logits: Tensor, predicted: Tensor) -> Tensor:
    """(B,) How far a class's logit is above the largest other one."""
    own = logits.gather(1, predicted[:, None])[:, 0]
    return own - logits.scatter(1, predicted[:, None], -torch.inf).amax(1)


def score(state: State, model: Adapter, images: Tensor) -> Tensor:
    """Minus the mean drop of the predicted class's margin under Gaussian noise."""
    logits = model(images).double()
    predicted = logits.argmax(1)
    noisy = [_margins(model(images + drawn).double(), predicted) for drawn in noise_for(images)]
    return torch.stack(noisy).mean(0) - _margins(logits, predicted)


DETECTORS = (
    Detector(
        name="margin_stability",
        title="Stability of the margin under noise",
        source="Roth et al. 2019, arXiv 1902.04818",
        package=OURS,
        reads="images",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=1 + _DRAWS,
        settings=(),
        fit_read=None,
        score_read=score,
        version=1,
    ),
)
