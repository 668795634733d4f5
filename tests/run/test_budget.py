"""Runs that are to fit into a time: what is chosen, what is said of the rest, and that it stays."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robusteval import api
from robusteval.boards import publish
from robusteval.data.datasets import Dataset
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evidence.files import Local
from robusteval.evidence.record import open_store
from robusteval.models.adapter import Adapter
from robusteval.plan.suite import read_suite
from robusteval.run.budget import Chooser, in_order_of_worth
from robusteval.run.costs import Speed, Speeds
from robusteval.run.options import Options
from robusteval.run.prepare import prepare
from robusteval.run.progress import Silent
from robusteval.run.subject import Asked
from tests.helpers.commands import cli, refused
from tests.helpers.runs import attack_spec, context_of, suite_of

SECOND = Speed(1.0, 1.0)  # for each pass of an image
SLOW = Speeds(SECOND, SECOND, SECOND)
QUICK = Speeds(*[Speed(0.01, 0.01)] * 3)
PGD = {"steps": 10, "alpha": 0.05}


@pytest.fixture(scope="module")
def slow() -> Iterator[None]:
    """Speeds that no machine has, and no time to prepare: what is chosen depends on none."""
    with pytest.MonkeyPatch.context() as patch:
        for place in ("robusteval.run.prepare", "robusteval.api"):
            patch.setattr(f"{place}.measured_speeds", lambda _: SLOW)
        patch.setattr("robusteval.run.prepare.monotonic", lambda: 0.0)
        yield


def chooser(model: Adapter, data: Dataset, *names: str, **about: Any) -> Chooser:
    """For PGD of ten steps, by each of these names, and Gaussian noise."""
    attacks = [attack_spec(n, library="torchattacks", attack="PGD", parameters=PGD) for n in names]
    noise = attack_spec("noise", attack="gaussian_noise")
    spec = context_of(model, data, suite_of(*attacks, noise)).spec
    return Chooser(spec, model.parts, model.classes, SLOW, **about)


def test_seconds_are_those_of_every_pass(pcl_digits: Adapter, digits: Dataset) -> None:
    """Two clean predictions; ten steps forward and back; two looks at what they found; one look at
    what is stored; and two seconds for the report."""
    here = chooser(pcl_digits, digits, "pgd")
    assert here.seconds(["pgd"], 50) == 50 * (2 + 10 + 10 + 2 + 1) + 2
    shared = replace(here, workers=2, spent=7.0)
    assert shared.seconds(["pgd"], 50) == 50 * (2 + 10 + 10 + 2) / 2 + 50 + 2 + 7


def test_what_fits_is_chosen_and_no_more_would(pcl_digits: Adapter, digits: Dataset) -> None:
    here = chooser(pcl_digits, digits, "one", "two", "three")
    whole = here.seconds(["one", "two", "three", "noise"], 360)
    assert here.choose(whole).names == ("one", "two", "three", "noise")
    limit = here.seconds(["one", "two", "noise"], 360)
    choice = here.choose(limit)
    assert (choice.names, choice.samples) == (("one", "two", "noise"), 360)
    assert choice.left_out(here.spec.suite) == ("three",)
    assert here.seconds(["one", "two", "three"], 360) > limit == choice.seconds


def test_samples_are_cut_where_one_attack_is_too_much(pcl_digits: Adapter, digits: Dataset) -> None:
    here = chooser(pcl_digits, digits, "one", "two")
    choice = here.choose(200 * 25 + 2)
    assert (choice.names, choice.samples) == (("one",), 200)
    with pytest.raises(RobustevalError, match=r"nothing fits: the least, noise on 100 samples, ta"):
        here.choose(100)
    least = here.seconds(["noise"], 100)
    assert here.choose(least).names == ("noise",)
    with pytest.raises(RobustevalError, match="nothing fits"):
        here.choose(least - 0.1)


def test_the_truest_comes_first() -> None:
    assert in_order_of_worth(read_suite("full")) == [
        *("adaptive", "diagnostics", "autoattack", "joint_pc", "prototype_margin", "detection"),
        *("fgsm", "bim", "mim", "pgd10", "pgd20", "smallest", "pgd_l2", "cw", "deepfool"),
        *("gaussian_noise", "square"),
    ]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [("first:200", "first"), (range(0, 360, 2), tuple(range(0, 300, 2))), (None, "balanced")],
)
@pytest.mark.usefixtures("slow")
def test_fewer_samples_are_chosen_as_all_were(asked: Any, chosen: Any, tmp_path: Path) -> None:
    """Those that a run of so many would have had, so that runs can be compared."""
    budget = 150 * 25 + 2 + 24  # of the 25 s for one more
    few = Options(samples=asked, only=("pgd10",), budget=budget, out=tmp_path)
    cut = prepare(Asked("pcl_digits"), "quick", few)
    assert cut.spec.samples == 150
    assert cut.spec.chosen == chosen
    samples = {"first": "first:150", "balanced": 150}.get(chosen, chosen)
    plain = prepare(Asked("pcl_digits"), "quick", replace(few, samples=samples, budget=None))
    assert cut.spec.data_digest == plain.spec.data_digest


BUDGET = ("--model", "pcl_digits", "--suite", "quick", "--samples", "30", "--budget", "1650s")
LEFT_OUT = ["gaussian_noise", "pgd10", "pgd_l2", "diagnostics", "detection"]
TOLD = f"left out for the budget of 27 min: {', '.join(LEFT_OUT)}"


class Impatient(Silent):
    """Interrupts a run after its first attack."""

    def finish(self, cell: object, status: str) -> None:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, slow: None) -> api.Report:
    """A run that was interrupted, and went on when the machine was a hundred times faster."""
    out = tmp_path_factory.mktemp("runs")
    asked: dict[str, Any] = {"samples": 30, "budget": "1650s", "threads": 1, "out": out}
    with pytest.raises(KeyboardInterrupt):
        api.evaluate("pcl_digits", "quick", **asked, progress=Impatient())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robusteval.run.prepare.measured_speeds", lambda _: QUICK)
        return api.evaluate("pcl_digits", "quick", **asked)


def test_a_run_goes_on_with_what_was_chosen(cut: api.Report) -> None:
    assert cut.complete
    assert list(cut.folder.parent.iterdir()) == [cut.folder]
    done = {row["name"] for row in cut.content["attacks"]}
    assert done == {"fgsm", "prototype_margin"}


def test_another_budget_is_another_run(cut: api.Report) -> None:
    asked: dict[str, Any] = {"samples": 30, "threads": 1, "out": cut.folder.parent}
    names = {
        prepare(Asked("pcl_digits"), "quick", Options(budget=budget, **asked)).spec.name
        for budget in (None, "1650s", "1651s")
    }
    assert len(names) == 3
    assert cut.folder.name in names


def test_evidence_and_report_say_what_was_left_out(cut: api.Report) -> None:
    _, spec, _ = open_store(Local(cut.folder))
    assert spec.budget is not None
    assert (spec.budget.seconds, spec.budget.samples) == (1650, 30)
    assert [*spec.budget.attacks, *spec.budget.parts] == LEFT_OUT
    assert 1500 < spec.budget.planned <= 1650
    budget = cut.content["budget"]
    assert (budget["left_out"], budget["samples_asked"]) == (LEFT_OUT, 30)
    assert set(cut.left_out["name"]) == set(LEFT_OUT)
    for worst in cut.content["worst_case"]:  # what was left out might have broken more
        assert (worst["complete"], worst["robust_accuracy"]) == (False, None)
        assert worst["at_most"]["n"] == 30
    assert "at most" in str(cut)
    finding = next(f for f in cut.content["findings"] if f["check"] == "budget")
    assert (finding["verdict"], finding["measured"]) == ("suspicious", TOLD)
    for name in ("report.html", "report.md"):
        text = (cut.folder / name).read_text("utf-8")
        assert "detection was left out, because it did not fit into the budget of 27 min" in text
    assert "left out for a budget" in repr(cut)


@pytest.mark.usefixtures("slow")
def test_the_terminal_says_what_was_left_out(
    cut: api.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = ("--threads", "1", "--out", str(cut.folder.parent))
    result = cli("run", *BUDGET, *out)
    assert result.exit_code == 0
    assert TOLD in " ".join(result.stdout.split())
    several = cli("run", *BUDGET, *out, "--model", "pcl_digit[s]")
    assert f"pcl_digits: {TOLD}" in " ".join(several.stdout.split())
    dry = cli("run", *BUDGET, *out, "--dry-run")
    assert TOLD in dry.stdout
    assert "detection" not in dry.stdout.replace(TOLD, "")


def test_it_is_proven_as_any_run(cut: api.Report) -> None:
    checks = {check.name: check for check in api.verify(cut.folder)}
    assert all(check.held for check in checks.values())
    told = "the project's quick, 3 of its 5 attacks left out, diagnostics and detection too"
    assert checks["suite"].told == told


def is_refused(folder: Path) -> bool:
    """Whether a run can't be read, or does not hold."""
    try:
        return not all(check.held for check in api.verify(folder))
    except EvidenceError:
        return True


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attacks", ["fgsm"]),
        ("attacks", ["pgd10", "pgd10"]),
        ("parts", ["attacks"]),
        ("samples", 29),
        ("seconds", 0),
        ("planned", -1),
        ("planned", 2001),
        ("asked", "0" * 64),
        ("seconds", 3000),
        ("attacks", ["pgd10"]),
    ],
)
def test_what_a_run_says_of_its_budget_can_not_be_changed(
    cut: api.Report, field: str, value: object
) -> None:
    path = cut.folder / "run.json"
    before = path.read_text("utf-8")
    record = json.loads(before)
    record["spec"]["budget"][field] = value
    path.write_text(json.dumps(record), "utf-8")
    try:
        assert is_refused(cut.folder)
    finally:
        path.write_text(before, "utf-8")


def test_leaderboards_take_whole_runs(cut: api.Report, tmp_path: Path) -> None:
    with pytest.raises(
        EvidenceError, match=r"cut to a budget, for which gaussian_noise, pgd10, pgd_l2, diagnost"
    ):
        publish.add([cut.folder], tmp_path)


@pytest.mark.parametrize("text", ["0", "-1m", "ten", "nan", "inf", "1h30", "", "1e9h", "5 m"])
def test_bad_budgets_get_one_line(text: str) -> None:
    refused(cli("run", "--model", "pcl_digits", "--budget", text), "--budget", "10m or 1h30m")
    with pytest.raises(RobustevalError, match="budget = "):
        Options(budget=text)  # type: ignore[arg-type]


def test_other_values_are_no_budgets() -> None:
    for value in (0, -1.0, float("inf"), True, [600], object()):
        with pytest.raises(RobustevalError, match="budget = "):
            Options(budget=value)  # type: ignore[arg-type]
    assert Options(budget="1m30s").budget == Options(budget=90).budget == 90  # type: ignore[arg-type]


@pytest.mark.usefixtures("slow")
def test_too_small_a_budget_says_what_would_do(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "runs"))
    result = cli("run", *BUDGET[:-1], "1m", *out)
    refused(result, "--budget 1 min: nothing fits", "on 30 samples, takes up to 3 min 32 s")
    assert not (tmp_path / "runs").exists()
