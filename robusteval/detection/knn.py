"""Distance to the k-th nearest training sample (Sun et al. 2022, arXiv 2204.06507).

Between penultimate features of length 1; k = 50 is the paper's for CIFAR-10.
"""

from torch import Tensor
from torch.nn.functional import normalize

from robusteval.detection.record import OURS, Detector, State
from robusteval.models.adapter import Adapter

NEIGHBOUR = 50


def fit(model: Adapter, features: Tensor, labels: Tensor) -> State:
    """The features (N, D) as the model gives them.

    Raises ValueError for fewer than ``NEIGHBOUR`` of them.
    """
    if len(features) < NEIGHBOUR:
        raise ValueError(f"{len(features)} training samples: it needs {NEIGHBOUR} or more")
    return {"features": features}


def score(state: State, model: Adapter, features: Tensor) -> Tensor:
    """Minus the distance to the k-th neighbour: ‖a − b‖² = 2 − 2 a·b for vectors of length 1."""
    known = normalize(state["features"].double(), dim=1)
    cosines = normalize(features.double(), dim=1) @ known.T  # (B, N)
    kth = cosines.topk(NEIGHBOUR, dim=1).values[:, -1]
    return -(2 - 2 * kth).clamp(min=0).sqrt()


DETECTORS = (
    Detector(
        name="knn",
        title="k-th nearest neighbour",
        source="Sun et al. 2022, arXiv 2204.06507",
        package=OURS,
        reads="features",
        needs_prototypes=False,
        needs_linear_head=False,
        gradient=True,
        own_passes=0,
        settings=(),
        fit_read=fit,
        score_read=score,
        version=1,
    ),
)
