"""Attacks on detectors as jobs: what they leave, what is counted of it, what verification finds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.blocks import FGSM
from robusteval import api
from robusteval.detection.metrics import detection_metrics
from robusteval.detection.thresholds import threshold_at
from robusteval.evidence.files import Local
from robusteval.evidence.pursued import spread_over
from robusteval.evidence.results import RunResult, load_result
from robusteval.evidence.under_attack import attacked_places, rejections, under_attack
from robusteval.report.rows import doubts
from robusteval.trust.detectors import detector_findings
from tests.helpers.evidence import evidence_of
from tests.helpers.forging import change_rows
from tests.helpers.runs import options

SUITE = (
    'name = "guarded"\n'
    + FGSM
    + """
[detection]
detectors = ["max_softmax", "nearest_prototype"]
natural = 1
attacks = ["fgsm"]
[detection.attackers]
detectors = ["max_softmax", "nearest_prototype"]
samples = 12
passes = 60
stratified = "1/4"
"""
)
SAMPLES = 20


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("suite") / "guarded.toml"
    path.write_text(SUITE)
    return str(path)


@pytest.fixture(scope="module")
def finished(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    return api.evaluate("pcl_digits", suite, options=options(out, samples=SAMPLES)).folder


@pytest.fixture(scope="module")
def result(finished: Path) -> RunResult:
    return load_result(Local(finished))


def test_each_goal_moves_scores_to_its_side(result: RunResult) -> None:
    goals = {(o.pursuit.detector, o.pursuit.goal) for o in result.pursuits}
    assert goals == {
        (d, g) for d in ("max_softmax", "nearest_prototype") for g in ("evade", "reject", "accept")
    }
    for outcome in result.pursuits:
        before, now = outcome.rows["clean_score"], outcome.rows["score"]
        assert (outcome.rows["norm"] <= outcome.pursuit.threat.radius + 1e-6).all()
        if outcome.pursuit.goal == "reject":
            assert (now <= before).all()
        if outcome.pursuit.goal == "accept":
            assert (now >= before).all()
            assert outcome.pursuit.outliers == result.plan.outliers[0]


def test_samples_are_spread_over_the_run(result: RunResult) -> None:
    """Twelve of twenty: the first ones may all be of one class."""
    assert attacked_places(result).tolist() == [0, 1, 3, 5, 6, 8, 10, 11, 13, 15, 16, 18]
    assert spread_over(5, 3).tolist() == [0, 1, 2]
    assert spread_over(2, 0).tolist() == []
    for outcome in result.pursuits:
        if outcome.pursuit.goal != "accept":
            assert set(outcome.places) <= set(attacked_places(result))


def test_rejection_is_counted_by_hand(result: RunResult) -> None:
    for found in rejections(result):
        scores = result.clean[f"score_{found.detector}"]
        threshold = threshold_at(scores)
        assert found.threshold == threshold
        assert (scores >= threshold).mean() >= 0.95
        (fgsm,) = result.outcomes
        (evading,) = [
            o
            for o in result.pursuits
            if (o.pursuit.detector, o.pursuit.goal) == (found.detector, "evade")
        ]
        left = 0
        for row in attacked_places(result):
            fine = result.clean_correct[row] and scores[row] >= threshold
            for places, classes, of in (
                (evading.places, evading.rows["prediction"], evading.rows["score"]),
                (
                    np.flatnonzero(fgsm.attacked),
                    fgsm.prediction[fgsm.attacked],
                    fgsm.scores[found.detector],
                ),
            ):
                at = np.flatnonzero(places == row)
                fine &= not any(classes[i] != result.labels[row] and of[i] >= threshold for i in at)
            left += bool(fine)
        assert found.robust == left
        assert found.stratified is not None
        assert found.stratified <= found.robust <= found.accepted <= found.correct
        assert found.guided == found.attacked


def test_what_is_moved_lowers_the_auroc(result: RunResult) -> None:
    sides = {(s.detector, s.attacked): s for s in under_attack(result)}
    for detector in ("max_softmax", "nearest_prototype"):
        inside = sides[detector, "inliers"]
        clean = result.clean[f"score_{detector}"][attacked_places(result)]
        before = detection_metrics(clean, inside.outside)["auroc"]
        one, other, both = (
            detection_metrics(s.inside, s.outside)["auroc"]
            for s in (inside, sides[detector, "outliers"], sides[detector, "both"])
        )
        assert both <= min(one, other) <= max(one, other) <= before


def test_a_detector_below_chance_is_a_finding(result: RunResult) -> None:
    found = {f.check: f for f in detector_findings(result)}
    assert found["gradient of max_softmax"].verdict == "ok"
    assert found["detectors under attack"].verdict == "suspicious"
    assert "nearest_prototype" in found["detectors under attack"].measured


def test_order_and_workers_change_nothing(suite: str, finished: Path, tmp_path: Path) -> None:
    others = api.evaluate(
        "pcl_digits", suite, options=options(tmp_path, samples=SAMPLES, workers=2)
    )
    assert evidence_of(others.folder) == evidence_of(finished)


def test_a_lost_job_is_done_again_to_the_same_bits(finished: Path, suite: str) -> None:
    before = evidence_of(finished)
    for path in (finished / "evidence").glob("pursuit-01*"):
        path.unlink()
    out = options(finished.parent, samples=SAMPLES)
    assert api.evaluate("pcl_digits", suite, options=out).folder == finished
    assert evidence_of(finished) == before


def shift(path: Path) -> None:
    change_rows(path, score=lambda s: s + 1)


def shift_before(path: Path) -> None:
    change_rows(path, clean_score=lambda s: s - 1)


def other_classes(path: Path) -> None:
    change_rows(path, prediction=lambda p: (p + 1) % 10)


def other_images(path: Path) -> None:
    images = path.with_suffix(".safetensors")
    arrays = load_file(images)
    arrays["images"] = arrays["images"] ^ 1
    save_file(arrays, images, {"job": images.stem})


def no_images(path: Path) -> None:
    path.with_suffix(".safetensors").unlink()


@pytest.mark.parametrize("forged", [shift, shift_before, other_classes, other_images, no_images])
def test_verification_finds_what_was_forged(
    forged: Callable[[Path], None], finished: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / finished.name))
    forged(sorted((folder / "evidence").glob("pursuit-*evade*.parquet"))[0])
    api.rebuild_report(folder)
    told = {c.name: c.held for c in api.verify(folder)}
    assert told["attacks on detectors"] is False


def test_verification_holds_and_does_them_again(finished: Path) -> None:
    told = {c.name: c.held for c in api.verify(finished, again=100)}
    assert told["attacks on detectors"]
    assert told["attacks on detectors done again"]
    assert all(told.values())


def test_a_beaten_detector_casts_no_doubt_on_the_worst_case(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    told = {f["check"]: f for f in report["findings"]}
    assert told["detectors under attack"]["about"] == "detection"
    assert "detectors" not in doubts(report["findings"], report["worst_case"][0]["threat"])
    assert "suspicious" in doubts(
        [{**told["detectors under attack"], "about": "robustness"}],
        report["worst_case"][0]["threat"],
    )


def test_the_report_tells_it_in_every_form(finished: Path) -> None:
    report = api.rebuild_report(finished)
    guards, moved = report.rejection, report.under_attack
    assert list(guards.detector) == ["max_softmax", "nearest_prototype"]
    assert set(moved.attacked) == {"misclassified", "none", "outliers", "inliers", "both"}
    for text in ((finished / "report.md").read_text(), (finished / "report.html").read_text()):
        assert "Under an attacker who knows the detector" in text
        assert f"{100 * guards.robust[0]:.1f} %" in text
