"""AUTC, OSCR, FPR at any TPR and curves: against libraries, closed forms, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

from robusteval.detection.metrics import (
    HIGHEST,
    METRICS,
    OPEN_SET,
    autc,
    bootstrap_intervals,
    detection_metrics,
    fpr_at_tpr,
    oscr,
)
from robusteval.detection.rejection import accuracy_rejection, precision_recall, roc, thinned
from robusteval.vision import torchvision

RNG = np.random.default_rng(3)
INF = np.inf
CASES = {
    "overlapping": (RNG.normal(1, 1, 200), RNG.normal(0, 1, 150)),
    "many ties": (RNG.integers(0, 4, 200).astype(float), RNG.integers(-1, 3, 90).astype(float)),
    "inverted": (RNG.normal(-1, 1, 60), RNG.normal(1, 1, 50)),
    "one each": (np.array([1.0]), np.array([0.5])),
    "tiny spread": (1 + 1e-15 * RNG.integers(0, 9, 50), 1 + 1e-15 * RNG.integers(0, 9, 50)),
}
CORRECT = {name: RNG.random(len(inside)) < 0.7 for name, (inside, _) in CASES.items()}


def truth(inside: Any, outside: Any) -> tuple[Any, Any]:
    flags = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    return flags, np.concatenate([inside, outside])


def theirs(name: str, inside: Any, outside: Any, **more: Any) -> float:
    """pytorch-ood's, whose scores rise for outliers, and whose outliers have labels below 0."""
    torchvision()
    from pytorch_ood.metrics import functional

    flags, scores = truth(inside, outside)
    labels = torch.tensor(flags - 1).long()
    return float(getattr(functional, name)(torch.tensor(-scores), labels, **more))


@pytest.mark.parametrize("case", CASES)
def test_against_pytorch_ood_where_definitions_agree(case: str) -> None:
    inside, outside = CASES[case]
    found = detection_metrics(inside, outside)
    assert found["auroc"] == pytest.approx(theirs("auroc", inside, outside), abs=1e-12)
    assert found["autc"] == pytest.approx(theirs("autc", inside, outside), abs=1e-12)
    for tpr in (0.5, 0.8, 0.95, 1.0):
        # With the sides swapped and scores turned round, since its positives are outliers.
        swapped = theirs("fpr_at_tpr", -outside, -inside, tpr=tpr)
        assert fpr_at_tpr(inside, outside, tpr) == pytest.approx(swapped, abs=1e-12)
    assert fpr_at_tpr(inside, outside) == found["fpr95"]


@pytest.mark.parametrize("case", CASES)
def test_open_set_rate_against_both(case: str) -> None:
    """It is accuracy times the AUROC of the inliers that are classified correctly."""
    torchvision()
    from pytorch_ood.metrics import oscr_score

    inside, outside = CASES[case]
    correct = CORRECT[case] | (case == "one each")
    flags, scores = truth(inside, outside)
    said = np.concatenate([np.where(correct, 0, 1), np.zeros(len(outside))])
    labels = torch.tensor(flags - 1).long()
    reference = oscr_score(torch.tensor(-scores), torch.tensor(said).long(), labels)
    found = oscr(inside, outside, correct)
    assert found == pytest.approx(reference, abs=1e-12)
    right = roc_auc_score(*truth(inside[correct], outside))
    accuracy = accuracy_score(np.ones(len(correct)), correct)
    assert found == pytest.approx(accuracy * right, abs=1e-12)
    assert oscr(inside, outside, np.ones(len(inside), bool)) == pytest.approx(
        detection_metrics(inside, outside)["auroc"], abs=1e-12
    )


@pytest.mark.parametrize("case", CASES)
def test_fpr_at_any_tpr_against_scikit_learn(case: str) -> None:
    inside, outside = CASES[case]
    fpr, tpr, _ = roc_curve(*truth(inside, outside), drop_intermediate=False)
    for least in (0.0, 0.3, 0.5, 0.9, 0.99, 1.0):
        due = fpr[tpr >= least - 1e-12].min()
        assert fpr_at_tpr(inside, outside, least) == pytest.approx(due, abs=1e-12)


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0, 4.0])
def test_two_gaussians_have_closed_forms(distance: float) -> None:
    """Their quantiles in the place of draws: AUROC Φ(μ/√2), detection error Φ(−μ/2)."""
    places = norm.ppf((np.arange(3000) + 0.5) / 3000)
    inside, outside = places + distance, places
    found = detection_metrics(inside, outside, np.arange(3000) % 4 > 0)
    auroc = norm.cdf(distance / 2**0.5)
    assert found["auroc"] == pytest.approx(auroc, abs=5e-4)
    assert found["detection_error"] == pytest.approx(norm.cdf(-distance / 2), abs=5e-4)
    assert found[OPEN_SET] == pytest.approx(0.75 * auroc, abs=5e-4)
    for tpr in (0.5, 0.95):
        due = norm.cdf(norm.ppf(tpr) - distance)
        assert fpr_at_tpr(inside, outside, tpr) == pytest.approx(due, abs=2e-3)


def test_by_hand() -> None:
    """Scores 3, 2, 1 against 2.5 and 0: in [0, 1] they are 1, 2/3, 1/3 against 5/6 and 0."""
    inside, outside = [3.0, 2.0, 1.0], [2.5, 0.0]
    assert autc(inside, outside) == pytest.approx((1 - 2 / 3 + 5 / 12) / 2)
    # At 3 one right inlier and no outlier; at 2 the wrong one; at 1 two right ones and one of two.
    assert oscr(inside, outside, [True, False, True]) == pytest.approx(1 / 3 * 0.5 + 2 / 3 * 0.5)
    assert fpr_at_tpr(inside, outside, 1 / 3) == 0
    assert fpr_at_tpr(inside, outside, 0.34) == 0.5


# Degenerate scores


def test_equal_scores_are_chance() -> None:
    found = detection_metrics(np.full(8, 2.0), np.full(4, 2.0), np.arange(8) < 6)
    assert found["auroc"] == found["autc"] == found["detection_error"] == 0.5
    assert (found["fpr95"], found[OPEN_SET]) == (1.0, 0.375)
    assert found["aupr_in"] == pytest.approx(8 / 12)


@pytest.mark.parametrize(
    ("inside", "outside", "auroc", "area"),
    [
        ([INF, 1.0, 2.0], [-INF, 0.0], 1.0, (1 - 2 / 3 + 1 / 4) / 2),
        ([INF, 0.0], [0.0], 0.75, (1 - 1 / 2) / 2),
        ([-INF, 0.0], [5.0, 0.0], 0.125, (1 - 1 / 2 + 1) / 2),
        ([INF], [INF], 0.5, 0.5),
        ([-INF], [INF], 0.0, 1.0),
    ],
)
def test_infinite_scores_are_ranked(
    inside: list[float], outside: list[float], auroc: float, area: float
) -> None:
    """For AUTC they stand for very large ones."""
    found = detection_metrics(inside, outside)
    assert found["auroc"] == auroc
    assert found["autc"] == pytest.approx(area)
    large = [np.clip(side, -1e12, 1e12) for side in (inside, outside)]
    if any(large[0] != large[0][0]) or large[0][0] != large[1][0]:
        assert theirs("autc", *large) == pytest.approx(area, abs=1e-9)
    finite = detection_metrics(*large)
    assert all(found[name] == finite[name] for name in set(METRICS) - {"autc"})


def test_the_largest_numbers_do_not_overflow() -> None:
    most = np.finfo(float).max
    assert detection_metrics([most, 0.0], [-most, 0.0])["autc"] == pytest.approx(0.25)


def test_what_can_not_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="2 of 4 scores are NaN: only finite and infinite ones"):
        detection_metrics([np.nan, 1.0], [np.nan, 2.0])
    for inside, outside in (([], [1.0]), ([1.0], [])):
        for metric in (detection_metrics, autc, fpr_at_tpr):
            with pytest.raises(ValueError, match="samples on both sides"):
                metric(inside, outside)
    for tpr in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="a share from 0 to 1"):
            fpr_at_tpr([1.0], [0.0], tpr)
    for correct in ([True], [1, 0], np.ones((2, 1), bool)):
        with pytest.raises(ValueError, match="True or False for each of the 2 samples"):
            oscr([1.0, 2.0], [0.0], correct)


# Intervals


@pytest.mark.parametrize("case", ["overlapping", "many ties", "inverted"])
def test_every_metric_has_an_interval(case: str) -> None:
    inside, outside = CASES[case]
    values = detection_metrics(inside, outside, CORRECT[case])
    found = bootstrap_intervals(inside, outside, CORRECT[case], seed=1, resamples=60)
    assert found is not None
    assert set(found) == {*METRICS, OPEN_SET}
    for name, (low, high) in found.items():
        assert 0 <= low < high <= HIGHEST.get(name, 1.0), name
        assert low <= values[name] <= high, name
    # Those of scores alone are the same whether or not classes are known.
    alone = bootstrap_intervals(inside, outside, seed=1, resamples=60)
    assert alone == {name: found[name] for name in METRICS}


def test_intervals_of_the_open_set_rate_cover_the_truth() -> None:
    """Two Gaussians, 40 samples each, four of five classified correctly."""
    held, due = 0, 0.8 * norm.cdf(2 / 2**0.5)
    for seed in range(40):
        random = np.random.default_rng(seed)
        sides = random.normal(2, 1, 40), random.normal(0, 1, 40), random.random(40) < 0.8
        found = bootstrap_intervals(*sides, seed=seed, resamples=60)
        assert found is not None
        held += found[OPEN_SET][0] <= due <= found[OPEN_SET][1]
    assert held >= 0.9 * 40


# Curves


def test_accuracy_rejection_by_hand() -> None:
    """Ties are rejected together: of scores 1, 2, 2, 5 first one, then three."""
    correct = np.array([False, True, False, True])
    rejected, accuracy = accuracy_rejection(np.array([1.0, 2.0, 2.0, 5.0]), correct)
    assert rejected.tolist() == [0, 0.25, 0.75]
    assert accuracy.tolist() == pytest.approx([0.5, 2 / 3, 1.0])
    equal = accuracy_rejection(np.ones(4), correct)
    assert [side.tolist() for side in equal] == [[0.0], [0.5]]
    assert [len(side) for side in accuracy_rejection(np.empty(0), np.empty(0, bool))] == [0, 0]


def test_curves_are_scikit_learns_and_are_thinned() -> None:
    inside, outside = CASES["overlapping"]
    fpr, tpr, _ = roc_curve(*truth(inside, outside), drop_intermediate=False)
    x, y = roc(inside, outside)
    np.testing.assert_allclose(x, fpr, atol=1e-12)
    np.testing.assert_allclose(y, tpr, atol=1e-12)
    recall, precision = precision_recall(inside, outside)
    found = detection_metrics(inside, outside)
    area = np.sum(np.diff(recall, prepend=0) * precision)
    assert area == pytest.approx(found["aupr_in"], abs=1e-12)
    short = thinned((x, y), 20)
    assert 2 <= len(short) <= 22
    assert (short[0], short[-1]) == ([0, 0], [1, 1])
    assert np.trapezoid(*np.transpose(short)[::-1]) == pytest.approx(found["auroc"], abs=0.02)
