"""Attacks as plain functions on what people bring: random modules, adapters of their own, odd
sizes, no gradients, parameters out of range."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robusteval
from robusteval.api import Options
from robusteval.attacks.adaptive import adaptive, adaptive_result
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.gaussian_noise import gaussian_noise
from robusteval.attacks.libraries.advlib import advlib_attack
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.libraries.foolbox import foolbox_attack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
from robusteval.attacks.smallest import smallest
from robusteval.attacks.squares import square_fits
from robusteval.attacks.transfer import transfer
from robusteval.errors import AttackError
from robusteval.evidence.judge import state_digest
from robusteval.models.acceleration import PLAIN, choose_forms, folded_if_same
from robusteval.models.adapter import Adapter, PrototypeAdapter, wrap_module
from robusteval.models.prototypes import prototype_distances
from robusteval.types import Norm
from tests.helpers.attacks import Call
from tests.helpers.commands import cli, refused
from tests.helpers.known import Function, images_near_grey, linear, margins, threat_of
from tests.helpers.runs import plain_suite_in

Attack = Callable[..., Tensor]


def by_source(model: nn.Module, images: Tensor, *rest: object, **named: object) -> Tensor:
    """``transfer`` from the model itself."""
    return transfer(model, images, *rest, source=linear("Linf", 3).model, **named)  # type: ignore[arg-type]


def by_torchattacks(*given: Any) -> Tensor:
    return torchattacks_attack(*given, name="PGD", seed=0, parameters={"steps": 2}).images


def by_advlib(*given: Any) -> Tensor:
    pytest.importorskip("adv_lib")
    return advlib_attack(*given, name="fmn", seed=0, parameters={"steps": 2}).images


def by_foolbox(*given: Any) -> Tensor:
    pytest.importorskip("foolbox")
    return foolbox_attack(*given, name="LInfFMNAttack", seed=0, parameters={"steps": 2}).images


def by_noise(*given: Any) -> Tensor:
    return gaussian_noise(*given, draws=2)


# With few steps: what a seed decides shows in them.
OWN: dict[str, Attack] = {
    "adaptive": adaptive,
    "smallest": partial(smallest, steps=25),
    "by_source": partial(by_source, steps=10),
}
OTHERS = [by_torchattacks, by_advlib, by_foolbox, by_noise, gaussian_noise, autoattack]


# Randomised modules


def drawing(scale: float) -> nn.Module:
    """A linear model whose logits are drawn by torch's global generator."""
    known = linear("Linf", 3)
    return Function(lambda x: known.model(x) + scale * torch.randn(len(x), 3))


@pytest.mark.filterwarnings("ignore:adaptive")
@pytest.mark.parametrize("attack", OWN.values(), ids=OWN)
def test_a_seed_is_all_that_a_random_module_needs(attack: Attack) -> None:
    """The same images again, and the caller's own draws as if nothing had been drawn."""
    known, model = linear("Linf", 3), drawing(0.5)
    images, labels = known.images[:2], known.labels[:2]
    threat = threat_of("Linf", 0.5 * float(known.smallest.median()))
    torch.manual_seed(5)
    expected = torch.rand(4)
    found = []
    for before in (5, 6):
        torch.manual_seed(before)
        found.append(attack(model, images, labels, threat, seed=3))
        if before == 5:
            assert torch.equal(torch.rand(4), expected)
    assert torch.equal(*found)


def test_the_smallest_perturbation_is_of_mean_logits() -> None:
    """A lucky pass breaks no sample: what is found fools the model without its noise, as a rule."""
    known = linear("L2", 3)
    logits = known.model(known.images).topk(2).values
    scale = 0.3 * float((logits[:, 0] - logits[:, 1]).median())
    model = Function(lambda x: known.model(x) + scale * torch.randn(len(x), 3))
    found = smallest(model, known.images, known.labels, threat_of("L2", 1))
    moved = known.ratios(found) > 0
    fooled = margins(known.model, found, known.labels) > -scale / 3
    assert moved.double().mean() > 0.9
    assert fooled[moved].double().mean() > 0.9


def test_a_randomised_model_gives_one_number_for_one_spec(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.last(images.flatten(1))
            return logits + 0.2 * torch.randn_like(logits)

    wrapped, rows, suite = wrap_module(Noisy(), 10), [], plain_suite_in(tmp_path)
    for place in ("one", "two"):
        torch.manual_seed(len(rows))
        options = Options(samples=20, only=("pgd10", "smallest"), out=tmp_path / place)
        report = robusteval.evaluate(wrapped, suite, "digits", "noisy", options=options)
        rows.append([(a["robust_accuracy"]["k"], a["name"]) for a in report.content["attacks"]])
    assert rows[0] == rows[1]


# Adapters and modules of other people


class Stairs(nn.Module):
    """Two features, two prototypes, and a head that says which feature is larger, no more."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.tensor([[[0.1, -0.1]], [[-0.1, 0.1]]]))

    def features(self, images: Tensor) -> Tensor:
        flat = images.flatten(1) - 0.5
        return torch.stack([flat[:, :32].mean(1), flat[:, 32:].mean(1)], 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        gap = (features[:, 0] - features[:, 1] + 0.05).sign()
        return torch.stack([gap, -gap], 1) + 0 * features


class MyAdapter(Adapter):
    """As its class tells: ``layers``, ``distances`` and ``logits_and_distances``."""

    module: Stairs

    @property
    def layers(self) -> tuple[str, ...]:
        return ("fc",)

    def distances(self, images: Tensor) -> Tensor:
        return prototype_distances(self.module.features(images), self.module.prototypes, "sql2")

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {"fc": self.distances(images)}


def test_an_adapter_of_ones_own_is_attacked_by_its_prototypes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images = MyAdapter(Stairs(), 2), images_near_grey(6)
    labels = model(images).argmax(1)
    assert folded_if_same(model, images) is None
    assert choose_forms(model, torch.rand(8, 3, 16, 16), 1e9, lambda *_: 1.0) == (PLAIN, PLAIN)
    monkeypatch.setattr(Cascade, "left_out", frozenset({"through"}))  # it would be sooner
    found = adaptive_result(model, images, labels, threat_of("Linf", 0.1))
    assert (margins(model, found.images, labels) > 0).all()
    assert "pull" in [stage.name for stage in found.stages]


class Scattering(nn.Module):
    """Writes features into a buffer of float32, which bfloat16's can't be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 5)
        logits[torch.arange(len(images))] = self.last(self.conv(images).mean((2, 3)))
        return logits


def test_a_module_that_mixes_precisions_does_without_the_rough_form() -> None:
    model = wrap_module(Scattering(), 5)
    forms = choose_forms(model, torch.rand(8, 3, 16, 16), 10, lambda *_: 1.0)
    assert not any(form.bfloat16 for form in forms)


def test_the_digest_of_half_precision_and_of_scalars() -> None:
    module = nn.BatchNorm1d(3).bfloat16()
    before = state_digest(module)
    assert state_digest(nn.BatchNorm1d(3).bfloat16()) == before
    module.num_batches_tracked += 1  # type: ignore[operator]
    assert state_digest(module) != before


# Without gradients


@pytest.mark.parametrize("attack", [adaptive, smallest])
def test_no_grad_is_nothing_to_an_attack(attack: Attack) -> None:
    known = linear("Linf", 3)
    threat = threat_of("Linf", float(known.smallest.median()))
    given = (known.model, known.images, known.labels, threat)
    with torch.no_grad():
        inside = attack(*given)
    assert torch.equal(inside, attack(*given))
    assert not attack(known.model, known.images.requires_grad_(), *given[2:]).requires_grad
    known.images.requires_grad_(False)


@pytest.mark.parametrize("attack", OWN.values(), ids=OWN)
def test_inference_mode_is_refused(attack: Attack) -> None:
    known = linear("Linf", 3)
    with torch.inference_mode(), pytest.raises(AttackError, match="inference_mode"):
        attack(known.model, known.images, known.labels, threat_of("Linf", 0.1))


def test_own_attacks_of_the_papers_under_no_grad(pcl_digits: PrototypeAdapter) -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    threat = threat_of("Linf", 0.1)
    for attack in (joint_pc, prototype_margin):
        expected = attack(pcl_digits, images, labels, threat)
        with torch.no_grad():
            assert torch.equal(attack(pcl_digits, images, labels, threat), expected)


# Odd sizes


@pytest.mark.parametrize("attack", [*OWN.values(), *OTHERS])
def test_no_images_are_no_work(attack: Callable[..., object]) -> None:
    def viewed(images: Tensor) -> Tensor:
        return images.view(len(images), -1)[:, :3]  # which an empty batch can't be

    none = torch.empty(0, 1, 8, 8)
    found = attack(Function(viewed), none, torch.empty(0).long(), threat_of("Linf", 0.1))
    images = found if isinstance(found, Tensor) else found.images  # type: ignore[attr-defined]
    assert images.shape == none.shape


def rounding(shape: tuple[int, int, int]) -> Function:
    """No gradient anywhere."""
    weight = torch.randn(
        int(torch.tensor(shape).prod()), generator=torch.Generator().manual_seed(3)
    )

    def logits(images: Tensor) -> Tensor:
        score = ((images * 20).round() / 20 - 0.5).flatten(1) @ weight
        return torch.stack([score + 0.5, -score - 0.5], 1)

    return Function(logits)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        *(("L2", shape) for shape in ((1, 4, 4), (1, 1, 8), (1, 12, 8), (1, 12, 12))),
        *(("Linf", shape) for shape in ((1, 1, 8), (1, 12, 12))),
    ],
)
def test_full_autoattack_follows_on_any_size(norm: Norm, shape: tuple[int, int, int]) -> None:
    """Without Square where its windows don't fit, which is said."""
    model, images = rounding(shape), images_near_grey(4, shape)
    labels = model(images).argmax(1)
    found = adaptive_result(model, images, labels, threat_of(norm, 1e-4))
    assert "dead" in [warned.kind for warned in found.warned]
    left_out = any("square is left out" in note for note in found.notes)
    assert left_out == (norm == "L2")


@pytest.mark.parametrize("side", range(4, 34))
def test_where_square_fits_it_runs(side: int) -> None:
    """And where it doesn't the library itself would fail."""
    images = images_near_grey(2, (1, side, side))
    model = Function(lambda x: x.flatten(1)[:, :3] * 1e-3 + torch.tensor([1.0, 0, 0]))
    labels, threat = torch.zeros(2, dtype=torch.long), threat_of("L2", 1e-3)
    named = {"name": "Square", "seed": 0, "parameters": {"n_queries": 3}}
    if square_fits(images, "L2", oblong=False):
        torchattacks_attack(model, images, labels, threat, **named)  # type: ignore[arg-type]
    else:
        with pytest.raises(AttackError, match=f"{side}×{side} images: leave it out"):
            torchattacks_attack(model, images, labels, threat, **named)  # type: ignore[arg-type]


# Parameters out of range


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("adaptive", {"passes_per_sample": 2}, "passes_per_sample = 2: choose a whole number"),
        ("adaptive", {"passes_per_sample": float("nan")}, "nan"),
        ("smallest", {"steps": 1}, "steps = 1: choose a whole number from 2 up"),
        ("prototype_margin", {"steps": 0}, "steps = 0"),
        ("prototype_margin", {"momentum": 1.0}, "from 0 to below 1"),
        ("joint_pc", {"step_size": 0}, "step_size = 0: choose above 0"),
        ("gaussian_noise", {"draws": 0}, "draws = 0"),
        ("cr", {"cycle_steps": 2}, "cycle_steps = 2: choose a whole number from 3 up"),
        ("cr", {"passes_per_sample": 2}, "passes_per_sample = 2"),
        ("pma", {"steps": 0}, "steps = 0"),
        ("transfer", {"steps": "many", "source": "ce_digits"}, "steps = 'many'"),
    ],
)
def test_what_would_be_no_attack_is_refused(
    name: str, parameters: dict[str, object], told: str, pcl_digits: PrototypeAdapter
) -> None:
    """Before anything runs, and by the function itself."""
    call = Call("robusteval", name, parameters)
    with pytest.raises(AttackError, match=told):
        call.check(("Linf",))
    images, labels = torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    with pytest.raises(AttackError, match=told):
        call(pcl_digits, images, labels, threat_of("Linf", 0.1), 0)  # type: ignore[arg-type]


def test_a_suite_that_asks_for_nothing_is_refused(tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'name = "mine"\n[[attacks]]\nname = "a"\ntitle = "A"\nlibrary = "robusteval"\n'
        'attack = "adaptive"\nnorms = ["Linf"]\nparameters = { passes_per_sample = "many" }\n'
    )
    asked = ("run", "--model", "pcl_digits", "--suite", str(suite), "--out", str(tmp_path))
    refused(cli(*asked), "adaptive: passes_per_sample = 'many': choose a whole number from 3 up")


@pytest.mark.parametrize("attack", OTHERS)
def test_images_outside_the_range_are_refused(attack: Callable[..., object]) -> None:
    threat = threat_of("Linf", 0.1)
    with pytest.raises(AttackError, match=r"scale them to \[0, 1\]"):
        attack(
            linear("Linf", 3).model, torch.full((2, 1, 8, 8), 1.5), torch.zeros(2).long(), threat
        )


# Precision


@pytest.mark.parametrize("module", ["torch.backends", "torch.backends.cuda.matmul"])
def test_a_callers_new_precision_flags_are_left_alone(module: str) -> None:
    """The older flags, which say the same, raise once these are set."""
    flags = torch.backends if module == "torch.backends" else torch.backends.cuda.matmul
    before = flags.fp32_precision
    known = linear("Linf", 3)
    threat = threat_of("Linf", 0.01)
    try:
        flags.fp32_precision = "tf32"
        adaptive(known.model, known.images[:4], known.labels[:4], threat, passes_per_sample=10)
        assert flags.fp32_precision == "tf32"
    finally:
        flags.fp32_precision = before
