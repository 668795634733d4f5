"""Modules as people have them: that work in place, in half precision, without a graph; and what
``wrap_module`` is given."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robusteval
from benchmarks.blocks import AUTOATTACK, FGSM
from robusteval import api
from robusteval.attacks.adaptive import adaptive, adaptive_result
from robusteval.attacks.blindness import NO_GRADIENT, reaches_images
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.gaussian_noise import gaussian_noise
from robusteval.attacks.libraries.advlib import advlib_attack
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.results import Warned, said
from robusteval.attacks.smallest import smallest
from robusteval.attacks.transfer import transfer
from robusteval.attacks.tuning import TUNING
from robusteval.errors import AttackError, RobustevalError
from robusteval.evidence.judge import predict_again
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.types import Norm
from tests.helpers.known import Function, images_near_grey, linear, margins, threat_of

# In place


def normalising(channels: int, in_place: bool) -> nn.Module:
    """A convolution behind its own normalisation."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)
    ).eval()

    def logits(images: Tensor) -> Tensor:
        if in_place:
            return net(images.sub_(0.25).mul_(4))  # type: ignore[no-any-return]
        return net((images - 0.25) * 4)  # type: ignore[no-any-return]

    module = Function(logits)
    module.net = net  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_module_that_works_in_place_is_attacked_as_any(norm: Norm, channels: int) -> None:
    """The same images, and the caller's own stay as they are."""
    images = images_near_grey(8, (channels, 8, 8))
    honest, in_place = normalising(channels, False), normalising(channels, True)
    labels, before = honest(images).argmax(1), images.clone()
    threat = threat_of(norm, 0.01 if norm == "Linf" else 0.1)
    for attack in (
        lambda *given: adaptive(*given, passes_per_sample=20),
        lambda *given: smallest(*given, steps=10),
        lambda *given: gaussian_noise(*given, draws=2),
        lambda *given: (
            torchattacks_attack(*given, name="Square", seed=0, parameters={"n_queries": 4})
            if norm == "Linf"
            else torchattacks_attack(*given, name="PGDL2", seed=0, parameters={"steps": 2})
        ),
    ):
        found, expected = (attack(m, images, labels, threat) for m in (in_place, honest))  # type: ignore[no-untyped-call]
        if not isinstance(found, Tensor):
            found, expected = found.images, expected.images
        assert torch.equal(found, expected)
        assert torch.equal(images, before)


def test_a_run_of_a_module_that_works_in_place(tmp_path: Path) -> None:
    honest = api.load_model("ce_digits")

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = honest.module

        def forward(self, images: Tensor) -> Tensor:
            images.sub_(0.5)
            found: Tensor = self.inner(images.add_(0.5))
            return found

    options = api.Options(samples=8, eps="0.1", out=tmp_path)
    suite = tmp_path / "mine.toml"
    suite.write_text(MINE.partition('[[attacks]]\nname = "autoattack"')[0])
    reports = [
        api.evaluate(model, str(suite), "digits", "mine", options).content
        for model in (
            Adapter(InPlace(), 10),
            wrap_module(InPlace(), 10),
            Adapter(honest.module, 10),
        )
    ]
    found = [[a["robust_accuracy"] for a in report["attacks"]] for report in reports]
    assert found[0] == found[1] == found[2]


# Precision


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_logits_of_less_than_float32(kind: torch.dtype) -> None:
    known = linear("Linf", 3, count=30)
    model = Function(lambda x: known.model(x).to(kind))
    threat = threat_of("Linf", 2 * float(known.smallest.max()))
    assert wrap_module(model, 3)(known.images).dtype == torch.float32
    for attack in (adaptive, smallest):
        found = attack(model, known.images, known.labels, threat)
        assert (margins(known.model, found, known.labels) > -0.05).all()


def test_a_run_in_bfloat16_with_its_diagnostics(tmp_path: Path) -> None:
    honest = api.load_model("ce_digits")
    rough = Function(lambda x: honest(x).bfloat16())
    options = api.Options(samples=10, only=("fgsm",), out=tmp_path)
    report = api.evaluate(wrap_module(rough, 10), "quick", "digits", "rough", options)
    assert report.complete
    correct = report.content["clean"]["accuracy"]["k"]
    assert report.content["diagnostics"]["samples"] == correct >= 8


# No graph


@torch.no_grad()
def without_grad(model: nn.Module, images: Tensor) -> Any:
    return model(images)


@torch.inference_mode()
def in_inference(model: nn.Module, images: Tensor) -> Any:
    return model(images)


BLIND: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "detached": lambda model, images: model(images).detach(),
    "detached at once": lambda model, images: model(images.detach()),
    "no_grad": without_grad,
    "inference_mode": in_inference,
    "NumPy's images": lambda model, images: model(torch.from_numpy(images.numpy().copy())),
    "as an array": lambda model, images: model(torch.tensor(np.asarray(images))),
    "one-hot": lambda model, images: nn.functional.one_hot(model(images).argmax(1), 3).float(),
    "another graph": lambda model, images: (
        model(images.detach()) + torch.zeros(1, requires_grad=True)
    ),
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square with a few queries, where AutoAttack has thousands."""
    import pyautoattack

    init = pyautoattack.AutoAttack.__init__

    def few(self: Any, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        self.square.n_queries = 20

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", few)
    quicker = {norm: replace(usual, searched=40) for norm, usual in TUNING.items()}
    monkeypatch.setattr(Cascade, "tunings", quicker)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("norm", "how"), [*(("Linf", how) for how in BLIND), ("L2", "detached")])
def test_adaptive_keeps_what_it_found_without_gradients(norm: Norm, how: str) -> None:
    """And says that none reaches the images, and which of AutoAttack's members can't run."""
    known = linear(norm, 3, count=8)
    model = Function(lambda x: BLIND[how](known.model, x))
    threat = threat_of(norm, 3 * float(known.smallest.max()))
    found = adaptive_result(model, known.images, known.labels, threat, passes_per_sample=60)
    kinds = {warned.kind for warned in found.warned}
    assert "no_gradient" in kinds
    broken = margins(known.model, found.images, known.labels) > 0
    if norm == "Linf":
        assert broken.any()
    if not broken.all():
        blind = Warned("blind", stages=("apgd-ce", "apgd-dlr", "fab-t"))
        assert blind in found.warned or "no_autoattack" in kinds


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("how", BLIND)
def test_attacks_by_gradients_say_that_there_are_none(how: str) -> None:
    """CW's own loss has one, of the distance, so that torch finds nothing wrong."""
    known = linear("L2", 3, count=4)
    model, threat = Function(lambda x: BLIND[how](known.model, x)), threat_of("L2", 1)
    given = (model, known.images, known.labels)
    flat, large = (*given, threat_of("Linf", 0.1)), (*given, threat)

    def library(name: str, *where: Any) -> Any:
        return torchattacks_attack(*where, name=name, seed=0, parameters={"steps": 3})

    attacks: list[Callable[[], Any]] = [
        lambda: library("PGD", *flat),
        lambda: library("CW", *large),
        lambda: library("DeepFool", *large),
        lambda: smallest(*flat, steps=4),
        lambda: autoattack(*flat, version="rand"),
        lambda: transfer(known.model, *flat[1:], source=model, steps=2),
    ]
    for attack in attacks:
        with pytest.raises(AttackError, match="no gradient reaches the images"):
            attack()
    found = autoattack(*flat)
    assert found.stages[-1].name == "square"
    (blind,) = [warned for warned in found.warned if warned.kind == "blind"]
    assert said(blind) == f"apgd-ce, apgd-dlr, fab-t can't run: {NO_GRADIENT}"
    assert gaussian_noise(*flat, draws=2).shape == known.images.shape
    assert transfer(*flat, source=known.model, steps=3).shape == known.images.shape
    square = torchattacks_attack(*flat, name="Square", seed=0, parameters={"n_queries": 3})
    assert square.images.shape == known.images.shape


def test_adv_lib_says_it_too() -> None:
    pytest.importorskip("adv_lib")
    known = linear("L2", 3, count=4)
    model = Function(lambda x: known.model(x).detach())
    with pytest.raises(AttackError, match="no gradient reaches the images"):
        advlib_attack(
            model, known.images, known.labels, threat_of("L2", 1), name="ddn", seed=0, parameters={}
        )


def test_a_failure_of_the_models_own_is_no_lack_of_gradients() -> None:
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            raise RuntimeError("the backward pass is not written yet")

    known = linear("Linf", 3, count=4)
    model = Function(lambda x: known.model(Failing.apply(x)))
    given = (model, known.images, known.labels, threat_of("Linf", 0.1))
    for attack in (
        lambda: torchattacks_attack(*given, name="PGD", seed=0, parameters={}),
        lambda: autoattack(*given),
    ):
        with pytest.raises(RuntimeError, match="not written yet"):
            attack()


def test_a_gradient_of_zero_is_one() -> None:
    known = linear("Linf", 3, count=2)
    steps = Function(lambda x: known.model((16 * x).round() / 16))
    assert reaches_images(wrap_module(steps, 3), known.images)
    assert not reaches_images(
        wrap_module(Function(BLIND["detached at once"].__get__(known.model)), 3), known.images
    )


@pytest.mark.usefixtures("short")
def test_a_run_tells_why_cells_fail(tmp_path: Path) -> None:
    """Square's part of AutoAttack counts; the others' cells fail in plain words."""
    honest = api.load_model("ce_digits")
    blind = wrap_module(Function(lambda x: honest(x).detach()), 10)
    options = api.Options(samples=10, eps="0.1", out=tmp_path)
    suite = tmp_path / "mine.toml"
    suite.write_text(MINE)
    content = api.evaluate(blind, str(suite), "digits", "blind", options).content
    cells = {a["name"]: a for a in content["attacks"]}
    assert cells["fgsm"]["status"] == cells["smallest"]["status"] == "failed"
    assert cells["fgsm"]["reason"] == cells["smallest"]["reason"] == NO_GRADIENT
    assert cells["autoattack"]["status"] == "done"
    told = [f for f in content["findings"] if f["check"] == "AutoAttack's checks"]
    assert "apgd-ce, apgd-t, fab-t can't run" in told[0]["measured"]


MINE = (
    """
name = "mine"
"""
    + FGSM
    + """
[[attacks]]
name = "smallest"
title = "Smallest"
library = "robusteval"
attack = "smallest"
norms = ["Linf"]
parameters = { steps = 5 }
"""
    + AUTOATTACK
)


# What ``wrap_module`` is given


CONSTANTS = [0.5, 0.25]


@pytest.mark.parametrize(
    "given",
    [
        lambda v: [v],
        lambda v: v,
        lambda v: np.array([v]),
        np.float64,
        lambda v: [np.float64(v)],
        lambda v: np.array([v], np.float32),
        lambda v: np.array([[[v]]]),
        lambda v: torch.tensor([v]),
        lambda v: torch.tensor(v, dtype=torch.float64),
        lambda v: torch.tensor([v], dtype=torch.bfloat16),
        lambda v: [torch.tensor(v)],
        lambda v: (v,),
    ],
)
def test_means_and_stds_of_any_type(given: Callable[[float], Any]) -> None:
    images = torch.rand(3, 2, 4, 4)
    adapter = wrap_module(nn.Flatten(), 32, *map(given, CONSTANTS))
    assert torch.equal(adapter(images), ((images - 0.5) / 0.25).flatten(1))


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (0, 0, "std = 0: choose values above 0"),
        (0, [0.5, -0.5], "choose values above 0"),
        (0, 1e-60, "choose values above 0"),
        (float("nan"), 1, "mean = nan: give finite numbers"),
        (0, [float("inf")], "give finite numbers"),
        (1e300, 1, "give finite numbers"),
        ("0.5", 1, "mean = '0.5': give a number, or one for each channel"),
        (["0.5"], 1, "give a number, or one for each channel"),
        (None, 1, "give a number"),
        (True, 1, "give a number"),
        ([], 1, "give"),
        ([[0.1], [0.2, 0.3]], 1, "give a number"),
        ([[0.1, 0.2], [0.3, 0.4]], 1, "give a number"),
        (1j, 1, "give a number"),
        (torch.tensor(1j), 1, "give a number"),
        ([0.1, 0.2, 0.3], [0.1, 0.2], "mean has 3 values and std 2"),
    ],
)
def test_means_and_stds_that_make_no_sense(mean: Any, std: Any, said: str) -> None:
    with pytest.raises(AttackError) as caught:
        wrap_module(nn.Flatten(), 4, mean, std)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_means_of_other_channels_than_the_images(tmp_path: Path) -> None:
    """Else one channel would become three, in silence."""
    adapter = wrap_module(nn.Flatten(), 10, [0.1, 0.2, 0.3], [1, 1, 1])
    with pytest.raises(AttackError, match="have 3 values, the images 1 channels"):
        adapter(torch.rand(2, 1, 8, 8))
    with pytest.raises(AttackError, match="have 3 values, the images 1 channels"):
        api.evaluate(adapter, "quick", "digits", "mine", api.Options(samples=10, out=tmp_path))


@pytest.mark.parametrize("classes", ["10", 1, 0, -3, 2.0, None, True])
def test_classes_are_a_whole_number(classes: Any) -> None:
    with pytest.raises(AttackError, match=r"classes = .*: choose a whole number from 2 up"):
        wrap_module(nn.Flatten(), classes)


@pytest.mark.parametrize("module", ["ce_digits", None, lambda x: x])
def test_a_module_is_one_of_torchs(module: Any) -> None:
    with pytest.raises(AttackError, match="is not a torch module"):
        wrap_module(module, 10)


# Tried before anything runs


class Squeezed(nn.Module):
    """Logits of one image have no batch any more."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = api.load_model("ce_digits")

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.inner(images).squeeze()
        return found


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise KeyError("no such layer")


@pytest.mark.parametrize("door", [api.evaluate, api.estimate])
@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Squeezed, r"returns shape \(10,\) for one image"),
        (Failing, r"fails on clean images \(KeyError: 'no such layer'\)"),
        (lambda: Function(lambda x: [x]), "returns a list"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half(), "weights are float16"),
    ],
)
def test_a_bad_module_is_told_before_the_first_attack(
    door: Callable[..., object], module: Callable[[], nn.Module], said: str, tmp_path: Path
) -> None:
    """Forty samples make no batch of one, so that nothing else would meet it."""
    options = api.Options(samples=40, out=tmp_path / "out")
    with pytest.raises(RobustevalError, match=said):
        door(wrap_module(module(), 10), "quick", "digits", "mine", options)
    assert not (tmp_path / "out").exists()


def test_a_bad_factory_is_told_before_the_first_attack(tmp_path: Path) -> None:
    (tmp_path / "squeezing.py").write_text(
        "from torch import nn\n"
        "class Made(nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images.flatten(1)[:, :10].squeeze()\n"
    )
    entry = tmp_path / "mine.toml"
    entry.write_text(
        'name = "mine"\ndataset = "digits"\nmethod = "ce"\n'
        'factory = "squeezing:Made"\n[input]\nmean = [0.0]\nstd = [1.0]\n'
    )
    options = api.Options(samples=40, allow_code=True, out=tmp_path / "out")
    with pytest.raises(RobustevalError, match=r"returns shape \(10,\) for one image"):
        robusteval.evaluate(str(entry), "quick", options=options)


class Ending(nn.Module):
    """Answers so many times, then calls ``end``."""

    def __init__(self, passes: int, end: Callable[[], object]) -> None:
        super().__init__()
        self.left, self.end = passes, end

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            self.end()
        return images.flatten(1)[:, :10]


def _raise() -> None:
    raise RuntimeError("too\nlate")


def test_a_module_that_exits_does_not_end_the_program() -> None:
    module = wrap_module(Ending(1, lambda: sys.exit(0)), 10)
    images = torch.zeros(2, 1, 8, 8)
    module(images)
    with pytest.raises(AttackError, match=r"ends the program \(SystemExit: 0\): leave that out"):
        module(images)


def test_a_module_that_fails_at_its_last_passes_is_one_line() -> None:
    """When all attacks are over, and nothing else would catch it."""
    module, images = wrap_module(Ending(1, _raise), 10), torch.zeros(2, 1, 8, 8)
    assert predict_again(module, images, 2).shape == (2, 10)
    with pytest.raises(AttackError, match=r"predicted again \(RuntimeError: too\): mend it"):
        predict_again(module, images, 2)


@pytest.mark.parametrize("model", [3, None, ["ce_digits"], b"ce_digits"])
@pytest.mark.parametrize("dataset", [None, "digits"])
def test_what_is_no_model_is_told_as_it_is(model: Any, dataset: str | None) -> None:
    with pytest.raises(RobustevalError, match=r"^model .*: give an entry's name, its path, or"):
        robusteval.evaluate(model, "quick", dataset)


def test_a_module_needs_data_that_fit_it() -> None:
    with pytest.raises(RobustevalError, match=r"^there is no data set to run on: name one with"):
        robusteval.evaluate(nn.Linear(2, 2), "quick")
    with pytest.raises(RobustevalError, match=r"^the module fails on clean images .*: mend it"):
        robusteval.evaluate(nn.Linear(2, 2), "quick", "digits")
