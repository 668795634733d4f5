"""What papers claim, beside the same attack here and all attacks together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robusteval.evidence.separations import Bools
from robusteval.models.entry_tables import Claim
from robusteval.numerics import rate_json
from robusteval.types import parse_eps

Row = dict[str, Any]


def claim_row(claim: Claim, attacks: Sequence[Row], worst: Sequence[Row], correct: Bools) -> Row:
    """What the paper reports, beside the same attack here and the worst case here.

    ``compared`` says what of the same attack stands there: its number at the ``same`` ε or at
    ``other_eps``, or where the claim has ``no_eps``, or at ``any_distance``, where neither the
    claim nor the attack knows one; or else ``other_settings``, ``no_number``, or ``not_run``.
    ``differs``: where the attack is not the claimed one; more starts alone make it no other.
    ``worst_compared`` says the same of the worst case.
    """
    blank = dict.fromkeys(("found", "found_threat", "worst", "worst_threat", "worst_compared"))
    row: Row = {**claim.model_dump(), **blank, "compared": "not_run", "differs": []}
    if claim.attack == "clean":
        return {**row, "found": rate_json(correct.sum(), len(correct)), "compared": "clean"}
    if found := _nearest_threat(claim, [a for a in attacks if a["name"] == claim.attack]):
        row |= _found(claim, found)
    if claim.norm and (bound := _nearest_threat(claim, worst)):
        row |= {"worst": bound["robust_accuracy"], "worst_threat": bound["threat"]}
        row["worst_compared"] = _compared(claim, bound["threat"])
    return row


def _found(claim: Claim, attack: Row) -> Row:
    """What the attack of the claim's name left, and how far it is the claimed one."""
    eps = float(parse_eps(attack["threat"]["eps"]))
    differs = differences(claim, attack["parameters"], attack["restarts"], eps)
    unbounded = claim.eps is None and claim.norm is None and "unbounded" in attack
    rate = attack["unbounded"]["accuracy"] if unbounded else attack["robust_accuracy"]
    at = "any_distance" if unbounded else _compared(claim, attack["threat"])
    if is_other(claim, attack["parameters"], attack["restarts"], eps):
        at = "other_settings"
    return {
        "found": rate,
        "found_threat": attack["threat"],
        "compared": at if rate else "no_number",
        "differs": differs,
    }


_MORE = "more starts:"


def differences(
    claim: Claim, parameters: Mapping[str, Any], restarts: int, eps: float
) -> list[str]:
    """Where an attack at that ε has other settings than a claim's; what no claim states is free.

    >>> claim = Claim(attack="bim", accuracy=8.8, settings={"steps": 7}, times_eps={"alpha": "1/7"})
    >>> differences(claim, {"steps": 10, "alpha": 0.1}, 1, 0.7)
    ['steps 10, not 7']
    """
    scaled = {name: float(parse_eps(part)) * eps for name, part in claim.times_eps.items()}
    told = []
    for name, wanted in {**claim.settings, **scaled}.items():
        if name == "restarts":
            if restarts != wanted:
                more = f"{_MORE} " if restarts > float(wanted) else ""
                told.append(f"{more}{restarts}, not {wanted}")
        elif not _equal(parameters.get(name), wanted):
            told.append(f"{name} {_short(parameters.get(name, 'unknown'))}, not {_short(wanted)}")
    return told


def is_other(claim: Claim, parameters: Mapping[str, Any], restarts: int, eps: float) -> bool:
    """Whether an attack at that ε is another one than a claim's."""
    differs = differences(claim, parameters, restarts, eps)
    return any(not told.startswith(_MORE) for told in differs)


def _equal(value: Any, wanted: Any) -> bool:
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (value, wanted)]
    return math.isclose(value, wanted, rel_tol=1e-6) if all(numbers) else bool(value == wanted)


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _compared(claim: Claim, threat: Row) -> str:
    if claim.eps is None:
        return "no_eps"
    return "same" if parse_eps(claim.eps) == parse_eps(threat["eps"]) else "other_eps"


def _nearest_threat(claim: Claim, rows: Sequence[Row]) -> Row | None:
    """The row of the claim's norm whose ε is nearest to the claim's."""
    same = [r for r in rows if claim.norm in (None, r["threat"]["norm"])]
    if not same:
        return None
    if claim.eps is None:
        return same[0]
    eps = parse_eps(claim.eps)
    return min(same, key=lambda r: abs(parse_eps(r["threat"]["eps"]) - eps))
