"""What a report says of prototypes: how many there are, how many are used, and which wrong ones
samples go to."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.evidence.columns import NEAREST
from robusteval.evidence.results import RunResult
from robusteval.evidence.separations import Bools
from robusteval.numerics import wilson
from robusteval.types import ThreatModel

MOST_GOALS = 10  # wrong prototypes that are told of each kind of image
MOST_FROM = 3  # classes that samples come from, of each
Places = NDArray[np.int64]  # of prototypes: class · M + place in the class


def prototypes_of(result: RunResult) -> dict[str, Any] | None:
    """The section as plain data; None where there are no prototypes, or none was measured.

    A prototype counts as unused where no evaluated clean image is nearest to it, and where several
    stand in one place, these count as one.  Samples go wrong on the deepest layer.
    """
    told = result.record["model"].get("prototype_layers", [])
    places = {name: i for i, name in enumerate(result.record["model"]["layers"])}
    columns = [f"{NEAREST}{places[layer['layer']]}" for layer in told]
    if not told or any(column not in result.clean for column in columns):
        return None
    return {
        "samples": len(result.labels),
        "layers": [_layer(result, *pair) for pair in zip(told, columns, strict=True)],
        "wrong": _wrong(result, told[-1], columns[-1]),
    }


def firsts_of(layer: Mapping[str, Any], classes: int) -> Places:
    """For each prototype the first of those that coincide with it: (K · M,)."""
    firsts = np.arange(classes * layer["per_class"])
    for later, first in layer["coinciding"] or ():
        firsts[later] = first
    return firsts


def _layer(result: RunResult, layer: Mapping[str, Any], column: str) -> dict[str, Any]:
    names, per_class = result.record["dataset"]["classes"], layer["per_class"]
    firsts = firsts_of(layer, len(names)).reshape(-1, per_class)  # (K, M)
    nearest = result.clean[column]
    near_of_class = np.bincount(nearest // per_class, minlength=len(names))
    classes = []
    for name, own, near in zip(names, firsts, near_of_class, strict=True):
        distinct = np.unique(own)
        unused = int((~np.isin(distinct, nearest)).sum())
        row = {"class": name, "distinct": len(distinct), "unused": unused, "nearest": int(near)}
        classes.append(row)
    known = layer["coinciding"] is not None
    right = (nearest // per_class == result.labels).sum()
    rate = wilson(int(right), len(nearest))
    return {
        "layer": layer["layer"],
        "per_class": per_class,
        "features": layer["features"],
        "prototypes": int(firsts.size),
        "distinct": len(np.unique(firsts)) if known else None,
        "coinciding": _coinciding(layer, per_class) if known else None,
        "unused": int((~np.isin(np.unique(firsts), nearest)).sum()),
        "nearest_is_own": rate.to_json() if rate else None,
        "classes": classes,
    }


def _coinciding(layer: Mapping[str, Any], per_class: int) -> dict[str, int]:
    """How many stand where an earlier one does: by the class of the first of them, and how many
    have exactly its values."""
    own = sum(i // per_class == first // per_class for i, first in layer["coinciding"])
    others = len(layer["coinciding"]) - own
    return {"own_class": own, "other_class": others, "equal": layer["equal"]}


def _wrong(result: RunResult, layer: Mapping[str, Any], column: str) -> list[dict[str, Any]]:
    """Where misclassified clean images, and each threat model's first successes, are."""
    clean = {"threat": None, **_goals(result, layer, result.clean[column], ~result.clean_correct)}
    return [
        clean,
        *({"threat": t.to_json(), **_attacked(result, layer, column, t)} for t in _threats(result)),
    ]


def _threats(result: RunResult) -> list[ThreatModel]:
    return [t for t in result.plan.threats if any(t in o.cell.threats for o in result.outcomes)]


def _attacked(
    result: RunResult, layer: Mapping[str, Any], column: str, threat: ThreatModel
) -> dict[str, Any]:
    """Of each broken sample the image that broke it first, in the suite's order."""
    broken = np.zeros(len(result.labels), bool)
    nearest = np.full(len(broken), -1)
    for outcome in (o for o in result.outcomes if threat in o.cell.threats):
        first = outcome.success(threat) & ~broken
        nearest[first] = outcome.rows[column][first]
        broken |= first
    return _goals(result, layer, nearest, broken)


def _goals(
    result: RunResult, layer: Mapping[str, Any], nearest: Places, wrong: Bools
) -> dict[str, Any]:
    """Of so many ``wrong`` samples, those nearest to a prototype of another class than theirs, and
    to which."""
    names, per_class = result.record["dataset"]["classes"], layer["per_class"]
    gone = wrong & (nearest >= 0) & (nearest // per_class != result.labels)
    goals = Counter(nearest[gone].tolist())
    rows = []
    for goal, count in sorted(goals.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_GOALS]:
        came = Counter(result.labels[gone & (nearest == goal)].tolist())
        most = sorted(came.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_FROM]
        rows.append(
            {
                "class": names[goal // per_class],
                "prototype": int(goal % per_class),
                "samples": count,
                "from": [{"class": names[label], "samples": n} for label, n in most],
            }
        )
    own = int((wrong & (nearest >= 0) & ~gone).sum())
    return {
        "samples": int(wrong.sum()),
        "other_class": int(gone.sum()),
        "own_class": own,
        "goals": rows,
    }


def goal_table(section: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each wrong prototype that is told of, with what goes to it: a cell for each of
    ``section["wrong"]``, None where nothing is told.  Those that most go to come first."""
    several = section["layers"][-1]["per_class"] > 1
    rows: dict[tuple[str, int], list[dict[str, Any] | None]] = {}
    for place, kind in enumerate(section["wrong"]):
        for goal in kind["goals"]:
            key = goal["class"], goal["prototype"]
            rows.setdefault(key, [None] * len(section["wrong"]))[place] = goal
    named = [
        {"name": f"{name}, no. {number}" if several else name, "cells": cells}
        for (name, number), cells in rows.items()
    ]
    return sorted(named, key=lambda row: -sum(c["samples"] for c in row["cells"] if c))


def from_text(goal: dict[str, Any] | None) -> str:
    """Such as "from 7, 6, 1, …": the classes that most of those who go there are of."""
    if not goal:
        return ""
    told = ", ".join(came["class"] for came in goal["from"])
    whole = sum(came["samples"] for came in goal["from"]) == goal["samples"]
    return f"from {told}" if whole else f"from {told}, …"
