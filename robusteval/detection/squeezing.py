"""Feature squeezing (Xu et al. 2018, arXiv 1704.01155): how much the softmax changes where colour
depth and small details are taken away.

Two squeezers of the paper's best joint detectors: 1 bit (grey images) or 5 bits (colour), and the
median of 2 × 2 pixels.  Its third, non-local means, is left out.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_BITS = {1: 1}  # by channels; else
_COLOUR_BITS = 5


def fewer_bits(images: Tensor, bits: int) -> Tensor:
    """Images in [0, 1], rounded to 2^bits values."""
    most = 2**bits - 1
    rounded: Tensor = (images * most).round() / most
    return rounded


def median(images: Tensor) -> Tensor:
    """The median of each pixel and those above and left of it: of four the third, as SciPy has it;
    at the edges pixels stand twice."""
    wider = pad(images, (1, 0, 1, 0), mode="replicate")
    windows: Tensor = wider.unfold(2, 2, 1).unfold(3, 2, 1).flatten(4)  # (B, C, H, W, 4)
    return windows.sort(4).values[..., 2]


def score(state: State, model: Adapter, images: Tensor) -> Tensor:
    """Minus the largest L1 distance between the softmax of an image and of a squeezed one.

    Rounding has no slope: a gradient follows the image itself, and the median.
    """
    bits = _BITS.get(images.shape[1], _COLOUR_BITS)
    forms = images, fewer_bits(images, bits), median(images)
    plain, *squeezed = (model(form).double().softmax(1) for form in forms)
    apart = torch.stack([(plain - other).abs().sum(1) for other in squeezed])
    return -apart.amax(0)


DETECTORS = (
    Detector(
        name="feature_squeezing",
        title="Feature squeezing",
        source="Xu et al. 2018, arXiv 1704.01155",
        package=OURS,
        reads="images",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=3,
        settings=(),
        fit_read=None,
        score_read=score,
        version=1,
    ),
)
