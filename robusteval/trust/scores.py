"""Detectors' scores, asked again."""

from typing import Any

import numpy as np

from robusteval.evidence.kept import kept_images
from robusteval.evidence.results import RunResult
from robusteval.evidence.store import Store
from robusteval.plan.context import Context
from robusteval.run.scoring import clean_scores, outlier_scores, score_columns, states_of

SAME_SCORE = 1e-3  # relative; kernels differ with the batch in the last bits


def scores_hold(context: Context, store: Store, result: RunResult) -> tuple[bool, str]:
    """What the detectors say of clean images, of outliers and of stored images, asked again."""
    wrong = total = 0
    for job in [*context.plan.clean_jobs(), *context.plan.other_jobs()]:
        if not store.has(job) or job.kind in ("diagnostics", "pursuit"):
            continue
        columns = store.read(job).columns
        clean = job.kind == "clean"
        now = (clean_scores if clean else outlier_scores)(context, store, job)
        for name, values in now.items():
            wrong, total = wrong + other_scores(columns.get(name, ()), values), total + len(values)
    for batch in kept_images(context, store):
        names = batch.job.scored_by
        states = states_of(store, context.plan, names)
        for column, values in score_columns(context, states, names, batch.images).items():
            claimed = batch.columns[column][batch.places]
            wrong, total = wrong + other_scores(claimed, values), total + len(values)
    told = f"{total} scores" + (f", {wrong} other than stored" if wrong else "")
    return wrong == 0, told


def other_scores(claimed: Any, now: Any) -> int:
    """How many scores differ by more than kernels do."""
    if len(claimed) != len(now):
        return max(len(claimed), len(now))
    scale = max(float(np.abs(now[np.isfinite(now)]).max(initial=0.0)), 1e-12)
    same = np.isclose(claimed, now, rtol=SAME_SCORE, atol=SAME_SCORE * scale, equal_nan=True)
    return int((~same).sum())
