"""A claim stands beside the attack that made it, and beside no other."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from robusteval.boards.scrutiny import _is_answered
from robusteval.errors import EntryError
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Claim
from robusteval.models.registry import readable_entries
from robusteval.plan.suite import AttackSpec, Suite, read_suite, suite_names
from robusteval.report.claims import claim_row, differences, is_other
from robusteval.report.wording import found_text, lowest_claim
from robusteval.schema import checked
from robusteval.types import ThreatModel, parse_eps

CORRECT = np.arange(10) > 0
RATE = {"value": 0.5, "low": 0.2, "high": 0.8, "k": 5, "n": 10}
LINF = {"norm": "Linf", "eps": "8/255"}


def attack(name: str = "bim", restarts: int = 1, **parameters: Any) -> dict[str, Any]:
    threat = LINF if name != "cw" else {"norm": "L2", "eps": "1/2"}
    row = {"name": name, "threat": threat, "parameters": parameters, "restarts": restarts}
    row["robust_accuracy"] = RATE
    if name == "cw":
        row["unbounded"] = {"accuracy": {**RATE, "value": 0.1, "k": 1}}
    return row


def claim(attack: str = "bim", **changed: Any) -> Claim:
    base: dict[str, Any] = {"accuracy": 30.0, "norm": "Linf", "eps": "8/255", "settings": {}}
    return Claim(attack=attack, **{**base, **changed})


def found(one: Claim, *attacks: dict[str, Any]) -> dict[str, Any]:
    return claim_row(one, attacks, [], CORRECT)


def test_other_settings_are_not_compared() -> None:
    seven = claim(settings={"steps": 7, "random_start": False})
    ten = attack(steps=10, random_start=False)
    row = found(seven, ten)
    assert (row["compared"], row["differs"]) == ("other_settings", ["steps 10, not 7"])
    assert found_text(row) == "not run here with the paper's settings (steps 10, not 7)"
    same = found(seven, attack(steps=7, random_start=False))
    assert (same["compared"], same["differs"]) == ("same", [])
    assert found_text(same) == "50.0 % at the same ε"
    unknown = found(seven, attack(random_start=True))
    assert unknown["differs"] == ["steps unknown, not 7", "random_start true, not false"]


def test_steps_that_go_with_eps_are_those_of_the_attacks_eps() -> None:
    quarter = claim(times_eps={"alpha": "1/4"}, eps="0.03")
    assert found(quarter, attack(alpha=2 / 255))["compared"] == "other_eps"
    assert found(quarter, attack(alpha=0.0075))["compared"] == "other_settings"
    assert differences(quarter, {"alpha": 0.0075}, 1, 0.03) == []


def test_more_starts_are_told_and_fewer_are_another_attack() -> None:
    once, thrice = (claim(settings={"restarts": n}) for n in (1, 3))
    more = found(once, attack(restarts=5))
    assert (more["compared"], more["differs"]) == ("same", ["more starts: 5, not 1"])
    assert found_text(more) == "50.0 % at the same ε (more starts: 5, not 1)"
    assert found(thrice, attack(restarts=1))["compared"] == "other_settings"


def test_an_attack_without_eps_counts_at_any_distance() -> None:
    unbounded = claim("cw", norm=None, eps=None, settings={"c": 0.1})
    row = found(unbounded, attack("cw", c=0.1))
    assert (row["compared"], row["found"]["k"]) == ("any_distance", 1)
    assert found_text(row) == "10.0 % at any distance"
    assert found(unbounded, attack("cw", c=1.0))["compared"] == "other_settings"
    within = claim("cw", norm="L2", eps="0.5")
    assert found(within, attack("cw", c=1.0))["found"]["k"] == 5


def test_the_boards_claim_was_answered() -> None:
    rows = [
        found(claim("pgd100", accuracy=1.0)),  # it did not run
        found(claim(accuracy=2.0, settings={"steps": 7}), attack(steps=10)),
        found(claim(accuracy=3.0, eps=None), attack(steps=10)),  # it promises nothing
        found(claim(accuracy=40.0), attack(steps=10)),
        found(claim(accuracy=60.0), attack(steps=10)),
    ]
    assert [row["compared"] for row in rows[:3]] == ["not_run", "other_settings", "no_eps"]
    assert found_text(rows[0]) == "not run here"
    assert lowest_claim(rows)["accuracy"] == 40.0
    assert lowest_claim(rows[:3]) is None


def test_a_published_row_is_held_to_claims_that_its_attacks_answer() -> None:
    row = {"norm": "Linf", "eps": "8/255", "attack_bim": "1.0", "attack_pgd20": "1.0"}
    assert _is_answered(claim(settings={"steps": 10}, times_eps={"alpha": "1/10"}), row)
    assert not _is_answered(claim(settings={"steps": 7}), row)
    assert _is_answered(claim("pgd20", settings={"steps": 20, "restarts": 1}), row)
    assert not _is_answered(claim("pgd100"), row)
    assert _is_answered(claim("own"), {**row, "attack_own": "2.0"})  # of a user's suite


def test_settings_are_said_once() -> None:
    both = {"attack": "bim", "accuracy": 5.0, "settings": {"alpha": 0.1}}
    with pytest.raises(EntryError, match="settings and times_eps both have alpha: leave one out"):
        checked(Claim, {**both, "times_eps": {"alpha": "1/4"}}, "mine", EntryError)


def answering(claim: Claim, suite: Suite) -> list[AttackSpec]:
    """A suite's attacks that are the claim's."""
    norm = claim.norm or "L2"
    eps = parse_eps(claim.eps or suite.threats.get(norm, ["1/2"])[0])
    threat = ThreatModel(norm, Fraction(eps))
    return [
        spec
        for spec in suite.attacks
        if spec.name == claim.attack and norm in spec.norms
        if not is_other(claim, spec.parameters_for(threat), spec.restarts, threat.radius)
        if spec.restarts == 1 or "restarts" not in claim.settings
    ]


def all_claims() -> list[tuple[Entry, Claim]]:
    return [(e, c) for e in readable_entries() for c in e.claims if c.attack != "clean"]


def test_every_claim_of_the_zoo_is_answered_by_a_suite() -> None:
    suites = [read_suite(name) for name in suite_names()]
    open_ones = [
        f"{entry.name}: {one.attack}"
        for entry, one in all_claims()
        if not any(answering(one, suite) for suite in suites)
    ]
    assert open_ones == []
    assert len(all_claims()) > 100


def test_claims_of_one_paper_are_answered_by_its_own_suite() -> None:
    """All of an entry's claims by the suite of its paper and data, but for a second paper's."""
    papers = {"scpl": "scpl", "gcpl": "scpl", "pcl": "pcl", "mpat": "mpat", "drp": "drp"}
    for entry, one in all_claims():
        if entry.method not in papers or one.by == "protocol":
            continue
        name = papers[entry.method]
        data = "cifar" if entry.dataset.startswith("cifar") else entry.dataset
        suite = read_suite(name if name == "drp" else f"{name}_{data}")
        assert answering(one, suite), f"{entry.name}: {one.attack}"


def test_no_number_of_the_zoo_is_a_share() -> None:
    assert all(0 <= one.accuracy <= 100 for _, one in all_claims())
    assert all(math.isfinite(one.accuracy) for _, one in all_claims())
