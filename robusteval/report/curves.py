"""Curves of a report, as plain data: robust accuracy at every ε, and against what it cost.

An attack that minimises a norm gives the whole curve over ε in one run.  What an attack cost a
sample stands in the evidence, so how its accuracy fell as passes were spent needs no further run.
"""

from typing import Any

import numpy as np

from robusteval.attacks.counting import BACKWARD
from robusteval.evidence.results import CellOutcome, RunResult
from robusteval.evidence.separations import Scores
from robusteval.types import NORMS, Norm, ThreatModel

_POINTS = 80  # of a curve, at most


def curves_of(result: RunResult) -> dict[str, Any]:
    """All curves: ``distance`` for each norm with a minimum-norm attack, ``cost`` by threat."""
    found = (_distance(result, norm) for norm in NORMS)
    return {
        "distance": [curve for curve in found if curve is not None],
        "cost": [_cost(result, threat) for threat in result.plan.threats],
    }


def _distance(result: RunResult, norm: Norm) -> dict[str, Any] | None:
    """Of each minimum-norm attack, and of the best of all attacks in that norm."""
    outcomes = [o for o in result.outcomes if o.cell.threats[0].norm == norm]
    free = [o for o in outcomes if o.status == "done" and not o.cell.attack.knows_eps]
    if not free:
        return None
    found = {outcome.cell.key: distances(result, outcome) for outcome in outcomes}
    best = np.min([*found.values()], axis=0)
    rows = [
        {
            "name": outcome.cell.spec.name,
            "title": outcome.cell.spec.title,
            **_along(found[outcome.cell.key]),
            "optimality": optimality(found[outcome.cell.key], best),
        }
        for outcome in free
    ]
    return {"norm": norm, "samples": len(best), "attacks": rows, "best": _along(best)}


def distances(result: RunResult, outcome: CellOutcome) -> Scores:
    """(N,) The norm at which each sample is mispredicted: 0 where it is anyway, ∞ where never."""
    broken = np.where(outcome.fooled, outcome.norm, np.inf)
    return np.where(result.clean_correct, broken, 0.0)


def _along(found: Scores) -> dict[str, Any]:
    """Robust samples beyond each norm, and the median norm; null where half never break."""
    middle = float(np.median(found))
    finite = np.sort(found[np.isfinite(found)])
    robust = len(found) - np.arange(1, len(finite) + 1)
    return {
        "median": middle if np.isfinite(middle) else None,
        "points": _thinned(finite, robust),
    }


def optimality(found: Scores, best: Scores) -> float | None:
    """1 where an attack finds each sample's smallest known norm, 0 where it finds none.

    1 − (A − A*) / (clean accuracy · d − A*), with A the area under an attack's curve up to the
    largest of the best norms d, and A* the area under the best one's (AttackBench, Cinà et al.
    2024).  The area under a curve of shares is the mean of the norms, none above d.  (Their code
    joins the samples' points by lines, where the share falls in steps: on few samples the figures
    differ by a few hundredths.)  Null where nothing was broken.
    """
    known = best[np.isfinite(best)]
    if not known.any():
        return None
    largest = known.max()
    area, least = np.minimum(found, largest).mean(), np.minimum(best, largest).mean()
    nothing = np.count_nonzero(best) / len(best) * largest
    return float(1 - (area - least) / (nothing - least)) if nothing > least else None


def _cost(result: RunResult, threat: ThreatModel) -> dict[str, Any]:
    """How many samples stood after so many passes each, of every attack that makes passes.

    ``points`` are of attacks whose passes are told ``by_sample``; of the others only the end is
    known.
    """
    rows = []
    for outcome in result.outcomes:
        if outcome.status != "done" or threat not in outcome.cell.threats:
            continue
        passes = outcome.forward_passes + BACKWARD * outcome.backward_passes
        if not passes[outcome.attacked].any():
            continue
        broken = outcome.success(threat)
        told = outcome.cell.attack.by_sample and not outcome.cell.spec.source
        order = np.sort(passes[broken]) if told else np.empty(0)
        left = int(result.clean_correct.sum()) - np.arange(1, len(order) + 1)
        rows.append(
            {
                "name": outcome.cell.spec.name,
                "title": outcome.cell.spec.title,
                "most": float(passes[outcome.attacked].max()),
                "mean": float(passes[outcome.attacked].mean()),
                "by_sample": told,
                "left": int(result.clean_correct.sum() - broken.sum()),
                "points": _thinned(order, left),
            }
        )
    return {"threat": threat.to_json(), "samples": len(result.labels), "attacks": rows}


def _thinned(places: Scores, counts: Any) -> list[list[float]]:
    """[place, count] of at most so many points, the first and the last among them."""
    if len(places) == 0:
        return []
    chosen = np.unique(np.linspace(0, len(places) - 1, min(_POINTS, len(places))).round())
    return [[float(f"{places[i]:.6g}"), int(counts[i])] for i in chosen.astype(int)]
