"""A detector's fit: a job like any other, whose state is evidence."""

from torch import Tensor

from robusteval.detection.registry import find
from robusteval.evidence.arrays import Arrays
from robusteval.plan.context import Context
from robusteval.plan.plan import Job

_BATCH = 250  # images


def fitted_state(context: Context, job: Job) -> Arrays:
    """The state of a detector that is fitted to the run's training data.

    Raises EvidenceError or DataError where they are not the run's, or are gone; whatever else is
    raised is the detector's.
    """
    data = context.fitting_data
    rows = range(0, len(data), _BATCH)
    batches = (_on(context, data.images(slice(i, i + _BATCH))) for i in rows)
    state = find(job.label).fit(context.model, batches, _on(context, data.labels))
    return {name: tensor.numpy() for name, tensor in state.items()}


def _on(context: Context, tensor: Tensor) -> Tensor:
    return tensor.to(context.device)
