"""The benchmark of detectors: which are the best, what its table says, a whole entry in small."""

from pathlib import Path

import pytest

from benchmarks import detection, evasion, stored
from benchmarks.detection import Asked, Result, best_of, measured, table
from robusteval.models.registry import find_entry


def row(detector: str, group: str, auroc: float, attacked: str = "", model: str = "m") -> Result:
    low, high = max(auroc - 0.05, 0), min(auroc + 0.05, 1)
    shares = (auroc, low, high, 0.5, 0.3, 0.9, 0.8)
    return Result(model, "w", detector, group, group, attacked, *shares, 100, 100)


ROWS = [
    row("knn", "near", 0.8),
    *(row("knn", "noise", value) for value in (0.2, 0.3, 0.1)),
    row("energy", "near", 0.6),
    *(row("energy", "noise", value) for value in (0.6, 0.6, 0.6)),
    row("knn", "near", 0.8, "none"),
    row("knn", "near", 0.1, "both"),
    row("knn", "near", 0.52, "both", "other"),
]


def test_each_group_counts_once() -> None:
    plain = [r for r in ROWS if not r.attacked]
    assert best_of(plain, 1) == ["energy"]  # 0.6 against (0.8 + 0.2) / 2
    assert best_of(plain, 5) == ["energy", "knn"]


def test_the_table_says_what_is_below_chance() -> None:
    text = "\n".join(table(ROWS))
    assert "| `knn` | 1 | 80.0 | – | 20.0 | – |" in text
    assert "| `knn` | 2 | 80.0 | – | – | 31.0 | 52.0 [47.0, 57.0] (`other`) |" in text
    assert "1 of 2 detectors of a model are surely worse than chance" in text
    assert "Table 3" not in text


def test_the_papers_reading_stands_beside_its_own_numbers() -> None:
    of_paper = row("max_softmax", "PGD, paper", 0.7, model="scpl_cifar10")
    text = "\n".join(table([*ROWS, of_paper]))
    cells = "89.9 → 50.0 | 37.3 → 30.0 | 66.5 → 70.0 | 67.1 → 90.0 | 62.8 → 80.0"
    assert f"| Ours | `scpl_cifar10` | {cells} |" in text
    assert "`max_softmax`" not in text.partition("Table 3")[0]  # another reading doesn't rank


@pytest.mark.slow
def test_an_entry_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"max_softmax": 0, "energy": 0, "knn": 0}
    monkeypatch.setattr(detection, "DETECTORS", few)
    asked = Asked(tmp_path, samples=20, attacked=10, passes=30, best=2)
    found = measured(find_entry("ce_digits"), asked)
    plain, under = ([r for r in found if bool(r.attacked) == how] for how in (False, True))
    assert {r.detector for r in plain} == set(few)
    assert {"far", "noise", "PGD"} <= {r.group for r in plain}
    assert {r.attacked for r in under} == {"none", "outliers", "inliers", "both"}
    assert len({r.detector for r in under}) == 2
    stored.write(tmp_path / "detection.csv", found)
    assert stored.read(tmp_path / "detection.csv", Result) == found


def test_ways_to_be_accepted_in_small(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "evasion.csv")]
    few = ["--models", "ce_digits", "--detectors", "energy", "--samples", "8", "--passes", "40"]
    evasion.main([*few, *out])
    found = stored.read(tmp_path / "evasion.csv", evasion.Result)
    assert len(found) == 8  # four methods at two radii
    assert all(r.accepted <= r.wrong <= r.samples == 8 for r in found)
    assert "| turns |" in capsys.readouterr().out
