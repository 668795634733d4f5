"""A detector's fit: a job like any other, whose state is evidence."""

from robusteval.detection.record import stored_form
from robusteval.detection.registry import find
from robusteval.detection.tuning import best_setting
from robusteval.evidence.arrays import Arrays
from robusteval.plan.context import Context
from robusteval.plan.plan import Job


def fitted_state(context: Context, job: Job) -> Arrays:
    """The state of a detector that is fitted to the run's training data.

    Raises EvidenceError or DataError where they are not the run's, or are gone; whatever else is
    raised is the detector's.
    """
    detector, model = find(job.label), context.model
    read = context.training_reads.read(detector.reads)
    labels = context.fitting_data.labels.to(context.device)
    setting = None
    if len(detector.settings) > 1 and context.tuning_reads is not None:
        outliers = context.tuning_reads.read(detector.reads)
        setting = best_setting(detector, model, read, labels, outliers)
    state = stored_form(detector.fit_to(model, read, labels, setting))
    return {name: tensor.numpy() for name, tensor in state.items()}
