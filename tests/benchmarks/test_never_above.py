"""What ``adaptive`` leaves of published rows: measured once, and held against the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import attacks, never_above, stored
from robusteval.report.rows import Row

MODEL = "ce_digits"
ASKED = ("--board", "digits_Linf*", "--model", MODEL)


@pytest.fixture
def row() -> Row:
    (found,) = never_above.published(["digits_Linf*"], [MODEL])
    return found


def result(row: Row, robust: int) -> attacks.Result:
    weights = row["weights_sha256"][:12]
    return attacks.Result(
        *(MODEL, weights, row["norm"], row["eps"], "adaptive_1000", int(row["samples"]), 350),
        *(robust, 100.0, 100.0, 1.0, "two cores"),
        version=attacks.VERSION,
    )


def test_a_row_is_measured_once_and_held_against_what_was_published(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "never_above.csv"
    asked = (*ASKED, "--out", str(out))
    assert never_above.main(asked) == 0
    (first,) = stored.read(out, attacks.Result)
    assert (first.samples, first.norm, first.eps) == (int(row["samples"]), "Linf", row["eps"])
    assert first.robust <= int(row["robust_samples"])
    assert "| digits, L∞ 0.15 | 1 | " in capsys.readouterr().out
    ran: list[str] = []

    def run(name: str, attack: str, *_: Any) -> attacks.Result:
        ran.append(attack)
        return first

    monkeypatch.setattr(attacks, "run", run)
    assert never_above.main(asked) == 0
    assert not ran
    stored.write(out, [replace(first, version=1)])
    assert never_above.main(asked) == 0
    assert ran == ["adaptive_1000"]


def test_what_leaves_more_than_another_is_told(row: Row) -> None:
    shown = {**row, "robust_samples": "20", "attack_autoattack": "10.00"}  # 36 of 360
    pairs = [never_above.Beside(shown, result(row, robust)) for robust in (20, 21, 37)]
    assert [p.wrong for p in pairs] == [
        "",
        f"{MODEL}, L∞ 0.15: 21 left, 20 by all together",
        f"{MODEL}, L∞ 0.15: 37 left, 36 by AutoAttack, 20 by all together",
    ]
    lines = list(never_above.table(pairs))
    assert lines[2] == "| digits, L∞ 0.15 | 3 | 2, 0, 1 | 0, 1, 2 | 78 of 60 |"
    assert lines[3:] == ["", *(f"- {p.wrong}" for p in pairs[1:])]
    elsewhere = never_above.Beside({**shown, "dataset": "mnist"}, result(row, 2000))
    assert list(never_above.table([*pairs, elsewhere]))[2:5] == [
        lines[2],
        "| mnist, L∞ 0.15 | 1 | 0, 0, 1 | 0, 0, 1 | 2,000 of 20 |",
        "| all | 4 | 2, 0, 2 | 0, 1, 3 | 2,078 of 80 |",
    ]


def test_rows_of_other_weights_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attacks, "weights_of", lambda _: "0" * 12)
    assert never_above.published(["digits_Linf*"], [MODEL]) == []
