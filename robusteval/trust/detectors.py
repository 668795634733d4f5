"""What attackers who know the detectors tell of them: findings."""

from robusteval.detection.metrics import bootstrap_intervals, detection_metrics
from robusteval.evidence.results import RunResult
from robusteval.evidence.under_attack import UnderAttack, under_attack
from robusteval.trust.verdicts import Finding
from robusteval.types import ThreatModel

CHANCE = 0.5  # AUROC of a coin


def detector_findings(result: RunResult) -> list[Finding]:
    """Of detectors that were attacked: whether their scores had gradients, and whether they still
    tell anything apart."""
    return blind(result) + worse_than_chance(result)


def blind(result: RunResult) -> list[Finding]:
    """A detector without a gradient looks robust by accident: a finding for each."""
    guided: dict[str, int] = {}
    total: dict[str, int] = {}
    for outcome in result.pursuits:
        name = outcome.pursuit.detector
        guided[name] = guided.get(name, 0) + outcome.guided
        total[name] = total.get(name, 0) + len(outcome.places)
    return [_gradient(name, guided[name], of) for name, of in total.items() if of]


def _gradient(name: str, guided: int, of: int) -> Finding:
    check = f"gradient of {name}"
    measured = f"its score has a gradient at {guided} of {of} images that were attacked"
    if guided > of / 2:
        return Finding(check, "ok", measured, about="detection")
    return Finding(
        check,
        "suspicious",
        measured,
        "the attack on it searched at random: what it withstands says little",
        about="detection",
    )


def worse_than_chance(result: RunResult) -> list[Finding]:
    """Detectors that rank what was attacked above inliers: a finding for each threat."""
    lowest: dict[ThreatModel, dict[str, float]] = {}
    for each in under_attack(result):
        auroc = None if each.attacked == "none" else _surely_below(each, result.spec.seed)
        if auroc is not None:
            of_threat = lowest.setdefault(each.threat, {})
            of_threat[each.detector] = min(auroc, of_threat.get(each.detector, 1.0))
    return [
        Finding(
            "detectors under attack",
            "suspicious",
            "worse than chance, lowest AUROC: "
            + ", ".join(f"{name} {auroc:.3f}" for name, auroc in found.items()),
            "who knows these detectors gets by them: don't rely on them against attackers",
            threat,
            "detection",
        )
        for threat, found in lowest.items()
    ]


def _surely_below(each: UnderAttack, seed: int) -> float | None:
    """The AUROC, where its whole interval is below chance."""
    if not len(each.inside) or not len(each.outside):
        return None
    auroc = detection_metrics(each.inside, each.outside)["auroc"]
    if auroc >= CHANCE:  # an interval holds its estimate
        return None
    interval = bootstrap_intervals(each.inside, each.outside, seed=seed)
    high = interval["auroc"][1] if interval else auroc
    return auroc if high < CHANCE else None
