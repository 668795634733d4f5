"""Detectors of two runs beside each other: AUROC of each one that both have, on each shared set."""

from typing import Any

from robusteval.detection.metrics import detection_metrics
from robusteval.evidence.results import RunResult
from robusteval.evidence.separations import Separation

Key = tuple[str, str, str, str]  # kind, what it is held against, reading, detector


def compared_scores(first: RunResult, second: RunResult) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of AUROC, the later run's less the first's, and the detectors that are not compared:
    those of other code, and those that one run has not.

    Outliers count as one set if both runs took the same images of it.
    """
    mine, theirs = _usable(first), _usable(second)
    names = {name: None for result in (first, second) for name in result.plan.detectors}
    alike = [name for name in names if _same_detector(name, first, second)]
    rows = []
    for key in (key for key in mine if key in theirs):
        kind, against, _, detector = key
        if detector in alike and (kind != "outliers" or _same_images(against, first, second)):
            rows.append(_row(mine[key], theirs[key]))
    sets = {r["against"] for r in rows if r["kind"] == "outliers"}
    rows.sort(key=lambda row: (row["against"] not in sets, row["against"], row["reading"]))
    return rows, [name for name in names if name not in alike]


def _usable(result: RunResult) -> dict[Key, Separation]:
    return {
        (s.kind, s.against, s.reading, s.detector): s
        for s in result.separations
        if len(s.inside) and len(s.outside)
    }


def _same_detector(name: str, first: RunResult, second: RunResult) -> bool:
    """Whether both runs have a detector, by the same code as far as they tell."""
    codes = [result.spec.code.get(f"detector.{name}") for result in (first, second)]
    there = all(name in r.plan.detectors and name not in r.unfitted for r in (first, second))
    return there and (codes[0] == codes[1] or None in codes)


def _same_images(against: str, first: RunResult, second: RunResult) -> bool:
    """Whether an outlier set is of the same images: by its digest, made ones by the seed."""
    ours, theirs = first.spec, second.spec
    digests = ours.outlier_digests.get(against), theirs.outlier_digests.get(against)
    return digests[0] == digests[1] and (digests[0] is not None or ours.seed == theirs.seed)


def _row(mine: Separation, theirs: Separation) -> dict[str, Any]:
    values = [detection_metrics(s.inside, s.outside)["auroc"] for s in (mine, theirs)]
    return {
        "kind": mine.kind,
        "detector": mine.detector,
        "against": mine.against,
        "reading": mine.reading,
        **{"first": values[0], "second": values[1], "difference": values[1] - values[0]},
    }
