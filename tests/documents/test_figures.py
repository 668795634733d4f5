"""Figures that pages name are the code's."""

import pytest

from robusteval.attacks.adaptive import adaptive_result
from robusteval.attacks.search import DRAWS
from robusteval.attacks.tuning import TUNING
from robusteval.boards.publish import FEWEST, FEWEST_GREY
from robusteval.data.entry import usual_threats
from robusteval.evidence.judge import NEAR_TIE, TOLERANCE
from robusteval.plan.fitting_data import MOST
from robusteval.plan.suite import read_suite
from tests.helpers.documents import ROOT

LINF, L2 = TUNING["Linf"], TUNING["L2"]
DEFAULTS = adaptive_result.__wrapped__.__kwdefaults__
(FULL,) = [a for a in read_suite("full").attacks if a.name == "adaptive"]
SHARES = {0.1: "a tenth", 0.25: "a quarter", 0.3: "three tenths"}
COUNTS = {8: "eight", 16: "sixteen"}
TIMES = {8: "eight times", 10: "ten times"}
GREY, COLOUR = usual_threats(1), usual_threats(3)
USUAL = (
    f"one channel get L∞ {GREY['Linf']} and L2 {GREY['L2']}, others L∞ {COLOUR['Linf']} and "
    f"L2 {COLOUR['L2']}"
)
SAID = [
    ("numbers", USUAL),
    ("own_data", USUAL),
    ("masked_gradients", f"more than {SHARES[LINF.dead_share]} of the samples have no gradient"),
    ("masked_gradients", f"their median cosine is below {LINF.turned}"),
    ("masked_gradients", f"more than {SHARES[L2.outdone]} of the samples break only by ascents"),
    ("masked_gradients", f"ascents of {LINF.insisting} steps"),
    ("masked_gradients", f"{LINF.searched:,} more proposals of random search"),
    ("attack", f"`passes_per_sample` ({DEFAULTS['passes_per_sample']} by default;"),
    ("attack", f"{FULL.parameters['passes_per_sample']:,} in the suite `full`)"),
    ("attack", f"fewer than {SHARES[LINF.few]} of a batch survive"),
    ("attack", f"each up to {TIMES[LINF.shared]} its"),
    ("attack", f"the budget is {TIMES[DRAWS]} as large"),
    ("attack", f"balls that shrink from {L2.balls[0]}ε to ε"),
    ("attack", f"Of {COUNTS[L2.drawn]} such perturbations"),
    ("lab/ablation", f"The threshold is {LINF.closed_of_some}, or {LINF.closed} where"),
    ("lab/ablation", f"The threshold is {100 * L2.outdone:.0f} %."),
    ("evidence", f"at least {FEWEST} samples ({FEWEST_GREY:,} for images with one channel)"),
    ("evidence", f"(tolerance {TOLERANCE:.0e})".replace("e-0", "e-")),
    ("numbers", f"at most {NEAR_TIE:.0e} of the spread".replace("e-0", "e-")),
    ("numbers", f"use at most {MOST:,} samples of the train split"),
]


def text_of(page: str) -> str:
    """A page in one line: its sentences break anywhere."""
    return " ".join((ROOT / "docs" / f"{page}.md").read_text("utf-8").split())


@pytest.mark.parametrize(("page", "said"), SAID, ids=lambda value: str(value)[:40])
def test_a_figure_is_the_codes(page: str, said: str) -> None:
    assert said in text_of(page)
