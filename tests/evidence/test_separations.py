"""Readings of attack detection on hand-made outcomes: paper, strict, and the worst over attacks."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest

from robusteval.evidence.separations import (
    Clean,
    Separation,
    attacked_by_all,
    detected_under,
    of_attacks,
    of_outliers,
    of_worst_case,
)
from robusteval.types import ThreatModel, parse_eps

NARROW, WIDE = (ThreatModel("Linf", parse_eps(eps)) for eps in ("0.1", "0.2"))
# Six samples: the last one is misclassified from the start, so that nothing attacks it.
CORRECT = np.array([True] * 5 + [False])
CLEAN = Clean(CORRECT, {"d": np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])})


class Spec(NamedTuple):
    name: str
    title: str


class Cell(NamedTuple):
    spec: Spec
    threats: tuple[ThreatModel, ...]
    key: str


@dataclass
class Made:
    """An attack that broke samples at distances, and what the detector says of its images."""

    name: str
    distances: list[float]  # ∞: not broken; of the five attacked samples
    images: list[float]
    threats: tuple[ThreatModel, ...] = (NARROW,)
    status: str = "done"
    attacked: Any = field(default_factory=CORRECT.copy)

    @property
    def cell(self) -> Any:
        key = f"{self.name}/{self.threats[0] if len(self.threats) == 1 else 'Linf'}"
        return Cell(Spec(self.name, self.name.upper()), self.threats, key)

    @property
    def scores(self) -> dict[str, Any]:
        return {"d": np.array(self.images)} if self.status == "done" else {}

    def success(self, threat: ThreatModel) -> Any:
        found = np.zeros(6, bool)
        found[:5] = np.array(self.distances) <= threat.radius
        return found


INF = float("inf")
A = Made("a", [0.1, 0.1, INF, INF, 0.1], [1.0, 5.0, 2.0, 3.0, 4.0])
B = Made("b", [0.1, INF, 0.1, INF, 0.1], [6.0, 9.5, 3.0, 2.5, 3.5])
FREE = Made("c", [0.05, 0.15, 0.15, INF, INF], [0.0, 7.5, 6.5, 8.5, 9.0], (NARROW, WIDE))


def read(found: list[Separation], reading: str, against: str) -> Separation:
    (one,) = (s for s in found if (s.reading, s.against) == (reading, against))
    return one


def test_each_reading_has_its_samples() -> None:
    found = list(of_attacks(CLEAN, [A, B]))  # type: ignore[list-item]
    strict = read(found, "strict", "a/Linf 0.1")
    assert strict.inside.tolist() == [9, 8, 7, 6, 5]  # classified correctly
    assert strict.outside.tolist() == [1, 5, 4]  # and broken
    assert strict.correct.all()
    paper = read(found, "paper", "a/Linf 0.1")
    assert paper.inside.tolist() == [9, 8, 7, 6, 5, 4]  # the whole test set
    assert paper.outside.tolist() == [1, 5, 2, 3, 4]  # every attacked image
    assert paper.correct.tolist() == CORRECT.tolist()


def test_the_worst_case_is_the_most_trusted_image_of_those_that_broke_a_sample() -> None:
    (found,) = of_worst_case(CLEAN, [A, B], [NARROW], {"a", "b"})  # type: ignore[list-item]
    assert (found.kind, found.reading, found.against, found.missing) == (
        *("attack_detection", "worst_case", "worst_case/Linf 0.1"),
        "",
    )
    # Sample 0: both broke it; 1: a alone, so that b's 9.5 does not count; 2: b alone; 4: both.
    assert found.outside.tolist() == [6, 5, 3, 4]
    assert found.inside.tolist() == [9, 8, 7, 6, 5]


def test_a_detector_counts_only_if_it_catches_every_attack() -> None:
    """At a threshold that keeps all of 5 and above, a's and b's images of sample 0 differ."""
    (both,) = of_worst_case(CLEAN, [A, B], [NARROW], {"a", "b"})  # type: ignore[list-item]
    alone = read(list(of_attacks(CLEAN, [A])), "strict", "a/Linf 0.1")  # type: ignore[list-item]
    assert (alone.outside >= 5).sum() == 1
    assert (both.outside >= 5).sum() == 2


def test_only_detected_attacks_of_the_threat_count() -> None:
    outcomes: list[Any] = [A, B, FREE]
    (narrow, wide) = of_worst_case(CLEAN, outcomes, [NARROW, WIDE], {"a", "c"})
    assert narrow.outside.tolist() == [1, 5, 4]  # c broke sample 0 with an image of score 0
    assert (wide.against, wide.outside.tolist()) == ("worst_case/Linf 0.2", [0, 7.5, 6.5])
    assert list(of_worst_case(CLEAN, outcomes, [NARROW], set())) == []
    assert [o.name for o in detected_under(outcomes, WIDE, {"a", "b", "c"})] == ["c"]


def test_an_attack_that_did_not_finish_leaves_no_worst_case() -> None:
    failed = Made("b", [INF] * 5, [], status="failed")
    outcomes: list[Any] = [A, failed]
    (found,) = of_worst_case(CLEAN, outcomes, [NARROW], {"a", "b"})
    assert (found.missing, len(found.outside)) == ("B did not finish", 0)
    assert {s.against for s in of_attacks(CLEAN, outcomes)} == {"a/Linf 0.1"}
    assert attacked_by_all(outcomes, "d", NARROW) is None
    assert attacked_by_all([], "d", NARROW) is None


def test_samples_that_held_count_with_the_least_trusted_image() -> None:
    found = attacked_by_all([A, B], "d", NARROW)  # type: ignore[list-item]
    assert found is not None
    assert found.broken.tolist() == [True, True, True, False, True, False]
    assert found.least_trusted[3] == 2.5
    assert found.most_trusted[[0, 1, 2, 4]].tolist() == [6, 5, 3, 4]


def test_nothing_broken_is_an_empty_side() -> None:
    none: Any = Made("a", [INF] * 5, [1.0] * 5)
    assert len(read(list(of_attacks(CLEAN, [none])), "strict", "a/Linf 0.1").outside) == 0
    (worst,) = of_worst_case(CLEAN, [none], [NARROW], {"a"})
    assert (len(worst.outside), worst.missing) == (0, "")


def test_outliers_stand_against_all_inliers() -> None:
    (found,) = of_outliers(CLEAN, {"noise": {"d": np.array([1.0, 2.0])}})
    assert found.inside.tolist() == CLEAN.scores["d"].tolist()
    assert (found.reading, found.outside.tolist()) == ("", [1, 2])
    assert found.correct.sum() == pytest.approx(5)
