"""What detectors are worth against an attacker who knows them, from a run's evidence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robusteval.detection.thresholds import threshold_at
from robusteval.evidence.columns import SCORE
from robusteval.evidence.pursued import PursuitOutcome, spread_over
from robusteval.evidence.results import RunResult
from robusteval.evidence.separations import Bools, Scores
from robusteval.types import Goal, ThreatModel

Attacked = Literal["misclassified", "none", "inliers", "outliers", "both"]


@dataclass(frozen=True)
class UnderAttack:
    """One detector's scores where an attacker who knows it has moved one side, both, or, for
    comparison on the same images, ``none``.

    ``misclassified``: correct clean inliers against the most accepted image of each that some
    image in the ball gets misclassified (``outliers`` is empty then).
    """

    detector: str
    threat: ThreatModel
    attacked: Attacked
    outliers: str
    inside: Scores
    outside: Scores


@dataclass(frozen=True)
class Rejection:
    """One detector as the model's guard: it rejects scores below the threshold that accepts a share
    ``thresholds.TPR`` of all clean samples.

    Of ``samples`` of the run: ``correct`` are classified right, ``accepted`` also accepted; of
    these ``robust`` are left, for which no image in the ball was found that is misclassified and
    accepted.  ``unguarded``: those for which none was found that is misclassified.  ``stratified``:
    those of ``robust`` that stay accepted within ``inner``, the suite's share of ε; None where it
    names none.
    ``guided``: of ``attacked`` samples, those where the score has a gradient.
    """

    detector: str
    threat: ThreatModel
    threshold: float
    samples: int
    correct: int
    accepted: int
    robust: int
    unguarded: int
    stratified: int | None
    inner: ThreatModel | None
    guided: int
    attacked: int


def rejections(result: RunResult) -> list[Rejection]:
    """One for each detector and threat under which an attack tried to have errors accepted."""
    return [_rejection(result, outcome) for outcome in _of(result, "evade")]


def _rejection(result: RunResult, outcome: PursuitOutcome) -> Rejection:
    name, threat = outcome.pursuit.detector, outcome.pursuit.threat
    scores, places = clean_scores(result, name), attacked_places(result)
    threshold = threshold_at(scores)
    wrong, fooled = _broken(result, outcome, threshold)
    accepted = result.clean_correct & (scores >= threshold)
    correct, accepted = result.clean_correct[places], accepted[places]
    robust = accepted & ~fooled[places]
    return Rejection(
        name,
        threat,
        threshold,
        len(places),
        int(correct.sum()),
        int(accepted.sum()),
        int(robust.sum()),
        int((correct & ~wrong[places]).sum()),
        *_stratified(result, name, threat, threshold, robust),
        outcome.guided,
        len(outcome.places),
    )


def _broken(result: RunResult, outcome: PursuitOutcome, threshold: float) -> tuple[Bools, Bools]:
    """Of the run's samples (N,): for which an image is misclassified, and for which one is so and
    accepted; by the attack that knows the detector, or by any whose images it scored."""
    name, threat = outcome.pursuit.detector, outcome.pursuit.threat
    wrong, fooled = np.zeros((2, len(result.labels)), bool)
    mispredicted = outcome.rows["prediction"] != result.labels[outcome.places]
    wrong[outcome.places] |= mispredicted
    fooled[outcome.places] |= mispredicted & (outcome.rows["score"] >= threshold)
    for other in result.outcomes:
        if threat not in other.cell.threats:
            continue
        success = other.success(threat)
        wrong |= success
        if (scored := other.scores.get(name)) is not None and other.status == "done":
            accepted = np.zeros(len(success), bool)
            accepted[other.attacked] = scored >= threshold
            fooled |= success & accepted
    return wrong, fooled


def _stratified(
    result: RunResult, name: str, threat: ThreatModel, threshold: float, robust: Bools
) -> tuple[int | None, ThreatModel | None]:
    """How many robust samples stay accepted in the smaller ball, and that ball."""
    for outcome in _of(result, "reject"):
        inner = outcome.pursuit.threat
        if outcome.pursuit.detector == name and inner.norm == threat.norm and inner != threat:
            kept = outcome.rows["score"] >= threshold  # of the same samples, in the same order
            return int((robust & kept).sum()), inner
    return None, None


def under_attack(result: RunResult) -> Iterator[UnderAttack]:
    """Misclassified inliers that are to be accepted; then of each set of outliers neither side
    moved, outliers, inliers, both."""
    for outcome in _of(result, "evade"):
        yield _misclassified(result, outcome)
    rejected = {(o.pursuit.detector, o.pursuit.threat): o for o in _of(result, "reject")}
    for outcome in _of(result, "accept"):
        name, threat, outliers = (
            outcome.pursuit.detector,
            outcome.pursuit.threat,
            outcome.pursuit.outliers,
        )
        inside = clean_scores(result, name)[attacked_places(result)]
        outside = outcome.rows["score"]
        still = outcome.rows["clean_score"]
        yield UnderAttack(name, threat, "none", outliers, inside, still)
        yield UnderAttack(name, threat, "outliers", outliers, inside, outside)
        if lower := rejected.get((name, threat)):
            low = lower.rows["score"]
            yield UnderAttack(name, threat, "inliers", outliers, low, still)
            yield UnderAttack(name, threat, "both", outliers, low, outside)


def _misclassified(result: RunResult, outcome: PursuitOutcome) -> UnderAttack:
    name, rows = outcome.pursuit.detector, outcome.rows
    wrong = rows["prediction"] != result.labels[outcome.places]
    inside = rows["clean_score"]
    return UnderAttack(
        name, outcome.pursuit.threat, "misclassified", "", inside, rows["score"][wrong]
    )


def attacked_places(result: RunResult) -> NDArray[np.int64]:
    """The run's samples that attackers of detectors take."""
    return spread_over(result.spec.suite.detection.attackers.samples, result.spec.samples)


def clean_scores(result: RunResult, detector: str) -> NDArray[np.float64]:
    """(N,) A detector's scores of all clean samples."""
    found: Mapping[str, NDArray[np.float64]] = result.clean
    return found[SCORE + detector]


def _of(result: RunResult, goal: Goal) -> Iterator[PursuitOutcome]:
    return (o for o in result.pursuits if o.pursuit.goal == goal)
