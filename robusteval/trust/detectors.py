"""What attackers who know the detectors tell of them: findings."""

from robusteval.detection.metrics import bootstrap_intervals, detection_metrics
from robusteval.evidence.results import RunResult
from robusteval.evidence.under_attack import Rejection, UnderAttack, rejections, under_attack
from robusteval.trust.verdicts import Finding
from robusteval.types import ThreatModel

CHANCE = 0.5  # AUROC of a coin
_SIDE = {
    "misclassified": "misclassified images that were made to be accepted",
    "inliers": "inliers that were made to be rejected, against {}",
    "outliers": "{} that were made to be accepted",
    "both": "{} that were made to be accepted, against inliers made to be rejected",
}


def detector_findings(result: RunResult) -> list[Finding]:
    """Of each detector that was attacked: whether its score had a gradient, and whether it still
    tells anything apart."""
    found = [blind(each) for each in rejections(result) if each.attacked]
    return found + worse_than_chance(result)


def blind(each: Rejection) -> Finding:
    """A detector without a gradient looks robust by accident."""
    name = f"gradient of {each.detector}"
    measured = f"its score has a gradient at {each.guided} of {each.attacked} images"
    if each.guided > each.attacked / 2:
        return Finding(name, "ok", measured, threat=each.threat)
    return Finding(
        name,
        "suspicious",
        measured,
        "the attack on it searched at random: what it withstands says little",
        each.threat,
    )


def worse_than_chance(result: RunResult) -> list[Finding]:
    """Detectors that rank what was attacked above inliers: a finding for each threat."""
    below: dict[ThreatModel, list[str]] = {}
    for each in (u for u in under_attack(result) if u.attacked != "none"):
        if (auroc := _surely_below(each, result.spec.seed)) is not None:
            side = _SIDE[each.attacked].format(each.outliers)
            below.setdefault(each.threat, []).append(f"{each.detector} on {side}: {auroc:.3f}")
    return [
        Finding(
            "detectors under attack",
            "suspicious",
            f"worse than chance, by AUROC: {'; '.join(told)}",
            "who knows the detector gets by it: don't rely on it against attackers",
            threat,
        )
        for threat, told in below.items()
    ]


def _surely_below(each: UnderAttack, seed: int) -> float | None:
    """The AUROC, where its whole interval is below chance."""
    if not len(each.inside) or not len(each.outside):
        return None
    auroc = detection_metrics(each.inside, each.outside)["auroc"]
    interval = bootstrap_intervals(each.inside, each.outside, seed=seed)
    high = interval["auroc"][1] if interval else auroc
    return auroc if high < CHANCE else None
