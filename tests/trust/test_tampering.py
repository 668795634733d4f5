"""A seeded few of what benchmarks/tampering.py tries: nothing falsified goes unseen."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from benchmarks import tampering
from benchmarks.forgery.families import FAMILIES, every
from benchmarks.forgery.leaves import Alteration, json_edits, put
from benchmarks.forgery.named import NAMED
from benchmarks.forgery.rules import by_again, excepted
from benchmarks.forgery.trial import Bench, Outcome, honest_run, remembered, try_out

pytestmark = pytest.mark.slow

FEW = 2  # of each family
CHOSEN = (
    "an invented detector's columns",
    "margins of kept successes raised",
    "another wrong class for kept successes",
    "negative backward passes",
    "threads of the record",
    "a key more in the diagnostics",
    "another version claimed, and a page with a script",
    "numbers of the proof",
    "warnings of the forger's kind",
    "told as by an earlier version",
    "a tenth of the passes",  # which jobs done again alone can tell
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with remembered():
        yield honest_run(tmp_path_factory.mktemp("tampering"))


def unseen(bench: Bench, alterations: list[Alteration]) -> list[str]:
    """What went wrong, alteration by alteration."""
    outcomes = [(a, try_out(bench, a, bench.work / "copy")) for a in alterations]
    return [f"{a.told}: {o.verdict}: {o.told}" for a, o in outcomes if not o.right]


def test_what_is_to_hold_holds(bench: Bench) -> None:
    """An honest run, and alterations that only a digest left as it was could give away."""
    assert tampering.promises(bench) == []


@pytest.mark.parametrize("how", CHOSEN)
def test_a_forgery_is_found(how: str, bench: Bench) -> None:
    (alteration,) = (a for a in every(bench.run, ["named"], 0, None) if a.how == how)
    assert unseen(bench, [alteration]) == []


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "named"])
def test_a_few_of_each_family_are_found(family: str, bench: Bench) -> None:
    few = every(bench.run, [family], seed=0, limit=FEW)
    assert len(few) == FEW
    assert unseen(bench, few) == []


# The program itself


def test_every_leaf_is_changed() -> None:
    content = {"a": [1, {"b": "x"}], "c": None}
    places = {place for place, _, _ in json_edits(content)}
    assert places == {"", "a", "a.0", "a.1", "a.1.b", "c"}
    changed = [edit({"a": [1, {"b": "x"}], "c": None}) for _, _, edit in json_edits(content)]
    assert all(repr(other) != repr(content) for other in changed)
    assert put(("a", 1, "b"), 7, {"a": [1, {"b": "x"}]}) == {"a": [1, {"b": 7}]}


def test_rules_are_about_what_they_name() -> None:
    assert excepted("run.json:provenance.date", "another")
    assert not excepted("run.json:provenance.date", "HTML")
    assert not excepted("run.json:spec.seed", "another")
    assert by_again("attack-01-fgsm_Linf_0.15-0000.parquet[margin]", "much more, failure")
    assert not by_again("attack-01-fgsm_Linf_0.15-0000.parquet[margin]", "much more, kept success")
    assert set(CHOSEN) <= NAMED.keys()


def test_what_is_wrong_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    alteration = partial(Alteration, "record", apply=Path.exists)
    tried = [alteration("run.json:a.0", "another"), alteration("run.json:a.1", "another")]
    assert tampering.show(tried, [Outcome("found"), Outcome("refused")], most=9)
    assert "| record | 2 | 2 | 0 | 0 | 0 |" in capsys.readouterr().out
    assert not tampering.show(tried, [Outcome("found"), Outcome("holds", "as it was")], most=9)
    told = capsys.readouterr().out
    assert "| record | 2 | 1 | 0 | 0 | 1 |" in told
    assert "run.json:a.N: another – as it was" in told
