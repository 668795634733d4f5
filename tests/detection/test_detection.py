"""Metrics against scikit-learn and pytorch-ood; detectors keep the one sign convention."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robusteval.detection.metrics import METRICS, bootstrap_intervals, detection_metrics
from robusteval.detection.registry import DETECTORS, find
from robusteval.detection.scoring import scores
from robusteval.vision import torchvision
from tests.helpers.known import pixel_prototypes
from tests.helpers.models import linear_model

pytestmark = pytest.mark.usefixtures("as_in_use")

RNG = np.random.default_rng(0)
CASES = {
    "overlapping": (RNG.normal(1, 1, 400), RNG.normal(0, 1, 300)),
    "many ties": (RNG.integers(0, 4, 500).astype(float), RNG.integers(-1, 3, 200).astype(float)),
    "inverted": (RNG.normal(-1, 1, 100), RNG.normal(1, 1, 100)),
    "separated": (np.arange(10.0, 20), np.arange(0.0, 10)),
    "constant": (np.ones(50), np.ones(70)),
    "one each": (np.array([1.0]), np.array([0.5])),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_against_scikit_learn(case: str) -> None:
    inside, outside = CASES[case]
    truth = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    values = np.concatenate([inside, outside])
    found = detection_metrics(inside, outside)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert found["aupr_in"] == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    aupr_out = average_precision_score(1 - truth, -values)
    assert found["aupr_out"] == pytest.approx(aupr_out, abs=1e-12)
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(fpr[tpr >= 0.95 - 1e-12].min(), abs=1e-12)
    assert found["detection_error"] == pytest.approx(((1 - tpr + fpr) / 2).min(), abs=1e-12)


def test_metrics_against_pytorch_ood() -> None:
    torchvision()
    from pytorch_ood.metrics import OODMetrics

    inside, outside = CASES["overlapping"]
    reference = OODMetrics()
    reference.update(
        torch.tensor(-np.concatenate([inside, outside])),
        torch.tensor([0] * len(inside) + [-1] * len(outside)),
    )
    theirs, ours = reference.compute(), detection_metrics(inside, outside)
    assert ours["auroc"] == pytest.approx(theirs["AUROC"], abs=1e-3)
    assert ours["fpr95"] == pytest.approx(theirs["FPR95TPR"], abs=0.02)
    assert ours["aupr_in"] == pytest.approx(theirs["AUPR-IN"], abs=0.01)
    assert ours["aupr_out"] == pytest.approx(theirs["AUPR-OUT"], abs=0.01)


def test_by_hand() -> None:
    found = detection_metrics(np.array([3.0, 2.0, 1.0]), np.array([2.5, 0.0]))
    assert found["auroc"] == pytest.approx(4 / 6)
    assert found["fpr95"] == 0.5
    assert found["detection_error"] == pytest.approx(0.25)


def test_a_good_detector_scores_high() -> None:
    found = detection_metrics(*CASES["separated"])
    # AUTC: mean scores 14.5 and 4.5 between 0 and 19
    assert [found[m] for m in METRICS[:-1]] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert found["autc"] == pytest.approx((1 - 10 / 19) / 2)


def test_unusable_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        detection_metrics(np.array([]), np.array([1.0]))
    with pytest.raises(ValueError, match="finite"):
        detection_metrics(np.array([np.nan]), np.array([1.0]))


def test_bootstrap_intervals_cover_and_repeat() -> None:
    inside, outside = CASES["overlapping"]
    values = detection_metrics(inside, outside)
    intervals = bootstrap_intervals(inside, outside, seed=1)
    for name in METRICS:
        low, high = intervals[name]
        assert low <= values[name] <= high
        assert high - low < 0.25
    assert intervals == bootstrap_intervals(inside, outside, seed=1)
    # Hanley & McNeil's standard error of an AUROC, an independent answer for the width
    a = values["auroc"]
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    n, m = len(inside), len(outside)
    variance = (a * (1 - a) + (n - 1) * (q1 - a * a) + (m - 1) * (q2 - a * a)) / (n * m)
    width = intervals["auroc"][1] - intervals["auroc"][0]
    assert width == pytest.approx(2 * 1.96 * variance**0.5, rel=0.25)


def normal(distance: float, inside: int, outside: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(distance, 1, inside), random.normal(0, 1, outside)


@pytest.mark.parametrize("distance", [-9, -3, -1, 0, 1, 3, 9])
@pytest.mark.parametrize("sizes", [(10, 10), (100, 30), (30, 300)])
@pytest.mark.parametrize("decimals", [0, 9])
def test_intervals_hold_their_estimates(
    distance: float, sizes: tuple[int, int], decimals: int
) -> None:
    """Separated both ways, overlapping, with ties and without."""
    inside, outside = (s.round(decimals) for s in normal(distance, *sizes, seed=1))
    values = detection_metrics(inside, outside)
    intervals = bootstrap_intervals(inside, outside, seed=1, resamples=60)
    assert set(intervals) == set(values) == set(METRICS)
    for name, (low, high) in intervals.items():
        assert 0 <= low <= values[name] <= high <= (0.5 if name == "detection_error" else 1)
        assert low < high  # nothing is certain


def test_a_percentile_interval_of_inverted_scores_would_miss_its_estimate() -> None:
    """Doubles among resampled scores raise average precision: 30.9 % was told as [31.1, 31.7]."""
    inside, outside = normal(-9, 100, 100, seed=0)
    value = detection_metrics(inside, outside)["aupr_in"]
    assert value == pytest.approx(np.mean([i / (100 + i) for i in range(1, 101)]))
    random = np.random.default_rng(0)
    drawn = [
        detection_metrics(random.choice(inside, 100), random.choice(outside, 100))["aupr_in"]
        for _ in range(100)
    ]
    assert np.percentile(drawn, 2.5) > value
    low, high = bootstrap_intervals(inside, outside, seed=1)["aupr_in"]
    assert low < value < high


def test_what_no_sample_showed_is_allowed_for_as_jeffreys_would() -> None:
    """Beside so many outliers of one score, AUROC is a share of the inliers: 50 of 50, 48 of 50."""
    outside = np.zeros(5000)
    for above in (50, 48):
        inside = np.array([1.0] * above + [-1.0] * (50 - above))
        low, high = bootstrap_intervals(inside, outside, seed=1, resamples=1000)["auroc"]
        expected = beta.ppf(0.025, above + 0.5, 50 - above + 0.5)
        assert 1 - low == pytest.approx(1 - expected, rel=0.15)
        assert high == pytest.approx(1 if above == 50 else beta.ppf(0.975, above, 2), abs=0.002)


@pytest.mark.parametrize(("distance", "auroc"), [(1, 0.7602), (3, 0.9831), (5, 0.9998)])
def test_intervals_cover_the_truth(distance: float, auroc: float) -> None:
    """The AUROC of two normals is Φ(d/√2)."""
    assert norm.cdf(distance / 2**0.5) == pytest.approx(auroc, abs=1e-4)
    held = 0
    for seed in range(40):
        low, high = bootstrap_intervals(*normal(distance, 40, 40, seed), seed=seed, resamples=60)[
            "auroc"
        ]
        held += low <= norm.cdf(distance / 2**0.5) <= high
    assert held >= 0.9 * 40


def test_few_samples_give_no_interval() -> None:
    """One success among a thousand: resampled, it is itself each time."""
    assert bootstrap_intervals(np.arange(1000.0), np.array([-1.0]), seed=1) is None
    assert bootstrap_intervals(np.arange(10.0), np.arange(10.0), seed=1) is not None


def test_saturated_probabilities_keep_their_order() -> None:
    """In float32 both would be 1: gaps of 20 and 30."""
    model = linear_model(torch.eye(4), torch.zeros(4))
    images = torch.tensor([[20.0, 0.0, 0.0, 0.0], [30.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    low, high = scores("max_softmax", model, images).tolist()
    assert low < high
    assert low == pytest.approx(1 / (1 + 3 * np.exp(-20)), abs=1e-15)


def test_detectors_by_hand() -> None:
    model = linear_model(torch.eye(4), torch.zeros(4))
    images = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]]).view(2, 1, 2, 2)
    assert scores("max_logit", model, images).tolist() == [2.0, 0.5]
    e2 = float(np.exp(2))
    expected = [e2 / (e2 + 3), 0.25]
    assert scores("max_softmax", model, images).tolist() == pytest.approx(expected, rel=1e-6)
    energy = [np.log(e2 + 3), np.log(4 * np.exp(0.5))]
    assert scores("energy", model, images).tolist() == pytest.approx(energy, rel=1e-6)
    prototypes = pixel_prototypes(torch.eye(4)[:, None], similarity="l2")
    near = scores("nearest_prototype", prototypes, images).tolist()
    assert near == pytest.approx([-1.0, -1.0], rel=1e-6)


# Made for attacks, and a score that this model's logits say little by.
ELSEWHERE = {"feature_squeezing", "margin_stability", "scpl_rho"}


@pytest.mark.parametrize(
    "name", [n for n in DETECTORS if not find(n).needs_training_data and n not in ELSEWHERE]
)
def test_every_detector_gives_inliers_the_higher_score(name, pcl_digits, digits) -> None:  # type: ignore[no-untyped-def]
    noise = torch.rand(200, 1, 8, 8)
    inside = scores(name, pcl_digits, digits.images()).numpy()
    outside = scores(name, pcl_digits, noise).numpy()
    assert detection_metrics(inside, outside)["auroc"] > 0.7
