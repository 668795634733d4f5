"""pytorch-ood's detectors that read logits: largest probability, largest logit, energy."""

from collections.abc import Callable

from torch import Tensor

from robusteval.detection.record import PYTORCH_OOD, Detector, Score, State
from robusteval.models.adapter import Adapter
from robusteval.vision import torchvision

_HENDRYCKS_GIMPEL = "Hendrycks and Gimpel 2017, arXiv 1610.02136"
_HENDRYCKS = "Hendrycks et al. 2022, arXiv 1911.11132"


def _of_pytorch_ood(name: str) -> Score:
    """Its scores rise for outliers, ours fall.

    In float64: in float32 the largest probability is 1 from a gap of 17 on, and many scores tie.
    """

    def score(state: State, model: Adapter, logits: Tensor) -> Tensor:
        torchvision()  # pytorch-ood imports it
        from pytorch_ood import detector

        outlier_score: Callable[[Tensor], Tensor] = getattr(detector, name).score
        return -outlier_score(logits.double())

    return score


DETECTORS = tuple(
    Detector(
        name=name,
        title=title,
        source=source,
        package=PYTORCH_OOD,
        reads="logits",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=0,
        settings=(),
        fit_read=None,
        score_read=_of_pytorch_ood(theirs),
        version=1,
    )
    for name, theirs, title, source in (
        ("max_softmax", "MaxSoftmax", "Maximum softmax probability", _HENDRYCKS_GIMPEL),
        ("max_logit", "MaxLogit", "Maximum logit", _HENDRYCKS),
        ("energy", "EnergyBased", "Energy", "Liu et al. 2020, arXiv 2010.03759"),
    )
)
