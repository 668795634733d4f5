"""Detectors that read logits and are not fitted.

pytorch-ood's scores rise for outliers, ours fall.  All are computed in float64: in float32 the
largest probability is 1 from a gap of 17 on, and many scores tie.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robusteval.detection.record import OURS, PYTORCH_OOD, Detector, Score, State
from robusteval.models.adapter import Adapter
from robusteval.vision import torchvision

_GAMMA = 0.1  # of GEN, the paper's
_TINY = torch.finfo(torch.float64).tiny


def _of_pytorch_ood(name: str) -> Score:
    def score(state: State, model: Adapter, logits: Tensor) -> Tensor:
        torchvision()  # pytorch-ood imports it
        from pytorch_ood import detector

        outlier_score: Callable[[Tensor], Tensor] = getattr(detector, name).score
        return -outlier_score(logits.double())

    return score


def generalised_entropy(state: State, model: Adapter, logits: Tensor) -> Tensor:
    """Minus Σ p^γ (1 − p)^γ over all classes, by logarithms.

    pytorch-ood cuts probabilities at 1e-7 first, which the paper doesn't: to the power of 0.1 those
    below still tell inliers apart.
    """
    values = logits.double()
    log_p = values.log_softmax(1)
    itself = torch.eye(values.shape[1], dtype=torch.bool, device=values.device)
    others = values[:, None].masked_fill(itself, -torch.inf).logsumexp(2)  # (B, K)
    log_rest = others - values.logsumexp(1, keepdim=True)
    return -(_GAMMA * (log_p + log_rest)).exp().sum(1)


def rho(state: State, model: Adapter, logits: Tensor) -> Tensor:
    """(max − mean) / std of the prediction vector; 0 where all of it is equal."""
    values = logits.double()
    centred = values - values.mean(1, keepdim=True)
    variance = centred.square().mean(1).clamp(min=_TINY)
    return centred.amax(1) / variance.sqrt()


_of_logits = partial(
    Detector,
    reads="logits",
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,
    own_passes=0,
    settings=(),
    fit_read=None,
    version=1,
)
DETECTORS = (
    _of_logits(
        name="max_softmax",
        title="Maximum softmax probability",
        source="Hendrycks and Gimpel 2017, arXiv 1610.02136",
        package=PYTORCH_OOD,
        score_read=_of_pytorch_ood("MaxSoftmax"),
    ),
    _of_logits(
        name="max_logit",
        title="Maximum logit",
        source="Hendrycks et al. 2022, arXiv 1911.11132",
        package=PYTORCH_OOD,
        score_read=_of_pytorch_ood("MaxLogit"),
    ),
    _of_logits(
        name="energy",
        title="Energy",
        source="Liu et al. 2020, arXiv 2010.03759",
        package=PYTORCH_OOD,
        score_read=_of_pytorch_ood("EnergyBased"),
    ),
    _of_logits(
        name="entropy",
        title="Entropy of the softmax",
        source="Chan et al. 2021, arXiv 2012.06575",
        package=PYTORCH_OOD,
        score_read=_of_pytorch_ood("Entropy"),
    ),
    _of_logits(
        name="gen",
        title="Generalised entropy",
        source="Liu et al. 2023, CVPR",
        package=OURS,
        score_read=generalised_entropy,
    ),
    _of_logits(
        name="scpl_rho",
        title="SCPL's confidence ρ",
        source="Fostiropoulos and Itti 2022, Figure 7",
        package=OURS,
        score_read=rho,
    ),
)
