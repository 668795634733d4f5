"""ODIN (Liang et al. 2018, arXiv 1706.02690): a step that makes the model surer, then the largest
probability at a high temperature.  ε is in pixels of [0, 1]; the paper's are normalised."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter


def fit(model: Adapter, images: Tensor, labels: Tensor, **setting: float) -> State:
    """What was chosen is all."""
    return {}


def score(state: State, model: Adapter, images: Tensor) -> Tensor:
    """The largest probability after the step.

    The step's sign has no slope, so that the gradient is that of the last pass.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf) / float(state["temperature"])
        loss = cross_entropy(logits, logits.argmax(1), reduction="sum")
        (slope,) = torch.autograd.grad(loss, leaf)
    surer = images - float(state["eps"]) * slope.sign()
    answer: Tensor = model(surer).double() / float(state["temperature"])
    return answer.softmax(1).amax(1)


DETECTORS = (
    Detector(
        name="odin",
        title="ODIN",
        source="Liang et al. 2018, arXiv 1706.02690",
        package=OURS,
        reads="images",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=3,
        settings=tuple({"temperature": 1000.0, "eps": eps} for eps in (0.0014, 0.0, 0.004)),
        fit_read=fit,
        score_read=score,
        version=1,
    ),
)
