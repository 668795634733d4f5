"""Detectors that read logits and are fitted: a temperature, and templates of the softmax.

The fit of the temperature is on training data, where a model is surer than on other images of its
classes.  The paper takes validation data.
"""

import math
from functools import partial

import torch
from torch import Tensor

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

_COLDEST, _HOTTEST = 0.05, 100.0  # temperatures: where all samples are right, none is too cold
_HALVINGS = 60


def fit_temperature(model: Adapter, logits: Tensor, labels: Tensor) -> State:
    """The temperature in [0.05, 100] at which the labels are likeliest.

    The likelihood is concave in 1 / T, so its slope is halved down to zero.
    """
    values = logits.double()
    correct = values.gather(1, labels[:, None])[:, 0]

    def too_cold(log_t: float) -> bool:
        expected = ((values / math.exp(log_t)).softmax(1) * values).sum(1)
        return bool((correct - expected).mean() < 0)

    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_cold(middle) else (low, middle)
    return {"temperature": values.new_tensor(math.exp(low))}


def score_temperature(state: State, model: Adapter, logits: Tensor) -> Tensor:
    """The largest probability at that temperature."""
    return (logits.double() / state["temperature"]).softmax(1).amax(1)


def fit_templates(model: Adapter, logits: Tensor, labels: Tensor) -> State:
    """The logarithms of the mean softmax (K', K) of samples of each predicted class."""
    log_p = logits.double().log_softmax(1)
    predicted = log_p.argmax(1)
    means = [_log_mean(log_p[predicted == k]) for k in predicted.unique()]
    return {"log_templates": torch.stack(means)}


def _log_mean(log_p: Tensor) -> Tensor:
    count = torch.tensor(len(log_p), dtype=log_p.dtype, device=log_p.device)
    return log_p.logsumexp(0) - count.log()


def score_templates(state: State, model: Adapter, logits: Tensor) -> Tensor:
    """Minus the smallest Kullback-Leibler divergence from a template."""
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    divergences = (p * log_p).sum(1, keepdim=True) - p @ state["log_templates"].T
    return -divergences.amin(1)


_of_logits = partial(
    Detector,
    package=OURS,
    reads="logits",
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,
    own_passes=0,
    settings=(),
    version=1,
)
DETECTORS = (
    _of_logits(
        name="temperature_scaling",
        title="Temperature scaling",
        source="Guo et al. 2017, arXiv 1706.04599",
        fit_read=fit_temperature,
        score_read=score_temperature,
    ),
    _of_logits(
        name="kl_matching",
        title="KL matching",
        source="Hendrycks et al. 2022, arXiv 1911.11132",
        fit_read=fit_templates,
        score_read=score_templates,
    ),
)
