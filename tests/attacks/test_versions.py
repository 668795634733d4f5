"""An attack's version says what it returns: the one changes with the other, and not without."""

from dataclasses import replace

import pytest

from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.record import Attack
from robusteval.attacks.registry import find
from robusteval.attacks.tuning import TUNING
from tests.helpers.attacks import require_installed
from tests.helpers.outcomes import attacks, outcomes, stored

STORED = stored()
FEWER = {
    norm: replace(usual, margin_steps=1, inside_steps=1, fine_steps=1)
    for norm, usual in TUNING.items()
}


def test_every_attack_has_its_outcomes_stored() -> None:
    assert set(attacks()) == set(STORED), "run python -m tests.helpers.outcomes"


@pytest.mark.parametrize("key", STORED)
def test_what_an_attack_returns_changes_with_its_version_alone(key: str) -> None:
    """Norms and margins of its images, to three digits; nearer than that none is a decision."""
    library, _, name = key.partition(".")
    require_installed(library, name)
    attack, before = find(library, name), STORED[key]
    assert attack.version == before["version"], "run python -m tests.helpers.outcomes"
    assert not differing(attack), "raise its version, and run python -m tests.helpers.outcomes"


def differing(attack: Attack) -> list[str]:
    """Libraries' attacks are given float32: near a boundary processors agree on less."""
    near = 1e-5 if attack.library is ROBUSTEVAL else 1e-4
    now, before = outcomes(attack), STORED[attack.key]["outcomes"]
    assert set(now) == set(before)
    return [
        f"{attack.key} on {where} returns {row}, not {then}"
        for where, rows in now.items()
        for row, then in zip(rows, before[where], strict=True)
        if row != pytest.approx(then, rel=1e-3, abs=near)
    ]


@pytest.mark.parametrize(
    ("name", "constant", "value"),
    [
        ("adaptive", "robusteval.attacks.cascade.Cascade.tunings", FEWER),
        ("smallest", "robusteval.attacks.smallest._MOMENTUM", 0.0),
    ],
)
def test_a_changed_constant_is_seen(
    name: str, constant: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constant, value)
    assert differing(find("robusteval", name))
