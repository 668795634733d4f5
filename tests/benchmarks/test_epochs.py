"""Epochs side by side: each beside its base in the same round, and the paper's own numbers."""

from collections.abc import Iterator

import pytest

from benchmarks import epochs
from benchmarks.epochs import MPAT, PCL, Timed, measure, table
from robusteval.models.entry import Entry
from robusteval.training.loop import EpochLog

TWO = [
    Timed("pcl", "12", "L_CE", "ce_digits", "ce_digits"),
    Timed("pcl", "12", "L_PC", "pcl_digits", "ce_digits"),
]


def test_a_model_trains_in_the_stage_of_its_own_loss() -> None:
    base, pcl = measure(TWO, samples=200, rounds=2, root=None)
    assert (base.ratio, base.least, base.most) == (1, 1, 1)
    assert pcl.seconds > 0
    assert pcl.least <= pcl.ratio <= pcl.most
    assert (pcl.images, pcl.rounds) == (200, 2)


def test_a_ratio_is_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down meanwhile changes none; the first epoch doesn't count."""
    took = {"ce_digits": [9.0, 1, 2, 4], "pcl_digits": [1.0, 3, 6, 16]}

    def fit(entry: Entry, *_: object) -> Iterator[EpochLog]:
        for i, seconds in enumerate(took[entry.name]):
            yield EpochLog(i, 0.0, 0.0, 0.0, None, 0.1, seconds)

    monkeypatch.setattr(epochs, "_fit", fit)
    _, pcl = measure(TWO, samples=20, rounds=3, root=None)
    assert (pcl.seconds, pcl.ratio, pcl.least, pcl.most) == (6, 3, 3, 4)
    assert pcl.paper_ratio == pytest.approx(102.9 / 25.9, abs=1e-3)
    lines = list(table([pcl]))
    assert lines[2].endswith("| `ce_digits` | 3.00 [3.00, 4.00] | 3.97 |")
    assert "PCL: epochs of 20 images, medians of 3 rounds" in lines[-1]


@pytest.mark.parametrize("timed", [PCL, MPAT], ids=["PCL", "MPAT"])
def test_each_is_in_its_papers_table(timed: list[Timed]) -> None:
    for one in timed:
        assert epochs._paper_ratio(one, timed) > 0
        if one.entry == one.base:
            assert epochs._paper_ratio(one, timed) == 1


def test_mpats_minutes_are_of_as_many_epochs() -> None:
    by_name = {one.name: epochs._paper_ratio(one, MPAT) for one in MPAT}
    assert by_name["Ours (PGD)"] == pytest.approx(2916 / 2895)
