"""Types, catalogue and statistics."""

from fractions import Fraction

import pytest
from scipy.stats import binomtest

from robusteval.catalogue import Catalogue, near_names
from robusteval.errors import ThreatError, UnknownNameError
from robusteval.numerics import wilson
from robusteval.types import ThreatModel, parse_eps


@pytest.mark.parametrize(
    ("text", "exact"),
    [("8/255", Fraction(8, 255)), ("0.3", Fraction(3, 10)), (0.5, Fraction(1, 2))],
)
def test_eps_is_kept_exact(text: str, exact: Fraction) -> None:
    assert parse_eps(text) == exact


@pytest.mark.parametrize("text", ["-1", "0", "eight", "1/0", "nan", "inf", ""])
def test_eps_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ThreatError):
        parse_eps(text)


def test_a_whole_pixel_range_in_linf_is_taken_for_a_slip() -> None:
    with pytest.raises(ThreatError, match="8/255"):
        ThreatModel("Linf", Fraction(8))
    assert ThreatModel("L2", Fraction(8)).radius == 8
    with pytest.raises(ThreatError, match="L7"):
        ThreatModel("L7", Fraction(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["8/255", "0.3", "0.15", "2", "1/7"])
def test_eps_is_written_as_people_write_it(text: str) -> None:
    assert ThreatModel("L2", parse_eps(text)).eps_text == text


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7), (171, 256), (1, 10_000)])
def test_wilson_against_scipy(k: int, n: int) -> None:
    rate = wilson(k, n)
    reference = binomtest(k, n).proportion_ci(method="wilson")
    assert rate is not None
    assert (rate.value, rate.k, rate.n) == (k / n, k, n)
    assert rate.low == pytest.approx(reference.low, abs=1e-12)
    assert rate.high == pytest.approx(reference.high, abs=1e-12)


def test_a_miss_lists_near_names_or_few() -> None:
    many = [f"name{i:02}" for i in range(25)]
    assert near_names("name3", ["name03", "other"]) == "did you mean name03?"
    assert near_names("zzz", "cba") == "known: a, b, c"
    assert near_names("zzz", many) == ("none is like it among 25, such as name00, name01, name02")
    assert near_names("zzz", []) == "there are none"


def test_every_wilson_interval_holds_its_share() -> None:
    """And as percentages of tables, too, where both are rounded."""
    for n in (*range(1, 60), 360, 10_000):
        for k in {*range(min(n, 60) + 1), n - 1, n}:
            rate = wilson(k, n)
            assert rate is not None
            assert 0 <= rate.low <= k / n <= rate.high <= 1
            assert rate.low < rate.high
            assert f"{rate.low:.3f}" <= f"{k / n:.3f}" <= f"{rate.high:.3f}"


def test_wilson_of_nothing_is_no_number() -> None:
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_catalogue_refuses_doubles_and_lists_near_names() -> None:
    catalogue: Catalogue[int] = Catalogue("thing")
    catalogue.add("pgd10", 1)
    with pytest.raises(ValueError, match="twice"):
        catalogue.add("pgd10", 2)
    with pytest.raises(UnknownNameError, match="did you mean pgd10"):
        catalogue.get("pdg10")
    assert "pgd10" in catalogue
    assert list(catalogue) == ["pgd10"]
