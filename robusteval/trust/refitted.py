"""Detectors fitted once more: their stored states are what the training data give."""

import torch

from robusteval.attacks.seeding import seeded
from robusteval.detection.registry import find
from robusteval.evidence.arrays import Arrays
from robusteval.evidence.store import Store
from robusteval.plan.context import Context
from robusteval.plan.plan import job_stream
from robusteval.run.fits import fitted_state
from robusteval.run.jobs import FAILURES
from robusteval.trust.scores import other_scores
from robusteval.trust.verify import Check

REFITTED = "detectors fitted again"


def fits_hold(context: Context, store: Store) -> list[Check]:
    """Each state that is stored, beside the same fit done now; nothing where there are none.

    That a fit failed is the run's word: its detector has no numbers that could be wrong.
    """
    jobs = [job for job in context.plan.fit_jobs() if store.has(job)]
    if not jobs:
        return []
    wrong = []
    for job in jobs:
        stored = store.read_state(job)
        try:
            with seeded(job_stream(context.spec.seed, job), torch.device(context.device)):
                now = fitted_state(context, job)
        except FAILURES as error:
            wrong.append(f"{job.label} can't be fitted now ({type(error).__name__})")
            continue
        if differ := _differ(stored, _without_setting(job.label, stored, now)):
            wrong.append(f"{job.label} has other {', '.join(differ)}")
    told = "; ".join(wrong) or ", ".join(job.label for job in jobs)
    return [Check(REFITTED, not wrong, told)]


def _without_setting(detector: str, stored: Arrays, now: Arrays) -> Arrays:
    """Older states don't tell what was chosen, and scores then go by the first setting."""
    names = {name for setting in find(detector).settings for name in setting}
    if names & stored.keys():
        return now
    return {name: array for name, array in now.items() if name not in names}


def _differ(stored: Arrays, now: Arrays) -> list[str]:
    """The parts of a state that differ by more than kernels do."""
    same = {
        name
        for name in stored.keys() & now.keys()
        if (stored[name].dtype, stored[name].shape) == (now[name].dtype, now[name].shape)
        and not other_scores(stored[name].ravel(), now[name].ravel())
    }
    return sorted((stored.keys() | now.keys()) - same)
