"""What attacks that know a detector came to, read from a run's evidence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.evidence.store import Store
from robusteval.plan.plan import Job, Plan, Pursuit


@dataclass(frozen=True)
class PursuitOutcome:
    """One attack on a detector.

    ``rows``: its columns by name, (B,) each; ``places`` (B,): of its samples among the run's, or
    in the set of outliers; ``guided``: for how many the score had a gradient.
    """

    pursuit: Pursuit
    rows: Mapping[str, NDArray[Any]]
    places: NDArray[np.int64]
    guided: int


def spread_over(count: int, total: int) -> NDArray[np.int64]:
    """At most ``count`` places, evenly spread over so many: data may be sorted by class.

    >>> spread_over(3, 10).tolist()
    [0, 3, 6]
    """
    count = min(count, total)
    return np.arange(count, dtype=np.int64) * total // max(count, 1)


def places_of(
    pursuit: Pursuit, samples: int, correct: NDArray[np.bool_], outliers: Mapping[str, int]
) -> NDArray[np.int64]:
    """The samples that an attack on a detector takes, in order.

    So many ``samples``, spread over a set of outliers, of which there are so many, or over the
    run's, of which some are ``correct`` (N,); to be misclassified only those.
    """
    if pursuit.goal == "accept":
        return spread_over(samples, outliers[pursuit.outliers])
    places = spread_over(samples, len(correct))
    return places[correct[places]] if pursuit.goal == "evade" else places


def pursuit_outcome(
    store: Store,
    job: Job,
    plan: Plan,
    asked: int,
    clean: Mapping[str, NDArray[Any]],
    outliers: Mapping[str, int],
) -> PursuitOutcome:
    """One's outcome.  Raises EvidenceError for rows of other samples than this run's."""
    pursuit, piece = plan.pursuits[job.part], store.read(job)
    places = places_of(pursuit, asked, clean["label"] == clean["prediction"], outliers)
    due = places if pursuit.goal == "accept" else clean["index"][places]
    if not np.array_equal(piece.columns["index"], due):
        raise store.unusable(job, "it tells of other samples than this run's")
    return PursuitOutcome(pursuit, piece.columns, places, piece.facts["guided"])
