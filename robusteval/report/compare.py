"""Two runs or more on the same samples, compared in pairs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robusteval.errors import EvidenceError
from robusteval.evaluation.outcomes import Bools, RunResult
from robusteval.numerics import mcnemar
from robusteval.report.summary import rate_json
from robusteval.types import ThreatModel


@dataclass(frozen=True)
class Measure:
    """One thing measured per sample: correct, or still correct under an attack."""

    name: str
    threat: ThreatModel | None
    robust: Bools  # (N,)


def measures(result: RunResult) -> dict[str, Measure]:
    """Clean, every finished attack, and the complete worst cases, by a key that runs share."""
    correct = result.clean_correct
    found = {"clean": Measure("clean", None, correct)}
    for threat in result.plan.threats:
        for outcome in result.outcomes:
            if threat in outcome.cell.threats and outcome.status == "done":
                key = f"{outcome.cell.spec.name}/{threat}"
                robust = correct & ~outcome.success(threat)
                found[key] = Measure(outcome.cell.spec.title, threat, robust)
        worst, complete = result.robust(threat)
        if complete:
            found[f"worst case/{threat}"] = Measure("worst case", threat, worst)
    return found


def require_same_samples(names: list[str], results: list[RunResult]) -> None:
    """Raises EvidenceError unless the runs have the same samples and threat models."""
    first = results[0]
    for name, other in zip(names[1:], results[1:], strict=True):
        if (other.spec.dataset, other.spec.data_digest) != (
            first.spec.dataset,
            first.spec.data_digest,
        ):
            raise EvidenceError(
                f"{names[0]} has {first.spec.samples} samples of {first.spec.dataset}, {name} has "
                f"{other.spec.samples} of {other.spec.dataset}, and they are not the same: run "
                "both with the same --samples"
            )
        mine, theirs = (sorted(map(str, r.plan.threats)) for r in (first, other))
        if mine != theirs:
            raise EvidenceError(
                f"{names[0]} has the threat models {', '.join(mine)}, {name} has "
                f"{', '.join(theirs)}: run both with the same --eps"
            )


def compare(names: list[str], results: list[RunResult]) -> dict[str, Any]:
    """Every later run against the first, attack by attack, as plain data.

    ``difference`` is the later run's accuracy less the first's; ``p`` is McNemar's, exact and
    two-sided; samples are named by their index in the test split.
    """
    require_same_samples(names, results)
    base = measures(results[0])
    pairs = []
    for name, other in zip(names[1:], results[1:], strict=True):
        theirs = measures(other)
        shared = [key for key in base if key in theirs]
        alone = [key for key in [*base, *theirs] if key not in base or key not in theirs]
        rows = [_row(base[key], theirs[key], results[0].indices) for key in shared]
        pairs.append({"first": names[0], "second": name, "rows": rows, "only_in_one": alone})
    return {"samples": results[0].spec.samples, "dataset": results[0].spec.dataset, "pairs": pairs}


def _row(a: Measure, b: Measure, indices: Any) -> dict[str, Any]:
    only_a, only_b = a.robust & ~b.robust, b.robust & ~a.robust
    n = len(a.robust)
    return {
        "attack": a.name,
        "threat": a.threat.to_json() if a.threat else None,
        "first": rate_json(a.robust.sum(), n),
        "second": rate_json(b.robust.sum(), n),
        "difference": float(b.robust.mean() - a.robust.mean()),
        "p": mcnemar(int(only_a.sum()), int(only_b.sum())),
        "only_first": np.asarray(indices)[only_a].tolist(),
        "only_second": np.asarray(indices)[only_b].tolist(),
    }
