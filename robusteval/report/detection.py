"""Detection in ``report.json``: rows of metrics, outlier sets, and what pictures are drawn of."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robusteval.data.outliers import NOISE
from robusteval.detection.metrics import (
    METRICS,
    OPEN_SET,
    bootstrap_intervals,
    detection_metrics,
)
from robusteval.detection.rejection import (
    Points,
    accuracy_rejection,
    precision_recall,
    roc,
    thinned,
)
from robusteval.evidence.results import RunResult
from robusteval.evidence.separations import (
    SCORE_OF_CONFIDENCE,
    WORST,
    Bools,
    Scores,
    Separation,
    attacked_by_all,
    detected_under,
)
from robusteval.report.best import ranked_detectors

COLUMNS = (*METRICS, OPEN_SET)
# Beyond so many separations each gets fewer resamples, so that a report takes seconds, and only the
# detectors that are drawn have histograms.
MANY = 100
# Detectors whose curves are drawn: the best ones, and among these the best ones under attack.
DRAWN, DRAWN_OF_ATTACKS = 5, 2
_BINS = 20

Row = dict[str, Any]


def detection_of(result: RunResult) -> Row:
    """All of it; empty lists for a run without detectors."""
    rows = [(s, _row(result, s)) for s in result.separations]
    drawn = drawn_detectors([row for _, row in rows])
    for separation, row in rows:
        if row["status"] == "done" and (len(rows) <= MANY or separation.detector in drawn):
            row["histogram"] = histogram(separation.inside, separation.outside)
    outliers = [row for s, row in rows if s.kind == "outliers"]
    attacks = [row for s, row in rows if s.kind == "attack_detection"]
    return {
        "outlier_sets": outlier_sets(result),
        "outliers": outliers,
        # Attacks that are told the detector have rows of their own (see ``attackers``).
        "attack_detection": [{**row, "attacker_knew": False} for row in attacks],
        "detection_curves": _curves(result, drawn),
    }


def outlier_sets(result: RunResult) -> list[Row]:
    """Each outlier set that has scores: its group, its split, its digest and the classes that it
    shares with the data; what an older run does not tell is null."""
    told, spec = result.record.get("outliers", {}), result.spec
    counts = {s.against: len(s.outside) for s in result.separations if s.kind == "outliers"}
    return [
        {
            "name": name,
            "group": _group(result, name),
            "split": told.get(name, {}).get("split"),
            "samples": counts[name],
            "digest": spec.outlier_digests.get(name),
            "shared_classes": told.get(name, {}).get("shared"),
        }
        for name in result.plan.outliers
        if name in counts
    ]


def _group(result: RunResult, name: str) -> str:
    """Near, far, noise or folder; ``natural`` in older runs, which name no groups."""
    if told := result.record.get("outliers", {}).get(name):
        return str(told["group"])
    if name in result.spec.outlier_folders:
        return "folder"
    return "noise" if name in NOISE else "natural"


def _row(result: RunResult, separation: Separation) -> Row:
    """One detector against one set: all metrics with bootstrap intervals."""
    inside, outside = separation.inside, separation.outside
    outliers = separation.kind == "outliers"
    row: Row = {
        "detector": separation.detector,
        "against": separation.against,
        **({"group": _group(result, separation.against)} if outliers else {}),
        **({} if outliers else {"reading": separation.reading}),
        "n_in": len(inside),
        "n_out": len(outside),
    }
    if unusable := _unusable(separation):
        status, reason = unusable
        return {**row, "status": status, "reason": reason, **dict.fromkeys(COLUMNS)}
    values = detection_metrics(inside, outside, separation.correct)
    fewer = len(result.separations) > MANY
    intervals = bootstrap_intervals(
        inside, outside, separation.correct, seed=result.spec.seed, fewer=fewer
    )
    return {**row, "status": "done", "reason": "", **with_intervals(values, intervals)}


def with_intervals(
    values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]] | None
) -> Row:
    """Each metric with the ends of its interval, null where samples are too few for one."""
    metrics = {}
    for name, value in values.items():
        low, high = intervals[name] if intervals else (None, None)
        metrics[name] = {"value": value, "low": low, "high": high}
    return metrics


def _unusable(separation: Separation) -> tuple[str, str] | None:
    """A status and a reason where there can be no metric."""
    sides = separation.inside, separation.outside
    if separation.missing:
        return "not_finished", separation.missing
    if not all(map(len, sides)):
        return "empty", "no image on one side"
    if any(np.isnan(side).any() for side in sides):
        return "failed", "scores are not finite: some are NaN"
    return None


def histogram(inside: Scores, outside: Scores, bins: int = 30) -> dict[str, list[float]]:
    """Counts of both sides over common bins, between the 0.5 and 99.5 % quantiles; infinite scores
    fall into the outer bins."""
    both = np.concatenate([inside, outside])
    finite = both[np.isfinite(both)]
    low, high = np.quantile(finite if len(finite) else np.zeros(1), [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    counts = {
        side: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()
        for side, values in (("inside", inside), ("outside", outside))
    }
    return {"edges": [float(f"{e:.6g}") for e in edges], **counts}


def drawn_detectors(rows: list[Row]) -> list[str]:
    """The detectors whose curves are drawn, in the order of ``ranked_detectors``."""
    ranked = ranked_detectors(rows)
    attacked = [row for row in rows if row.get("reading") == WORST and row["auroc"]]
    of_attacks = ranked_detectors(attacked)[:DRAWN_OF_ATTACKS]
    others = [name for name in ranked if name not in of_attacks][: DRAWN - len(of_attacks)]
    return [name for name in ranked if name in of_attacks + others]


def _curves(result: RunResult, detectors: list[str]) -> Row | None:
    """What the pictures are drawn of, for some detectors; null for a run without any."""
    if not detectors:
        return None
    return {
        "detectors": detectors,
        "separations": _separation_curves(result, detectors),
        "rejection": _rejection(result, detectors),
        "confidence": _confidence(result),
    }


def _separation_curves(result: RunResult, detectors: list[str]) -> list[Row]:
    """ROC and precision against recall for one set of each group, and the attacks' worst case."""
    chosen = dict[str, str]()
    for s in result.separations:
        if s.kind == "outliers":
            chosen.setdefault(_group(result, s.against), s.against)
        elif s.reading == WORST:
            chosen.setdefault(WORST, s.against)
    parts = [
        part for part in ("near", "far", "natural", "noise", "folder", WORST) if part in chosen
    ]
    return [
        {"part": part, "against": chosen[part], "lines": lines}
        for part in parts
        if (lines := _lines(result, chosen[part], detectors))
    ]


def _lines(result: RunResult, against: str, detectors: list[str]) -> list[Row]:
    usable = [
        s
        for s in result.separations
        if s.against == against and s.detector in detectors and not _unusable(s)
    ]
    return [
        {
            "detector": s.detector,
            "roc": thinned(roc(s.inside, s.outside)),
            "precision_recall": thinned(precision_recall(s.inside, s.outside)),
        }
        for s in sorted(usable, key=lambda s: detectors.index(s.detector))
    ]


def _rejection(result: RunResult, detectors: list[str]) -> list[Row]:
    """Accuracy against the share rejected, on clean samples, and on attacked ones by threat.

    A broken sample counts with the image that the detector trusts most of those that broke it, one
    that held with the image that it trusts least, and a misclassified one with its clean image.
    """
    correct = result.clean_correct
    found: list[Row] = [{"threat": None, "lines": _rejection_lines(result, detectors, {})}]
    for threat in result.plan.threats:
        meant = detected_under(result.outcomes, threat, result.plan.detected)
        attacked = {name: attacked_by_all(meant, name, threat) for name in detectors}
        now = {
            name: (np.where(one.broken, one.most_trusted, one.least_trusted), one.broken)
            for name, one in attacked.items()
            if one is not None
        }
        if now and correct.any():
            lines = _rejection_lines(result, [*now], now)
            found.append({"threat": threat.to_json(), "lines": lines})
    return [row for row in found if row["lines"]]


def _rejection_lines(
    result: RunResult, detectors: list[str], attacked: dict[str, tuple[Scores, Bools]]
) -> list[Row]:
    correct, lines = result.clean_correct, []
    for name in detectors:
        scores, right = result.clean_scores[name], correct
        if name in attacked:
            image, broken = attacked[name]
            scores, right = np.where(correct, image, scores), correct & ~broken
        if not np.isnan(scores).any():
            points: Points = accuracy_rejection(scores, right)
            lines.append({"detector": name, "points": thinned(points)})
    return lines


def _confidence(result: RunResult) -> Row | None:
    """How often each largest probability is given, to samples classified right and wrong and to
    outliers by group; null where the run has no such scores."""
    scores = result.clean_scores.get(SCORE_OF_CONFIDENCE)
    if scores is None:
        return None
    correct = result.clean_correct
    sides: dict[str, list[Scores]] = {"right": [scores[correct]], "wrong": [scores[~correct]]}
    for s in result.separations:
        if s.detector == SCORE_OF_CONFIDENCE and s.kind == "outliers":
            sides.setdefault(_group(result, s.against), []).append(s.outside)
        elif s.detector == SCORE_OF_CONFIDENCE and s.reading == WORST:
            sides.setdefault("attacked", []).append(s.outside)
    joined = {name: np.concatenate(parts) for name, parts in sides.items()}
    values = np.concatenate([*joined.values()])
    if not ((values >= 0) & (values <= 1 + 1e-9)).all():
        return None
    edges = np.linspace(0, 1, _BINS + 1)
    counts = {n: np.histogram(v.clip(0, 1), edges)[0].tolist() for n, v in joined.items() if len(v)}
    return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts}
