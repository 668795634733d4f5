"""The libraries' attacks as data: every one of them, its norms, its parameters and their ranges."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval import api
from robusteval.attacks.counting import as_counted
from robusteval.attacks.libraries import advlib, foolbox, torchattacks
from robusteval.attacks.libraries.torchattacks import (
    REFUSED,
    torchattacks_attack,
    torchattacks_module,
)
from robusteval.attacks.ranges import FROM_THE_HARNESS
from robusteval.attacks.registry import find
from robusteval.errors import AttackError
from robusteval.plan.plan import check_names
from robusteval.plan.suite import read_suite, suite_names
from robusteval.types import NORMS, ThreatModel
from tests.helpers.attacks import AddAttack, Call, require_installed
from tests.helpers.commands import cli, refused
from tests.helpers.known import images_near_grey, threat_of

# What no suite can give: starting points, penalties, other forms of the answer, and what the
# threat model says.
LEFT_OUT = {
    *("starting_points", "penalty", "return_unsuccessful", "return_targets"),
    *("init_attack", "distance", "tensorboard", "channel_axis", "constraint", "epsilon"),
}
TABLES = {
    "torchattacks": torchattacks.TABLE.listed,
    "advlib": advlib.TABLE.listed,
    "foolbox": foolbox.TABLE.listed,
}
TORCHATTACKS, ADVLIB = TABLES["torchattacks"], TABLES["advlib"]
EVERY = [(library, name) for library, table in TABLES.items() for name in table]


def signature_of(library: str, name: str) -> dict[str, inspect.Parameter]:
    """What an attack takes; of Foolbox's, which take ε where they run, that too."""
    require_installed(library, name)
    if library == "advlib":
        return dict(inspect.signature(getattr(advlib.advlib_module(), name)).parameters)
    if library == "foolbox":
        kind = getattr(foolbox.foolbox_module().attacks, name)
        taken = dict(inspect.signature(kind.run).parameters)
        return {k: v for k, v in taken.items() if k == "epsilon"} | dict(
            inspect.signature(kind).parameters
        )
    return dict(inspect.signature(getattr(torchattacks_module(), name)).parameters)


def test_every_class_of_torchattacks_is_known_or_refused() -> None:
    """By the library's own list, and by what it exports without listing it."""
    module = torchattacks_module()
    base = module.PGD.__mro__[1]
    exported = {n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base)}
    assert set(module.__all__) | exported == set(TORCHATTACKS) | set(REFUSED)
    assert not set(TORCHATTACKS) & set(REFUSED)


@pytest.mark.parametrize(("library", "name"), EVERY)
def test_a_range_for_every_parameter(library: str, name: str) -> None:
    """And every default is in it."""
    taken, told = signature_of(library, name), TABLES[library][name]
    given = (FROM_THE_HARNESS | LEFT_OUT) - set(told.parameters)
    ours = {"target"} if library == "torchattacks" else set()  # a word of the harness
    assert set(taken) - given == set(told.parameters) - ours
    for parameter, within in ((p, r) for p, r in told.parameters.items() if p not in ours):
        assert within.has(taken[parameter].default), parameter
    for passed in filter(None, (told.eps, told.order)):
        assert passed in taken


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_norms_are_those_of_its_own_documentation(name: str) -> None:
    text = inspect.getdoc(getattr(torchattacks_module(), name)) or ""
    measured = re.search(r"Distance Measure : (.+)", text)
    assert measured is not None
    assert [n for n in NORMS if n in measured[1]] == list(TORCHATTACKS[name].norms)


NO_COUNT = [0, -5, True, 2.0, "3", 10**12, float("nan"), float("inf"), None]
NO_NUMBER = [True, "0.1", float("nan"), float("inf"), -float("inf"), -1.0, -1, None, 1j]


@pytest.mark.parametrize(("library", "name"), EVERY)
def test_what_is_no_value_is_refused_for_each_parameter(library: str, name: str) -> None:
    signature_of(library, name)
    told = TABLES[library][name]
    for parameter, within in told.parameters.items():
        if isinstance(True, within.kind) and within.kind is bool:
            bad: list[Any] = [1, 0, "true"]
        elif within.kind is str:
            bad = ["", "no such", 1, True]
        else:
            bad = NO_COUNT if within.has(7) and not within.has(7.5) else NO_NUMBER
        for value in bad:
            if value is None and within.optional:
                continue
            call = Call(library, name, {parameter: value})
            with pytest.raises(AttackError, match=f"{name}: {parameter} = .*: choose ") as caught:
                call.check(told.norms)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("library", "name"), EVERY)
def test_other_norms_are_refused(library: str, name: str) -> None:
    signature_of(library, name)
    told = TABLES[library][name]
    for norm in set(NORMS) - set(told.norms):
        with pytest.raises(AttackError, match=f"{name} doesn't work in {norm}: set its norms to"):
            Call(library, name, {}).check((norm,))
    Call(library, name, {}).check(told.norms)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name: str) -> None:
    with pytest.raises(AttackError, match=f"{name} can't be run: "):
        Call("torchattacks", name, {}).check(("Linf",))


@pytest.mark.parametrize("parameter", ["eps", "norm", "seed", "n_classes", "verbose"])
def test_what_the_run_gives_is_no_parameter(parameter: str) -> None:
    with pytest.raises(AttackError, match=f"{parameter} is given by the run itself"):
        Call("torchattacks", "APGDT", {parameter: 1}).check(("Linf",))


def test_unknown_parameters_name_the_near_ones() -> None:
    with pytest.raises(AttackError, match=r"no parameter 'step'.*did you mean steps"):
        Call("torchattacks", "PGD", {"step": 3}).check(("Linf",))
    with pytest.raises(AttackError, match=r"no parameter 'alpha'.*known: target"):
        Call("torchattacks", "FGSM", {"alpha": 0.1}).check(("Linf",))
    with pytest.raises(AttackError, match=r"no parameter 'setps'.*did you mean steps"):
        Call("robusteval", "joint_pc", {"setps": 3}).check(("Linf",))


def test_a_new_class_of_a_library_is_not_run_with_values_that_nobody_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = torchattacks_module()
    monkeypatch.setattr(module, "NewPGD", module.PGD, raising=False)
    given = (nn.Flatten(), images_near_grey(2), torch.zeros(2).long(), threat_of("Linf", 0.1))
    with pytest.raises(AttackError, match="no attack 'NewPGD'"):
        torchattacks_attack(*given, name="NewPGD", seed=0, parameters={})


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(3 * 64, 16), nn.Tanh(), nn.Linear(16, 5))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("name", [n for n in TORCHATTACKS if n != "EADEN"])
def test_every_attack_is_one_with_its_defaults(name: str) -> None:
    """It asks the model, moves images, and, with few exceptions, fools an undefended model."""
    model, images = network(), images_near_grey(4, (3, 8, 8))
    labels, norm = model(images).argmax(1), TORCHATTACKS[name].norms[-1]
    if name == "Square":
        norm = "Linf"  # its first windows don't fit on such images in L2
    counted = as_counted(model, images)
    call = Call("torchattacks", name, {})
    found = call(counted, images, labels, threat_of(norm, 0.2 if norm == "Linf" else 2), 0).images
    assert counted.forward_passes.sum() >= len(images)
    assert not torch.equal(found, images)
    if name not in ("SPSA", "TPGD"):  # one step of 0.01; and one that has no label
        assert (model(found).argmax(1) != labels).any()


# Enough to tell one factor of an attack's passes from another.
SMALL = {
    **{"n_queries": 50, "steps": 12, "max_iterations": 20, "binary_search_steps": 3},
    **{"num_steps": 24, "n_iter": 12, "nb_iter": 5, "nb_sample": 8, "iter": 12, "search_iter": 4},
    **{"df_steps": 6, "N": 4, "m": 3, "eot_iter": 2, "n_restarts": 2, "restarts": 2},
    **{"noise_batch_size": 4, "batch_max": 16, "num_iter_set": 5, "num_targets": 3},
    **{"initial_gradient_eval_steps": 20},
}
STOPS_EARLY = {
    *("L2DeepFoolAttack", "LinfDeepFoolAttack", "L2CarliniWagnerAttack", "EADAttack"),
    *("BoundaryAttack", "HopSkipJumpAttack", "LinearSearchBlendedUniformNoiseAttack"),
    *("L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack"),
    *("CW", "DeepFool", "EADEN", "FAB", "fab", "df", "sdf", "tr"),
    *("carlini_wagner_l2", "carlini_wagner_linf"),
}


@pytest.mark.parametrize(("library", "name"), EVERY)
def test_passes_are_those_that_it_states(library: str, name: str) -> None:
    """At most so many for each sample that isn't broken, and of most attacks hardly fewer."""
    signature_of(library, name)
    attack, model = find(library, name), network()
    images = images_near_grey(4, (3, 8, 8))
    labels = model(images).argmax(1)
    given = {k: v for k, v in SMALL.items() if k in attack.parameters}
    threat = threat_of(attack.norms[0], 1e-5 if attack.knows_eps else 0.1)
    counted = as_counted(model, images)
    attack.run(counted, images, labels, threat, 0, given)
    forward, backward = attack.expected_passes(given, 5)
    made = counted.forward_passes.mean(), counted.backward_passes.mean()
    assert made[0] <= forward
    assert made[1] <= backward
    if name not in STOPS_EARLY:
        assert made[0] > 0.85 * forward
        assert made[1] >= 0.85 * backward


def test_the_number_of_classes_is_the_models() -> None:
    """By default APGDT asks for ten, which five are not."""
    model, images = network(), images_near_grey(4, (3, 8, 8))
    labels = model(images).argmax(1)
    given = (as_counted(model, images), images, labels, threat_of("Linf", 0.2), 0)
    found = Call("torchattacks", "APGDT", {"steps": 5})(*given)
    assert (model(found.images).argmax(1) != labels).all()
    assert "n_classes" not in find("torchattacks", "APGDT").all_parameters({})


def test_images_and_classes_that_an_attack_cannot_take() -> None:
    grey, threat = images_near_grey(2), threat_of("Linf", 0.1)
    five, two = nn.Linear(64, 5), nn.Linear(64, 2)
    for name, last, parameters, told in (
        ("TIFGSM", five, {}, "needs images of 3 channels"),
        ("PIFGSM", five, {}, "needs images of 3 channels"),
        ("APGDT", two, {}, "needs 4 classes"),
        ("APGD", two, {"loss": "dlr"}, "needs 3 classes"),
    ):
        model = nn.Sequential(nn.Flatten(), last)
        given = (model, grey, torch.zeros(2).long(), threat)
        with pytest.raises(AttackError, match=told):
            torchattacks_attack(*given, name=name, seed=0, parameters=parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", suite_names())
def test_the_projects_own_suites_go_on_as_they_are(name: str) -> None:
    if name == "minimum_norm":
        pytest.importorskip("adv_lib")
    check_names(read_suite(name), [threat_of("Linf", 0.03), threat_of("L2", 0.5)])


SUITE = """
name = "mine"
[[attacks]]
name = "a"
title = "A"
library = "{library}"
attack = "{attack}"
norms = ["{norm}"]
{rest}
"""


@pytest.mark.parametrize(
    ("attack", "norm", "rest", "said"),
    [
        ("PGD", "Linf", "parameters = { steps = 0 }", "PGD: steps = 0: choose a whole number"),
        ("PGD", "Linf", "parameters = { steps = -5 }", "steps = -5"),
        ("PGD", "Linf", "parameters = { steps = true }", "steps = True"),
        ("PGD", "Linf", 'parameters = { alpha = "1e400" }', "alpha = '1e400': choose above 0"),
        ("PGD", "Linf", 'times_eps = { steps = "1" }', "steps = 0.03"),
        ("PGD", "Linf", 'times_eps = { alhpa = "1" }', "no parameter 'alhpa'"),
        ("Square", "L2", "parameters = { n_queries = -1 }", "n_queries = -1"),
        ("PGD", "L2", "", "PGD doesn't work in L2: set its norms to Linf"),
        ("CW", "Linf", "", "CW doesn't work in Linf: set its norms to L2"),
        ("JSMA", "L2", "", "JSMA can't be run: it works in L0"),
    ],
)
def test_a_suite_that_would_do_nothing_is_refused_before_the_run(
    attack: str, norm: str, rest: str, said: str, tmp_path: Path
) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(SUITE.format(library="torchattacks", attack=attack, norm=norm, rest=rest))
    eps = "0.03" if norm == "Linf" else "L2:0.03"
    asked = ("run", "--model", "ce_digits", "--suite", str(suite), "--out", str(tmp_path / "out"))
    refused(cli(*asked, "--eps", eps, "--samples", "10"), said)
    assert not (tmp_path / "out").exists()


def test_numpys_integers_are_integers() -> None:
    assert find("robusteval", "smallest").parameters["steps"].has(np.int64(5))
    joint = find("robusteval", "joint_pc").parameters
    assert joint["step_size"].has(np.float32(0.5))
    assert not joint["start"].has(1)


# What evidence tells of an attack that did nothing


def idle(
    model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, *, seed: int
) -> Tensor:
    """A plug-in that gives back what it was given."""
    return images


def test_an_attack_that_did_nothing_is_a_finding(tmp_path: Path, add_attack: AddAttack) -> None:
    """Noise that 16 bits round away apart."""
    add_attack("idle", idle)
    suite = tmp_path / "mine.toml"
    both = 'Linf", "L2'
    lazy = SUITE.format(library="robusteval", attack="idle", norm=both, rest="")
    noise = SUITE.format(library="robusteval", attack="gaussian_noise", norm=both, rest="")
    suite.write_text(lazy + noise.replace('name = "mine"', "").replace('"a"', '"b"'))
    options = api.Options(samples=10, eps=("1e-9", "L2:0.1"), out=tmp_path)
    report = api.evaluate("ce_digits", str(suite), options=options)
    (found,) = [f for f in report.content["findings"] if f["check"] == "attacks at work"]
    assert found["verdict"] == "broken"
    assert found["measured"].endswith("no pass: A (L∞ 1e-09), A (L2 0.1)")
    again = api.rebuild_report(report.folder)  # from the evidence alone
    assert found in again.content["findings"]


def test_adv_lib_has_the_same_names() -> None:
    pytest.importorskip("adv_lib")
    assert all(callable(getattr(advlib.advlib_module(), name)) for name in ADVLIB)
