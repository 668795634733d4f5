"""Two runs or more on the same samples, compared in pairs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robusteval.errors import EvidenceError
from robusteval.evidence.results import CellOutcome, RunResult
from robusteval.evidence.separations import Bools
from robusteval.numerics import mcnemar, rate_json
from robusteval.report.compared_scores import compared_scores
from robusteval.types import ThreatModel


@dataclass(frozen=True)
class Measure:
    """One thing measured per sample: correct, or still correct under an attack."""

    name: str
    threat: ThreatModel | None
    robust: Bools  # (N,)
    how: tuple[Any, ...] = ()  # by what attacks, all their parameters with them


def measures(result: RunResult) -> dict[str, Measure]:
    """Clean, every finished attack, and the complete worst cases, by a key that runs share."""
    correct = result.clean_correct
    found = {"clean": Measure("clean", None, correct)}
    for threat in result.plan.threats:
        for outcome in result.outcomes:
            if threat in outcome.cell.threats and outcome.status == "done":
                key = f"{outcome.cell.spec.name}/{threat}"
                robust = correct & ~outcome.success(threat)
                found[key] = Measure(outcome.cell.spec.title, threat, robust, _made_by(outcome))
        worst, complete = result.robust(threat)
        if complete:
            meant = [o for o in result.outcomes if threat in o.cell.threats]
            how = tuple(sorted((_made_by(o) for o in meant), key=str))
            found[f"worst case/{threat}"] = Measure("worst case", threat, worst, how)
    return found


def _made_by(outcome: CellOutcome) -> tuple[Any, ...]:
    """What decides an attack's strength."""
    spec, parameters = outcome.cell.spec, sorted(outcome.cell.parameters.items())
    return spec.library, spec.attack, spec.restarts, parameters, spec.source


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
    two-sided; samples are named by their index in the test split.  An attack of the same name with
    other parameters is another one, and a worst case over other attacks another worst case:
    ``not_alike`` names these, ``only_in_one`` what the other has not.  ``detection`` has AUROC of
    each detector and set that both have, ``detectors_apart`` the detectors that are not compared.
    """
    require_same_samples(names, results)
    base = measures(results[0])
    pairs = []
    for name, other in zip(names[1:], results[1:], strict=True):
        theirs = measures(other)
        shared = [key for key in base if key in theirs]
        alike = [key for key in shared if base[key].how == theirs[key].how]
        scores, apart = compared_scores(results[0], other)
        pairs.append(
            {
                "first": names[0],
                "second": name,
                "rows": [_row(base[key], theirs[key], results[0].indices) for key in alike],
                "only_in_one": [k for k in [*base, *theirs] if k not in shared],
                "not_alike": [key for key in shared if key not in alike],
                "detection": scores,
                "detectors_apart": apart,
            }
        )
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
