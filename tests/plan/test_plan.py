"""Suites, threats, plans, seeds, and what a spec's digest covers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robusteval import api
from robusteval.data.datasets import Dataset
from robusteval.errors import (
    RobustevalError,
    SuiteError,
    ThreatError,
    UnknownNameError,
)
from robusteval.models.adapter import Adapter, Parts
from robusteval.plan.plan import (
    Cell,
    Plan,
    expected_passes,
    job_seed,
    make_plan,
)
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import Suite, read_suite, suite_names
from robusteval.plan.threats import threats_for
from robusteval.run.options import Options
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.runs import attack_spec, context_of, run_suite, spec_of, suite_of, unprobed

LINF = ThreatModel("Linf", parse_eps("0.15"))


# Suites

AUTO = """
name = "x"
[[attacks]]
name = "a"
title = "A"
library = "autoattack"
norms = ["Linf"]
"""


def test_the_suites_that_come_along() -> None:
    of_papers = ["mpat_cifar", "mpat_mnist", "pcl_cifar", "pcl_mnist", "scpl_cifar", "scpl_mnist"]
    ours = ["detection", "full", "minimum_norm", "ood", "quick"]
    assert suite_names() == sorted([*ours, "drp", *of_papers])
    full = read_suite("full")
    libraries = {a.library for a in full.attacks}
    assert libraries == {"torchattacks", "autoattack", "robusteval"}
    named = {a.name: a for a in full.attacks}
    assert named["bim"].parameters_for(LINF) == {"steps": 10, "alpha": pytest.approx(0.015)}
    assert named["pgd20"].restarts == 5
    assert named["square"].parameters["n_queries"] == 5000
    assert named["cw"].parameters == {"c": 1.0, "kappa": 0.0, "steps": 200, "lr": 0.01}
    assert full.detection.detectors[-1] == "nearest_prototype"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\nattacks = 3', "attacks"),
        ('name = "x"\n[threats]\nLinf = ["8"]', "8/255"),
        ('name = "x"\n[threats]\nL9 = ["8"]', "L9"),
        ('name = "x"\n[[attacks]]\nname = "a"', "title"),
        ('name = "x"\ncolour = 1', "colour"),
        ('name = "../x"', "name"),
        ('name = "x"\n[detection]\nattacks = ["pgd"]', "pgd"),
        (AUTO + 'attack = "rand"', "unmodified"),
        (AUTO + 'attack = "standard"\nparameters = { n_iter = 1 }', "unmodified"),
        ("name = ", "TOML"),
    ],
)
def test_broken_suites_name_the_field(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=said):
        read_suite(str(path))


def test_unknown_suites_and_attacks() -> None:
    with pytest.raises(UnknownNameError, match="full"):
        read_suite("ful")
    with pytest.raises(SuiteError, match="does not exist"):
        read_suite("nowhere.toml")
    with pytest.raises(UnknownNameError, match="pgd10"):
        read_suite("full").only(["pgd"])
    only = read_suite("full").only(["fgsm", "cw"])
    assert [a.name for a in only.attacks] == ["fgsm", "cw"]
    assert only.detection.attacks == []


def test_an_attack_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        suite_of(attack_spec(), attack_spec())


# Plans


def test_threats_come_from_the_user_the_suite_or_the_data(digits: Dataset) -> None:
    suite = read_suite("full")
    assert [str(t) for t in threats_for(suite, digits, [])] == ["Linf 0.15", "L2 0.6"]
    chosen = threats_for(suite, digits, ["4/255", "8/255", "L2:0.25", "4/255"])
    assert [str(t) for t in chosen] == ["Linf 4/255", "Linf 8/255", "L2 0.25"]
    own = suite.model_copy(update={"threats": {"Linf": ["0.1", "0.2"]}})
    assert [str(t) for t in threats_for(own, digits, [])] == ["Linf 0.1", "Linf 0.2", "L2 0.6"]
    linf_only = suite.only(["fgsm"])
    assert [t.norm for t in threats_for(linf_only, digits, [])] == ["Linf"]


def plan_of(model: Adapter, data: Dataset, suite: Suite, eps: list[str]) -> Plan:
    return context_of(model, data, suite, eps, batch_size=100).plan


def test_cells_and_chunks(pcl_digits: Adapter, ce_digits: Adapter, digits: Dataset) -> None:
    suite = read_suite("full").only(["fgsm", "cw", "prototype_margin"])
    plan = plan_of(pcl_digits, digits, suite, ["0.1", "0.2", "L2:0.5", "L2:1"])
    assert [c.key for c in plan.cells] == [
        "fgsm/Linf 0.1",
        "fgsm/Linf 0.2",
        "prototype_margin/Linf 0.1",
        "prototype_margin/Linf 0.2",
        "prototype_margin/L2 0.5",
        "prototype_margin/L2 1",
        "cw/L2",
    ]
    assert [t.eps_text for t in plan.cells[-1].threats] == ["0.5", "1"]
    assert [len(c) for c in plan.chunks] == [100, 100, 100, 60]
    without = plan_of(ce_digits, digits, suite, [])
    assert without.left_out == {"prototype_margin": "the model has no prototypes"}
    assert [c.spec.name for c in without.cells] == ["fgsm", "cw"]


def test_seeds_differ_wherever_they_should(pcl_digits: Adapter, digits: Dataset) -> None:
    cells = plan_of(pcl_digits, digits, read_suite("full"), []).cells
    seeds = {
        job_seed(s, cell, chunk, restart)
        for s in (0, 1)
        for cell in cells
        for chunk in range(3)
        for restart in range(2)
    }
    assert len(seeds) == 2 * len(cells) * 3 * 2
    assert job_seed(0, cells[0], 0, 0) == job_seed(0, cells[0], 0, 0)


def test_the_specs_digest_covers_what_decides_the_outcome() -> None:
    base = {
        "model": "m",
        "model_digest": "a",
        "dataset": "digits",
        "data_digest": "b",
        "suite": Suite(name="s"),
        "threats": [],
        "samples": 10,
        "seed": 0,
        "batch_size": 120,
    }
    digest = RunSpec(**base).digest
    changes = {"model_digest": "c", "data_digest": "c", "suite": Suite(name="t"), "seed": 1}
    changes |= {"threats": [["Linf", "8/255"]], "samples": 11, "batch_size": 60}
    assert len({RunSpec(**{**base, k: v}).digest for k, v in changes.items()} | {digest}) == 8
    assert RunSpec(**base).digest == digest


def test_a_suite_stands_in_a_spec_as_it_always_did() -> None:
    """A spec of an earlier version: its digest names a run's folder and stands in its evidence."""
    stored = Path(__file__).parents[1] / "evidence" / "older" / "schema_2" / "run.json"
    plain = json.loads(stored.read_text())["spec"]
    spec = RunSpec.from_json(plain)
    assert spec.suite.attacks[0].name == "adaptive"
    assert spec.to_json() == plain
    assert spec.name == "masked-tiny-410e077e"
    lacking = {**plain, "suite": {k: v for k, v in plain["suite"].items() if k != "description"}}
    assert RunSpec.from_json(lacking).to_json() == lacking  # as of suites that had no such field
    for name in suite_names():
        suite = read_suite(name)
        made = replace(spec, suite=suite.spelt_out())
        assert made.to_json()["suite"] == json.loads(json.dumps(suite.model_dump()))


def test_expected_passes_bound_what_is_really_used(pcl_digits: Adapter, digits: Dataset) -> None:
    data = digits.balanced_subset(5)
    names = ["fgsm", "pgd10", "joint_pc", "prototype_margin", "deepfool", "adaptive", "smallest"]
    result = run_suite(pcl_digits, data, unprobed("full").only(names))
    for outcome in result.outcomes:
        forward, backward = expected_passes(outcome.cell, 10)
        assert outcome.forward_passes[outcome.attacked].mean() <= forward, outcome.cell.key
        assert outcome.backward_passes[outcome.attacked].mean() <= backward, outcome.cell.key


def _expected(attack: str, restarts: int = 1, **parameters: object) -> tuple[int, int]:
    spec = attack_spec(
        library="torchattacks", attack=attack, restarts=restarts, parameters=parameters
    )
    return expected_passes(Cell(spec, (LINF,), spec.parameters), 10)


def test_restarts_multiply_what_a_sample_can_take() -> None:
    assert _expected("Square", n_queries=10) == (13, 0)
    assert _expected("Square", 3, n_queries=10) == (39, 0)
    assert _expected("Square", n_queries=10, n_restarts=5) == (61, 0)


def test_mean_gradients_multiply_what_a_sample_can_take() -> None:
    assert _expected("EOTPGD", steps=10, eot_iter=4) == (40, 40)
    assert _expected("EOTPGD", steps=10) == (20, 20), "the library's own default is two"


def test_a_surrogate_leads_adaptive_alone_on_a_second_budget(digits: Dataset) -> None:
    suite = read_suite("full").only(["adaptive", "pgd10", "autoattack"])
    alone, led = (
        make_plan(suite, spec_of(digits, suite, surrogate=surrogate), Parts(0, features=True))
        for surrogate in ((), ("s", "d"))
    )
    for once, twice in zip(alone.cells, led.cells, strict=True):
        times = 2 if once.spec.name == "adaptive" else 1
        forward, backward = expected_passes(once, 10)
        assert expected_passes(twice, 10) == (times * forward, times * backward), once.key


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_parameter_is_a_finite_number(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        attack_spec(parameters={"lr": value})


def test_what_would_be_run_is_estimated_without_gradients_too(digits: Dataset) -> None:
    def no_graph(images: Tensor) -> Tensor:
        return torch.eye(10)[images.detach().flatten(1).sum(1).long() % 10]

    told = api.estimate(Adapter(no_graph, 10), "quick", "digits", options=Options(samples=20))  # type: ignore[arg-type]
    passes = (1 + 10 + 10) * 20  # FGSM, PGD-10 in both norms
    attacks = next(part for part in told.parts if part.purpose == "attacks")
    assert (attacks.forward_passes, attacks.backward_passes) == (passes, passes)
    assert told.minutes > 0


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", ".hidden", "a b"])
def test_a_name_is_no_path(pcl_digits: Adapter, name: str) -> None:
    with pytest.raises(RobustevalError, match="use letters, digits"):
        api.evaluate(pcl_digits, "quick", dataset="digits", name=name)


def test_names_are_checked_before_anything_runs(pcl_digits: Adapter, digits: Dataset) -> None:
    for wrong, said in (
        (attack_spec(attack="joint_pcc"), "joint_pc"),
        (attack_spec(library="torchattacks", attack="PDG"), "PGD"),
    ):
        with pytest.raises(UnknownNameError, match=said):
            run_suite(pcl_digits, digits.balanced_subset(10), suite_of(wrong))
    detection = {"detectors": ["max_logits"]}
    suite = suite_of(attack_spec(attack="joint_pc"), detection=detection)
    with pytest.raises(UnknownNameError, match="max_logit"):
        run_suite(pcl_digits, digits.balanced_subset(10), suite)


def test_an_eps_that_no_attack_uses_is_refused(digits: Dataset) -> None:
    with pytest.raises(ThreatError, match="L2"):
        threats_for(read_suite("full").only(["fgsm"]), digits, ["L2:1"])


def test_the_report_tells_defaults_too(pcl_digits: Adapter, digits: Dataset) -> None:
    suite = read_suite("full").only(["prototype_margin", "pgd_l2", "autoattack"])
    plan = plan_of(pcl_digits, digits, suite, [])
    parameters = {c.spec.name: c.attack.all_parameters(c.parameters) for c in plan.cells}
    assert parameters["prototype_margin"] == {"steps": 40, "momentum": 0.0, "start": True}
    assert parameters["pgd_l2"]["alpha"] == pytest.approx(0.15)
    assert parameters["pgd_l2"]["random_start"] is True
    assert parameters["autoattack"]["square_queries"] == 5000
