"""The papers' suites, number by number against the papers' tables of settings."""

from typing import Any

import pytest

from robusteval.plan.suite import read_suite
from robusteval.types import Norm, ThreatModel, parse_eps

near = pytest.approx

PGD = {"random_start": True}
# Suite, norm, ε, attack: what it is called with.
SETTINGS: list[tuple[str, Norm, str, str, dict[str, Any]]] = [
    # SCPL, Table 1: 20 steps at 0.3 on MNIST, 7 at 8/255 elsewhere
    ("scpl_mnist", "Linf", "0.3", "pgd", {"steps": 20, "alpha": 0.075, "random_start": False}),
    ("scpl_mnist", "Linf", "0.3", "bim", {"steps": 20, "alpha": 0.015}),
    ("scpl_mnist", "Linf", "0.3", "pgd_rs", {"steps": 20, "alpha": 0.075, **PGD}),
    ("scpl_cifar", "Linf", "8/255", "pgd", {"steps": 7, "alpha": 2 / 255, "random_start": False}),
    ("scpl_cifar", "Linf", "8/255", "bim", {"steps": 7, "alpha": 8 / 255 / 7}),
    ("scpl_cifar", "Linf", "8/255", "pgd_rs", {"steps": 7, "alpha": 2 / 255, **PGD}),
    # DRP, Tables 1 to 3: PGD-20 and PGD-100 on eq. 6, steps of 2/255 at 8/255
    ("drp", "Linf", "8/255", "own_pgd20", {"steps": 20, "step_size": 0.25, "start": True}),
    ("drp", "Linf", "8/255", "own_pgd100", {"steps": 100, "step_size": 0.25, "start": True}),
    ("drp", "Linf", "8/255", "pgd20", {"steps": 20, "alpha": 2 / 255, **PGD}),
    ("drp", "Linf", "16/255", "pgd100", {"steps": 100, "alpha": 4 / 255, **PGD}),
    # PCL, Table 2
    ("pcl_cifar", "Linf", "0.03", "bim", {"steps": 10, "alpha": 0.003}),
    ("pcl_cifar", "Linf", "0.03", "mim", {"steps": 10, "alpha": 0.003, "decay": 1.0}),
    ("pcl_cifar", "Linf", "0.03", "pgd10", {"steps": 10, "alpha": 0.0075, **PGD}),
    ("pcl_mnist", "Linf", "0.3", "pgd10", {"steps": 10, "alpha": 0.075, **PGD}),
    # MPAT, Section 4.2: 2/255 at 8/255, 0.01 at 0.3
    ("mpat_cifar", "Linf", "8/255", "pgd10", {"steps": 10, "alpha": 2 / 255, **PGD}),
    ("mpat_cifar", "Linf", "8/255", "pgd20", {"steps": 20, "alpha": 2 / 255, **PGD}),
    ("mpat_mnist", "Linf", "0.3", "pgd10", {"steps": 10, "alpha": 0.01, **PGD}),
    ("mpat_mnist", "Linf", "0.3", "bim7", {"steps": 7, "alpha": 0.01}),
]


@pytest.mark.parametrize(("suite", "norm", "eps", "name", "given"), SETTINGS)
def test_settings(suite: str, norm: Norm, eps: str, name: str, given: dict[str, Any]) -> None:
    (spec,) = read_suite(suite).only([name]).attacks
    found = spec.parameters_for(ThreatModel(norm, parse_eps(eps)))
    assert found == {k: near(v) if isinstance(v, float) else v for k, v in given.items()}
    assert spec.restarts == 1


EPS = {
    "scpl_mnist": ["0.3"],
    "scpl_cifar": ["8/255"],
    "drp": ["8/255", "10/255", "12/255", "14/255", "16/255"],
    "pcl_cifar": ["0.01", "0.02", "0.03", "0.04"],  # Tables 3 and 5
    "pcl_mnist": ["0.1", "0.15", "0.2", "0.3"],  # Tables 3 and 6
    "mpat_cifar": ["8/255"],
    "mpat_mnist": ["0.3"],
}


@pytest.mark.parametrize("name", EPS)
def test_each_has_the_papers_eps_and_the_strongest_beside(name: str) -> None:
    suite = read_suite(name)
    assert suite.threats["Linf"] == EPS[name]
    attacks = {a.attack for a in suite.attacks}
    assert {"adaptive", "standard"} <= attacks
    assert {"own_loss", "joint_pc"} & attacks
    assert not suite.diagnostics.samples


@pytest.mark.parametrize(("name", "cs"), [("cifar", (0.001, 0.01, 0.1)), ("mnist", (0.1, 1, 10))])
def test_c_and_w_has_the_cs_of_pcl(name: str, cs: tuple[float, ...]) -> None:
    found = [a.parameters for a in read_suite(f"pcl_{name}").attacks if a.attack == "CW"]
    assert [one["c"] for one in found] == list(cs)
    assert all((one["steps"], one["lr"]) == (1000, 0.01) for one in found)


def test_the_joint_attacks_are_table_2s_on_eq_8() -> None:
    joint = {
        a.name: a.parameters for a in read_suite("pcl_cifar").attacks if a.attack == "joint_pc"
    }
    assert joint == {
        "joint_fgsm": {"steps": 1, "step_size": 1.0},
        "joint_bim": {"steps": 10, "step_size": 0.1},
        "joint_mim": {"steps": 10, "step_size": 0.1, "momentum": 1.0, "adds": "gradients"},
        "joint_pc": {"steps": 10, "step_size": 0.25, "start": True},
    }


@pytest.mark.parametrize(("suite", "eps"), [("scpl_mnist", 0.3), ("scpl_cifar", 8 / 255)])
@pytest.mark.parametrize(
    ("plain", "own"),
    [
        ("fgsm", "own_fgsm"),
        ("pgd", "own_pgd"),
        ("bim", "own_bim"),
        ("pgd_rs", "own_loss"),
        ("pgd_l2", "own_pgd_l2"),
    ],
)
def test_scpls_attacks_on_its_own_loss_differ_in_the_loss_alone(
    suite: str, eps: float, plain: str, own: str
) -> None:
    """Table 1 in the other reading of eq. 3."""
    first, second = ({a.name: a for a in read_suite(suite).attacks}[n] for n in (plain, own))
    assert first.norms == second.norms
    threat = ThreatModel(first.norms[0], eps)
    plain_ones, own_ones = first.parameters_for(threat), second.parameters_for(threat)
    assert own_ones["steps"] == plain_ones.get("steps", 1)
    assert own_ones["step_size"] * eps == near(plain_ones.get("alpha", eps), rel=1e-4)
    assert own_ones["start"] == plain_ones.get("random_start", False)


def test_targets_are_those_of_mpats_table_5() -> None:
    suite = read_suite("mpat_cifar")
    plain = next(a for a in suite.attacks if a.name == "pgd10")
    for mode in ("least_likely", "next", "random"):
        (aimed,) = suite.only([f"pgd10_{mode}"]).attacks
        assert aimed.parameters == {**plain.parameters, "target": mode}
        assert aimed.times_eps == plain.times_eps


def test_detection_of_scpl_is_read_as_its_paper_does() -> None:
    for name in ("scpl_cifar", "scpl_mnist"):
        assert read_suite(name).detection.attacks == ["pgd"]  # Table 3; the reading ``paper``
