"""A detector's fit: a job like any other, whose state is evidence."""

from robusteval.detection.record import stored_form
from robusteval.detection.registry import find
from robusteval.evidence.arrays import Arrays
from robusteval.plan.context import Context
from robusteval.plan.plan import Job


def fitted_state(context: Context, job: Job) -> Arrays:
    """The state of a detector that is fitted to the run's training data.

    Raises EvidenceError or DataError where they are not the run's, or are gone; whatever else is
    raised is the detector's.
    """
    detector = find(job.label)
    read = context.training_reads.read(detector.reads)
    labels = context.fitting_data.labels.to(context.device)
    state = stored_form(detector.fit_to(context.model, read, labels))
    return {name: tensor.numpy() for name, tensor in state.items()}
