"""Which of a detector's settings tells training data best from outliers that no test set holds."""

from collections.abc import Mapping

import torch
from torch import Tensor

from robusteval.detection.metrics import detection_metrics
from robusteval.detection.reading import Read, count_of, taken
from robusteval.detection.record import Detector, State
from robusteval.errors import ScoreError
from robusteval.models.adapter import Adapter

HELD_OUT = 5  # one of so many samples of each class
_BATCH = 250  # images
_MOST_IMAGES = 250  # of each side, where each setting asks the model anew


@torch.no_grad()
def best_setting(
    detector: Detector, model: Adapter, read: Read, labels: Tensor, outliers: Read
) -> Mapping[str, float]:
    """The setting with the best AUROC of a held-out fifth of what was read of training data, with
    its labels (N,), against outliers; each is fitted to the rest.  The first of equals.

    A setting that can't be fitted, or scores NaN, is passed over; where all are, it is the first.
    """
    held = held_out(labels)
    rest, inside = taken(read, ~held), taken(read, held)
    if detector.reads == "images":
        inside, outliers = _some(inside), _some(outliers)
    best, chosen = -1.0, detector.settings[0]
    for setting in detector.settings:
        try:
            state = detector.fit_to(model, rest, labels[~held], setting)
            sides = [_scores(detector, state, model, side) for side in (inside, outliers)]
        except (ValueError, ScoreError):
            continue
        if (auroc := detection_metrics(*sides)["auroc"]) > best:
            best, chosen = auroc, setting
    return chosen


def held_out(labels: Tensor) -> Tensor:
    """(N,) Every fifth sample of each class."""
    places = torch.zeros_like(labels)
    for label in labels.unique():
        of_class = labels == label
        places[of_class] = torch.arange(1, int(of_class.sum()) + 1, device=labels.device)
    return places % HELD_OUT == 0


def _some(read: Read) -> Read:
    """At most 250 of them, spread evenly."""
    count = count_of(read)
    step = max(1, -(-count // _MOST_IMAGES))
    return taken(read, torch.arange(0, count, step))


def _scores(detector: Detector, state: State, model: Adapter, read: Read) -> Tensor:
    rows = torch.arange(count_of(read)).split(_BATCH)
    return torch.cat([detector.score_of(state, model, taken(read, part)) for part in rows])


def setting_of(detector: Detector, state: Mapping[str, object]) -> dict[str, float]:
    """The setting that a state was fitted with; empty where there was nothing to choose."""
    names = detector.settings[0] if len(detector.settings) > 1 else ()
    return {name: float(state[name]) for name in names if name in state}  # type: ignore[arg-type]
