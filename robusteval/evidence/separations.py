"""What detectors are asked to tell apart: outliers from inliers, attacked images from clean ones.

Attacked images are read in three ways.  ``paper``: the whole test set against every attacked image,
whether or not it fools the model, as papers count.  ``strict``: clean images that are classified
correctly against those that fool the model within the threat.  ``worst_case``: the same over all
detected attacks of a threat, as robust accuracy has it: of a sample that any of them broke, the
image that the detector trusts most of those that broke it.  A detector that misses one attack of
three misses that sample.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from robusteval.plan.plan import Cell
from robusteval.types import ThreatModel

Bools = NDArray[np.bool_]
Scores = NDArray[np.float64]
Reading = Literal["", "paper", "strict", "worst_case"]
WORST: Literal["worst_case"] = "worst_case"
SCORE_OF_CONFIDENCE = "max_softmax"  # the detector whose score is the largest probability


@dataclass(frozen=True)
class Separation:
    """Scores of one detector on in-distribution samples and on what it should tell apart.

    ``correct``: which of the inside's classes are right.  ``reading``: which of the attacked images
    are meant, nothing for outliers.  ``missing``: why there are no scores of the outside.
    """

    kind: Literal["outliers", "attack_detection"]
    detector: str
    against: str
    inside: Scores
    outside: Scores
    correct: Bools
    reading: Reading = ""
    missing: str = ""


class Outcome(Protocol):
    """What is asked of an attack's outcome: ``evidence.results.CellOutcome``."""

    @property
    def cell(self) -> Cell: ...
    @property
    def status(self) -> str: ...
    @property
    def attacked(self) -> Bools: ...
    @property
    def scores(self) -> dict[str, Scores]: ...
    def success(self, threat: ThreatModel) -> Bools:
        """(N,) Samples that it broke."""


@dataclass(frozen=True)
class Clean:
    """Clean samples: whether each is classified correctly, and each detector's scores."""

    correct: Bools
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class Attacked:
    """What one attack left of N samples, for one detector; −∞ and +∞ where it has no image."""

    broken: Bools
    most_trusted: Scores  # of a broken sample
    least_trusted: Scores  # of one that it attacked and did not break

    @classmethod
    def of(cls, outcome: Outcome, detector: str, threat: ThreatModel) -> "Attacked":
        """By an attack whose images were scored."""
        broken, attacked = outcome.success(threat), outcome.attacked
        scores = np.full(len(attacked), np.nan)
        scores[attacked] = outcome.scores[detector]
        held = attacked & ~broken
        return cls(broken, np.where(broken, scores, -np.inf), np.where(held, scores, np.inf))

    def joined(self, other: "Attacked") -> "Attacked":
        """By both attacks."""
        return Attacked(
            self.broken | other.broken,
            np.maximum(self.most_trusted, other.most_trusted),
            np.minimum(self.least_trusted, other.least_trusted),
        )


def attacked_by_all(
    outcomes: Sequence[Outcome], detector: str, threat: ThreatModel
) -> Attacked | None:
    """What all detected attacks of a threat left together; None without any, or where one did not
    finish."""
    if not outcomes or any(o.status != "done" or detector not in o.scores for o in outcomes):
        return None
    whole = Attacked.of(outcomes[0], detector, threat)
    for outcome in outcomes[1:]:
        whole = whole.joined(Attacked.of(outcome, detector, threat))
    return whole


def detected_under(
    outcomes: Sequence[Any], threat: ThreatModel, detected: AbstractSet[str]
) -> list[Any]:
    """The outcomes of a threat whose images the detectors score."""
    return [o for o in outcomes if o.cell.spec.name in detected and threat in o.cell.threats]


def of_outliers(clean: Clean, outliers: dict[str, dict[str, Scores]]) -> Iterator[Separation]:
    """Each set of outliers, by each detector."""
    for against, by_detector in outliers.items():
        for name, values in by_detector.items():
            yield Separation("outliers", name, against, clean.scores[name], values, clean.correct)


def of_attacks(clean: Clean, outcomes: Sequence[Outcome]) -> Iterator[Separation]:
    """Each finished attack, strictly and as papers count."""
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    correct = clean.correct
    for outcome in done:
        broken = outcome.success(outcome.cell.threats[0])[outcome.attacked]
        key, all_right = outcome.cell.key, correct[correct]
        for name, values in outcome.scores.items():
            own = clean.scores[name]
            yield Separation(
                "attack_detection", name, key, own[correct], values[broken], all_right, "strict"
            )
        for name, values in outcome.scores.items():
            own = clean.scores[name]
            yield Separation("attack_detection", name, key, own, values, correct, "paper")


def of_worst_case(
    clean: Clean,
    outcomes: Sequence[Outcome],
    threats: Sequence[ThreatModel],
    detected: AbstractSet[str],
) -> Iterator[Separation]:
    """All detected attacks of each threat together, by each detector; without scores where one of
    them did not finish."""
    correct = clean.correct
    for threat in threats:
        meant = detected_under(outcomes, threat, detected)
        unfinished = [o.cell.spec.title for o in meant if o.status != "done"]
        missing = f"{', '.join(unfinished)} did not finish" if unfinished else ""
        for name, own in clean.scores.items() if meant else ():
            found = attacked_by_all(meant, name, threat)
            outside = found.most_trusted[found.broken] if found else np.empty(0)
            yield Separation(
                "attack_detection",
                name,
                f"{WORST}/{threat}",
                own[correct],
                outside,
                correct[correct],
                WORST,
                missing,
            )
