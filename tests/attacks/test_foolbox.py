"""Foolbox's attacks by name, against known smallest perturbations, and where they find nothing."""

import inspect
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from robusteval import api, listing
from robusteval.attacks import record
from robusteval.attacks.counting import as_counted
from robusteval.attacks.foolbox_table import LISTED, REFUSED
from robusteval.attacks.libraries import foolbox
from robusteval.attacks.registry import find
from robusteval.attacks.steps import norms, project
from robusteval.errors import AttackError, UnknownNameError
from robusteval.evidence.judge import judge
from robusteval.models.adapter import Adapter
from robusteval.types import Norm
from tests.helpers.attacks import Call
from tests.helpers.commands import cli, refused
from tests.helpers.known import Function, images_near_grey, linear, margins, threat_of

SUITE = """
name = "foolboxes"
[[attacks]]
name = "pgd"
title = "PGD (Foolbox)"
library = "foolbox"
attack = "LinfPGD"
norms = ["Linf"]
parameters = { steps = 10 }
[[attacks]]
name = "deepfool"
title = "DeepFool (Foolbox)"
library = "foolbox"
attack = "LinfDeepFoolAttack"
norms = ["Linf"]
[[attacks]]
name = "noise"
title = "Noise (Foolbox)"
library = "foolbox"
attack = "LinfRepeatedAdditiveUniformNoiseAttack"
norms = ["Linf"]
parameters = { repeats = 5 }
"""


@pytest.fixture
def module() -> ModuleType:
    pytest.importorskip("foolbox")
    return foolbox.foolbox_module()


def called(name: str, norm: Norm, **parameters: object) -> Call:
    call = Call("foolbox", name, parameters)
    call.check((norm,))
    return call


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "norm", "near", "parameters"),
    [
        ("L2DeepFoolAttack", "L2", 1.1, {}),
        ("LinfDeepFoolAttack", "Linf", 1.2, {}),
        ("LInfFMNAttack", "Linf", 1.05, {}),
        ("DDNAttack", "L2", 1.4, {}),
        ("L2CarliniWagnerAttack", "L2", 1.5, {"steps": 100}),
        ("EADAttack", "L2", 1.9, {"steps": 100}),
        ("HopSkipJumpAttack", "Linf", 1.3, {"steps": 15}),
        ("HopSkipJumpAttack", "L2", 2.5, {"steps": 15}),
        ("BoundaryAttack", "L2", 6.0, {"steps": 1000}),
    ],
)
def test_smallest_perturbations(
    name: str, norm: Norm, near: float, parameters: dict[str, object]
) -> None:
    """Of most samples, as near in the median as each is known to come, and never below."""
    known, call = linear(norm, 4), called(name, norm, **parameters)
    assert not call.record.knows_eps
    counted = as_counted(known.model, known.images)
    found = call(counted, known.images, known.labels, threat_of(norm, 0.01), 0).images
    ratios = known.ratios(found)[margins(known.model, found, known.labels) > -1e-5]
    assert len(ratios) > 40
    assert ratios.min() > 1 - 1e-3
    assert ratios.median() < near


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "norm"), [("L2BrendelBethgeAttack", "L2"), ("LinfinityBrendelBethgeAttack", "Linf")]
)
def test_brendel_and_bethge_follow_the_boundary(name: str, norm: Norm) -> None:
    """Where numba is installed, which compiles them for a minute."""
    pytest.importorskip("numba")
    known, call = linear(norm, 4, 20), called(name, norm, steps=60)
    counted = as_counted(known.model, known.images)
    found = call(counted, known.images, known.labels, threat_of(norm, 0.01), 0).images
    ratios = known.ratios(found)[margins(known.model, found, known.labels) > -1e-5]
    assert len(ratios) == 20
    assert 1 - 1e-3 < ratios.median() < 1.01


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "norm", "far"),
    [
        *((name, "Linf", 2.5) for name in ("FGSM", "LinfPGD", "MIFGSM", "LinfAdamPGD")),
        *((name, "L2", 2.5) for name in ("FGM", "L2PGD", "L2AdamBasicIterativeAttack")),
        ("L2RepeatedAdditiveGaussianNoiseAttack", "L2", 8.0),
    ],
)
def test_attacks_that_are_told_eps(name: str, norm: Norm, far: float) -> None:
    """They stay in the ball, break what is ``far`` below ε, and nothing that can't be broken."""
    known, call = linear(norm, 4), called(name, norm)
    radius = float(known.smallest.median())
    assert call.record.knows_eps
    counted = as_counted(known.model, known.images)
    found = call(counted, known.images, known.labels, threat_of(norm, radius), 0).images
    assert norms(found - known.images, norm).max() <= radius + 1e-5
    broken = margins(known.model, found, known.labels) > 0
    assert broken[known.smallest < radius / far].all()
    assert broken.any()
    assert not broken[known.smallest > radius * (1 + 1e-5)].any()


@pytest.mark.usefixtures("module")
def test_noise_that_leaves_the_ball_is_put_back(pcl_digits: Adapter) -> None:
    """Foolbox scales it by its largest value, be others further below zero."""
    images = images_near_grey(20)
    labels = pcl_digits(images).argmax(1)
    call, threat = called("LinfRepeatedAdditiveUniformNoiseAttack", "Linf"), threat_of("Linf", 0.4)
    found = call(as_counted(pcl_digits, images), images, labels, threat, 0).images
    assert norms(found - images, "Linf").max() > 0.4 + 1e-4
    judged = judge(pcl_digits, project(found, images, threat), images, labels, threat, True)
    assert judged.norm.max() <= 0.4 + 1e-6
    assert judged.fooled.any()


def test_every_attack_of_foolbox_is_known_or_refused(module: ModuleType) -> None:
    """By all that its module exports, its short names among them."""
    base = module.attacks.Attack
    exported = {
        name
        for name, kind in vars(module.attacks).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }
    assert exported == set(LISTED) | set(REFUSED)
    assert not set(LISTED) & set(REFUSED)
    for name in LISTED:
        told = issubclass(getattr(module.attacks, name), module.attacks.base.FixedEpsilonAttack)
        assert find("foolbox", name).knows_eps == told


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name: str) -> None:
    with pytest.raises(AttackError, match=f"foolbox.{name} can't be run: "):
        find("foolbox", name)


def test_fmn_in_l2_ends_many_times_too_far(module: ModuleType) -> None:
    """Why it is refused: where this fails, Foolbox has mended it."""
    known = linear("L2", 4)
    seen = module.PyTorchModel(known.model.eval(), (0, 1), device="cpu")
    found = module.attacks.L2FMNAttack().run(seen, known.images, known.labels)
    assert known.ratios(found).median() > 10


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["L2CarliniWagnerAttack", "EADAttack"])
def test_a_black_image_is_none_that_was_found(name: str) -> None:
    """What it gives where it found nothing; here the model takes black for another class."""

    def logits(images: torch.Tensor) -> torch.Tensor:
        bright = images.flatten(1).mean(1) - 0.05
        return torch.stack([bright, -bright], 1)

    images = images_near_grey(3)
    counted = as_counted(Function(logits), images)
    given = (counted, images, torch.zeros(3).long(), threat_of("L2", 1), 0)
    found = called(name, "L2", steps=1, binary_search_steps=1)(*given).images
    assert torch.equal(found, images)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["BoundaryAttack", "HopSkipJumpAttack"])
def test_images_without_a_start_stay_as_they_are_and_others_go_on(name: str) -> None:
    """Noise is of class 0, so that nothing fools the model where that is the label."""

    def logits(images: torch.Tensor) -> torch.Tensor:
        rough = images.flatten(1).std(1) - 0.1
        return torch.stack([rough, -rough], 1)

    generator = torch.Generator().manual_seed(1)
    images = images_near_grey(4)
    images[:2] = torch.rand((2, 1, 8, 8), generator=generator)
    labels = torch.tensor([0, 0, 1, 1])
    counted = as_counted(Function(logits), images)
    given = (counted, images, labels, threat_of("L2", 1), 0)
    told = called(name, "L2", steps=2)(*given)
    assert torch.equal(told.images[:2], images[:2])
    assert (counted(told.images[2:]).argmax(1) == 0).all()
    assert told.notes == ["no start was found for 2 of 4 images: they stay as they are"]


@pytest.mark.usefixtures("module")
def test_a_model_that_contradicts_itself_is_told() -> None:
    """HopSkipJump holds by an assertion that what fooled the model still does."""
    known = linear("L2", 3)
    noisy = Function(lambda x: known.model(x) + 0.3 * torch.randn(len(x), 3))
    given = (as_counted(noisy, known.images), known.images, known.labels, threat_of("L2", 1), 0)
    with pytest.raises(AttackError, match=r"HopSkipJumpAttack gave up: .*differently"):
        called("HopSkipJumpAttack", "L2", steps=3)(*given)


@pytest.mark.usefixtures("module")
def test_what_cannot_run_is_told_before_anything_runs() -> None:
    with pytest.raises(UnknownNameError, match=r"LinfPDG.*LinfPGD"):
        called("LinfPDG", "Linf")
    with pytest.raises(AttackError, match="write LinfPGD, its shorter name"):
        called("LinfProjectedGradientDescentAttack", "Linf")
    with pytest.raises(AttackError, match="DDNAttack doesn't work in Linf: set its norms to L2"):
        called("DDNAttack", "Linf")
    with pytest.raises(AttackError, match=r"no parameter 'stepsize'.*rel_stepsize"):
        called("LinfPGD", "Linf", stepsize=0.1)
    deaf, images = Function(lambda x: x.detach().flatten(1)[:, :3]), images_near_grey(2)
    given = (as_counted(deaf, images), images, torch.zeros(2).long(), threat_of("Linf", 1), 0)
    with pytest.raises(AttackError, match="no gradient reaches the images"):
        called("LinfPGD", "Linf")(*given)


@pytest.mark.usefixtures("module")
def test_parameters_in_the_report_are_plain() -> None:
    shown = find("foolbox", "HopSkipJumpAttack").all_parameters({"steps": 20})
    assert shown["steps"] == 20
    assert set(shown) == set(LISTED["HopSkipJumpAttack"].parameters)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["LinfPGD", "HopSkipJumpAttack"])
def test_a_seed_is_all_that_it_needs(name: str) -> None:
    """The same images again, and the caller's own draws as if nothing had been drawn."""
    known, found = linear("Linf", 3, 8), []
    call = called(name, "Linf", steps=3)
    for before in (5, 6):
        torch.manual_seed(before)
        counted = as_counted(known.model, known.images)
        found.append(call(counted, known.images, known.labels, threat_of("Linf", 0.01), 3).images)
        if before == 5:
            drawn = torch.rand(4)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(4), drawn)
    assert torch.equal(*found)
    other = call(counted, known.images, known.labels, threat_of("Linf", 0.01), 4).images
    assert not torch.equal(found[0], other)


# In a suite, with and without the extra


@pytest.mark.usefixtures("module")
def test_a_suite_names_them(tmp_path: Path) -> None:
    suite = tmp_path / "foolboxes.toml"
    suite.write_text(SUITE)
    report = api.evaluate("pcl_digits", str(suite), samples=20, out=tmp_path)
    assert report.complete
    attacks = {a["name"]: a for a in report.content["attacks"]}
    assert attacks["pgd"]["library_version"] == version("foolbox")
    assert attacks["pgd"]["parameters"]["rel_stepsize"] == pytest.approx(0.01 / 0.3)
    assert report.content["provenance"]["versions"]["foolbox"] == "3.3.4"
    assert attacks["pgd"]["robust_accuracy"]["k"] < 20
    assert all(check.held for check in api.verify(report.folder, again=2))


def _missing(name: str) -> ModuleType:
    if name in ("foolbox", "numba"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return import_module(name)


def test_without_the_extra_one_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> str:
        if package == "foolbox":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(record, "version", absent)
    monkeypatch.setattr(foolbox, "import_module", _missing)
    suite = tmp_path / "foolboxes.toml"
    suite.write_text(SUITE)
    asked = ("run", "--model", "pcl_digits", "--suite", str(suite), "--out", str(tmp_path / "runs"))
    refused(cli(*asked), "foolbox is not installed: pip install 'robusteval[foolbox]'")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(AttackError, match=r"pip install 'robusteval\[foolbox\]'"):
        find("foolbox", "LinfPGD").check(("Linf",))
    rows = {row["name"]: row for row in listing.attacks(None)}
    assert rows["foolbox.LinfPGD"]["needs"] == "pip install 'robusteval[foolbox]'"
    assert "needs" not in rows["fgsm"]


@pytest.mark.usefixtures("module")
def test_brendel_and_bethge_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foolbox, "import_module", _missing_numba)
    with pytest.raises(AttackError, match="needs numba, which compiles it: pip install numba"):
        called("L2BrendelBethgeAttack", "L2")


def _missing_numba(name: str) -> ModuleType:
    if name == "numba":
        raise ModuleNotFoundError("No module named 'numba'", name="numba")
    return import_module(name)


@pytest.mark.usefixtures("module")
def test_a_machine_without_git_has_foolbox_all_the_same(tmp_path: Path) -> None:
    """GitPython, which it imports, would refuse."""
    code = (
        "from robusteval.attacks.libraries.foolbox import foolbox_module as f; print(f().__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(Path(api.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "foolbox\n"), done.stderr


def test_a_network_loses_what_it_had(module: ModuleType) -> None:
    """An undefended network, by its own word and by ours."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).eval()
    images = images_near_grey(20)
    labels = model(images).argmax(1)
    counted = as_counted(model, images)
    found = called("LinfPGD", "Linf")(counted, images, labels, threat_of("Linf", 0.2), 0).images
    assert (model(found).argmax(1) != labels).all()
    theirs = module.attacks.LinfPGD()(
        module.PyTorchModel(model, (0, 1), device="cpu"), images, labels, epsilons=0.2
    )
    assert theirs[2].all()
