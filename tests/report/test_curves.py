"""Curves against hand-computed cases and against the evidence that they come from."""

from pathlib import Path

import numpy as np
import pytest

from robusteval import api
from robusteval.evidence.files import Local
from robusteval.evidence.results import load_result
from robusteval.report.curves import _thinned, curves_of, distances, optimality
from robusteval.report.figures import cost_curve, distance_curve
from tests.helpers.runs import plain_suite_in

pytestmark = pytest.mark.usefixtures("as_in_use")
SAMPLES = 32


def test_optimality_of_known_cases() -> None:
    """Clean accuracy 3/4; the largest best norm 4; A* = (0 + 1 + 2 + 4) / 4."""
    best = np.array([0.0, 1, 2, 4])
    assert optimality(best, best) == 1
    assert optimality(np.array([0.0, np.inf, np.inf, np.inf]), best) == 0
    twice = np.array([0.0, 2, 4, 8])  # cut at 4: area 10/4
    assert optimality(twice, best) == pytest.approx(1 - (10 / 4 - 7 / 4) / (3 - 7 / 4))


def test_optimality_is_the_area_between_curves() -> None:
    """The same from integrals of the two curves, on a fine grid."""
    random = np.random.default_rng(0)
    best = random.gamma(2.0, size=200)
    found = best * (1 + random.gamma(1.0, size=200))
    grid = np.linspace(0, best.max(), 200_001)

    def area(norms: np.ndarray) -> float:
        share = 1 - np.searchsorted(np.sort(norms), grid, side="right") / len(norms)
        return float(np.trapezoid(share, grid))

    expected = 1 - (area(found) - area(best)) / (best.max() - area(best))
    assert optimality(found, best) == pytest.approx(expected, abs=1e-4)


def test_optimality_where_nothing_breaks_is_unknown() -> None:
    assert optimality(np.array([0.0, np.inf]), np.array([0.0, np.inf])) is None


def test_thinned_curves_keep_their_ends() -> None:
    places = np.arange(1000.0)
    points = _thinned(places, 1000 - np.arange(1, 1001))
    assert len(points) <= 80
    assert (points[0], points[-1]) == ([0.0, 999], [999.0, 0])
    assert _thinned(np.empty(0), np.empty(0)) == []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> api.Report:
    out = tmp_path_factory.mktemp("runs")
    suite = Path(plain_suite_in(out))
    suite.write_text(suite.read_text("utf-8").replace("_sample = 1000", "_sample = 100"), "utf-8")
    only = ("smallest", "adaptive", "bim")
    options = api.Options(samples=SAMPLES, out=out, only=only)
    return api.evaluate("pcl_at_digits", suite, options=options)


def test_curves_say_what_the_rows_say(report: api.Report) -> None:
    curves = report.content["curves"]
    rows = {(a["name"], a["threat"]["norm"]): a for a in report.content["attacks"]}
    for curve in curves["cost"]:
        assert curve["samples"] == SAMPLES
        norm = curve["threat"]["norm"]
        for attack in curve["attacks"]:
            row = rows[attack["name"], norm]
            assert attack["left"] == row["robust_accuracy"]["k"]
            if attack["points"]:
                assert attack["points"][-1][1] == attack["left"]
                assert attack["points"][-1][0] <= attack["most"]
            spent = row["passes"]["forward"] + 2 * row["passes"]["backward"]
            assert attack["mean"] * row["attacked"] == pytest.approx(spent, rel=1e-3)
    for curve in curves["distance"]:
        (mine,) = curve["attacks"]
        row = rows["smallest", curve["norm"]]
        within = [k for place, k in mine["points"] if place <= row["threat"]["radius"]]
        assert within[-1] == row["robust_accuracy"]["k"]
        assert 0.8 < mine["optimality"] <= 1


def test_the_best_is_never_beyond_any_attack(report: api.Report) -> None:
    result = load_result(Local(report.folder))
    for norm in ("Linf", "L2"):
        outcomes = [o for o in result.outcomes if o.cell.threats[0].norm == norm]
        best = np.min([distances(result, o) for o in outcomes], axis=0)
        assert (best[~result.clean_correct] == 0).all()
        (curve,) = [c for c in curves_of(result)["distance"] if c["norm"] == norm]
        assert curve["best"]["median"] == pytest.approx(np.median(best))


def test_pictures_of_curves(report: api.Report) -> None:
    curves = report.content["curves"]
    for curve in curves["distance"]:
        figure = distance_curve(curve, [0.1])
        assert figure.startswith("<svg")
        assert "Smallest norm (ours)" in figure
        assert "best of all attacks" in figure
    for curve in curves["cost"]:
        assert "Adaptive (ours)" in cost_curve(curve)
    nothing = {"norm": "L2", "samples": 3, "attacks": [], "best": {"points": [[0.0, 2]]}}
    assert distance_curve(nothing, [0.5]) == ""
    html = (report.folder / "report.html").read_text()
    assert "Robust accuracy against ε, at most" in html
    assert "Robust accuracy against cost" in html
