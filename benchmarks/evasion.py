"""Ways to have errors accepted by a detector, beside each other at equal passes.

    python -m benchmarks.evasion [--models ce_digits ...] [--detectors energy knn ...]
                                 [--samples 60] [--passes 200] [--out evasion.csv]

Test images of ``digits`` that are classified right, at L∞ 0.15, and at 0.06 where the model was not
trained adversarially, since nearly all are broken at 0.15.  For each method: how many images were
found that are misclassified, how many of these the detector accepts, and by how much the score of
an image falls short of the best that any method found, in units of clean scores' spread, over the
images that all misclassify.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import stored
from robusteval.attacks.counting import Counted
from robusteval.attacks.evasion import EVADING, Evasion, Guard
from robusteval.data.datasets import load_dataset
from robusteval.detection.registry import find
from robusteval.detection.thresholds import threshold_at
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.run.pursuing import look_of, measured
from robusteval.types import ThreatModel

RESULTS = Path(__file__).parent / "results"
MODELS = ("ce_digits", "pcl_digits", "gcpl_digits", "mpat_at_digits")
DETECTORS = ("max_softmax", "energy", "knn", "mahalanobis", "gram")
_WRONG = -1e5  # of a merit: any image that is misclassified has more


@dataclass(frozen=True)
class Result:
    """What one method came to on one model, detector and ε."""

    model: str
    detector: str
    eps: str
    method: str
    samples: int
    wrong: int
    accepted: int
    short: float
    common: int  # images that all methods misclassify
    passes: int


def measure(name: str, detector: str, samples: int, passes: int) -> Iterator[Result]:
    """Every method on a model and a detector."""
    model, record = load_model(find_entry(name)), find(detector)
    train, test = (load_dataset("digits", split) for split in ("train", "test"))
    state = record.fit(model, [train.images()], train.labels)
    look = look_of(record, state)
    classes, scores = measured(model, Guard(look, 0.0, 1.0), test.images())
    clean = scores.numpy()
    unit = float(np.subtract(*np.percentile(clean, [84, 16])) / 2)
    guard = Guard(look, threshold_at(clean), unit)
    rows = torch.nonzero(classes == test.labels)[:samples, 0]
    images, labels = test.images(rows), test.labels[rows]
    for eps in ("0.15",) if "_at_" in name else ("0.06", "0.15"):
        merits: dict[str, Tensor] = {}
        for method in EVADING:
            counted, threat = Counted(model, len(rows)), ThreatModel("Linf", float(eps))
            search = Evasion(counted, images, labels, threat, guard, "evade", method)
            search.run(0, passes)
            merits[method] = search.margin
        yield from _results(name, detector, eps, merits, passes)


def _results(
    name: str, detector: str, eps: str, merits: dict[str, Tensor], passes: int
) -> Iterator[Result]:
    every = torch.stack(list(merits.values()))
    common, best = (every > _WRONG).all(0), every.amax(0)
    for method, found in merits.items():
        short = float((best - found)[common].mean()) if common.any() else 0.0
        yield Result(
            *(name, detector, eps, method, len(found), int((found > _WRONG).sum())),
            *(int((found > 0).sum()), round(short, 3), int(common.sum()), passes),
        )


def table(results: Sequence[Result]) -> Iterator[str]:
    """All cells of a method together."""
    cells = len({(r.model, r.detector, r.eps) for r in results})
    yield f"{cells} cells of a model, a detector and an ε:"
    yield ""
    yield "| method | misclassified | and accepted | score short of the best |"
    yield "|---|---:|---:|---:|"
    for method in EVADING:
        own = [r for r in results if r.method == method]
        images = sum(r.samples for r in own)
        wrong, accepted = sum(r.wrong for r in own), sum(r.accepted for r in own)
        weight = sum(r.common for r in own)
        short = sum(r.short * r.common for r in own) / max(weight, 1)
        yield f"| {method} | {wrong} of {images} | {accepted} | {short:.2f} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS))
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS / "evasion.csv")
    given = parser.parse_args(argv)
    results = [
        result
        for model in given.models
        for detector in given.detectors
        for result in measure(model, detector, given.samples, given.passes)
    ]
    stored.write(given.out, results)
    print("\n".join(table(results)))
    totals = {m: sum(r.accepted for r in results if r.method == m) for m in EVADING}
    return int(totals["turns"] < max(totals.values()))


if __name__ == "__main__":
    sys.exit(main())
