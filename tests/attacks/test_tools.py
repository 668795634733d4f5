"""Attacks of other tools on our adapter, as their own users call them: Foolbox, ART, secml-torch
and adv-lib.

The model is linear behind the adapter, so that the smallest perturbations are known; what a tool
returns is judged as everything is, its own word for success is not asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval.evidence.judge import Judged, judge, state_digest
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.types import Norm
from robusteval.vision import torchvision
from tests.helpers.known import Known, linear, nearest_prototypes, threat_of
from tests.helpers.models import linear_model

pytestmark = pytest.mark.foreign

Call = Callable[[Adapter, Tensor, Tensor, Norm, float], Tensor]
ORDERS: dict[Norm, float] = {"Linf": float("inf"), "L2": 2.0}


# How each tool's users call it


def by_foolbox(name: str, told: bool = False, **parameters: Any) -> Call:
    def call(model: Adapter, images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
        foolbox = pytest.importorskip("foolbox")
        seen = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = getattr(foolbox.attacks, name)(**parameters)
        found: Tensor = attack(seen, images, labels, epsilons=eps if told else None)[0]
        return found

    return call


def by_art(name: str, told: bool = False, **parameters: Any) -> Call:
    def call(model: Adapter, images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
        evasion = pytest.importorskip("art.attacks.evasion")
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=model.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        given = {"norm": ORDERS[norm], "eps": eps, "eps_step": eps / 5} if told else {}
        attack = getattr(evasion, name)(classifier, **given, **parameters)
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return call


def by_secml(name: str, told: bool = False, backend: str = "native", **parameters: Any) -> Call:
    def call(model: Adapter, images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
        pytest.importorskip("secmlt")
        from secmlt.adv.evasion.fmn import FMN
        from secmlt.adv.evasion.pgd import PGD
        from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
        from torch.utils.data import DataLoader, TensorDataset

        kind = {"PGD": PGD, "FMN": FMN}[name]
        words: dict[Norm, str] = {"Linf": "linf", "L2": "l2"}
        given = {"epsilon": eps, "step_size": eps / 5} if told else {}
        attack = kind(perturbation_model=words[norm], backend=backend, **given, **parameters)
        loader = DataLoader(TensorDataset(images, labels), batch_size=len(images))
        parts = [x for x, _ in attack(BasePyTorchClassifier(model), loader)]
        return torch.cat(parts).detach()

    return call


def by_advlib(name: str, told: bool = False, **parameters: Any) -> Call:
    def call(model: Adapter, images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
        from robusteval.attacks.libraries.advlib import advlib_module

        pytest.importorskip("adv_lib")
        given = {"ε": eps} if told else {}
        found: Tensor = getattr(advlib_module(), name)(
            model, images.clone(), labels, **given, **parameters
        )
        return found.detach()

    return call


TOLD: dict[str, tuple[Norm, Call]] = {
    "foolbox LinfPGD": ("Linf", by_foolbox("LinfPGD", told=True, steps=40)),
    "foolbox L2PGD": ("L2", by_foolbox("L2PGD", told=True, steps=40)),
    "art PGD": ("Linf", by_art("ProjectedGradientDescentPyTorch", told=True, verbose=False)),
    "art PGD-L2": ("L2", by_art("ProjectedGradientDescentPyTorch", told=True, verbose=False)),
    "art AutoPGD": (
        "Linf",
        by_art("AutoProjectedGradientDescent", True, nb_random_init=1, max_iter=20, verbose=False),
    ),
    "secml PGD": ("Linf", by_secml("PGD", told=True, num_steps=40)),
    "secml PGD-L2": ("L2", by_secml("PGD", told=True, num_steps=40)),
    "secml PGD by foolbox": ("Linf", by_secml("PGD", True, "foolbox", num_steps=40)),
    "advlib PGD": ("Linf", by_advlib("pgd_linf", told=True, steps=40)),
}
# What each finds in the median, in units of the smallest that there is.
SMALLEST: dict[str, tuple[Norm, float, Call]] = {
    "foolbox DeepFool": ("L2", 1.1, by_foolbox("L2DeepFoolAttack")),
    "foolbox FMN": ("Linf", 1.1, by_foolbox("LInfFMNAttack")),
    "foolbox DDN": ("L2", 1.4, by_foolbox("DDNAttack")),
    "art DeepFool": (
        "L2",
        1.1,
        by_art("DeepFool", epsilon=0.02, nb_grads=4, batch_size=60, verbose=False),
    ),
    "secml FMN": ("Linf", 1.4, by_secml("FMN", num_steps=100, step_size=0.1)),
    "secml FMN by advlib": (
        "L2",
        1.1,
        by_secml("FMN", False, "advlib", num_steps=100, step_size=1),
    ),
    "advlib DDN": ("L2", 1.4, by_advlib("ddn", steps=100, levels=None)),
    "advlib SuperDeepFool": ("L2", 1.1, by_advlib("sdf")),
}


@dataclass(frozen=True)
class Behind:
    """A linear model of four classes, whose smallest perturbations are known, behind an adapter."""

    known: Known
    model: Adapter


def behind(norm: Norm) -> Behind:
    """The known model's weights are what its logits of black and of single pixels say."""
    torchvision()
    known = linear(norm, 4)
    pixels = known.images[0].numel()
    points = torch.cat([torch.zeros(1, pixels), torch.eye(pixels)]).view(-1, *known.images[0].shape)
    with torch.no_grad():
        logits = known.model(points)
    return Behind(known, linear_model((logits[1:] - logits[:1]).T, logits[0]))


def judged(made: Behind, found: Tensor, eps: float, told: bool) -> Judged:
    known, threat = made.known, threat_of(made.known.norm, eps)
    return judge(made.model, found.float(), known.images, known.labels, threat, told)


@pytest.mark.parametrize("name", TOLD)
def test_attacks_that_are_told_eps(name: str) -> None:
    """They break what is far below ε and nothing else; the model stays as it is."""
    norm, call = TOLD[name]
    made = behind(norm)
    before, smallest = state_digest(made.model), made.known.smallest
    eps = float(smallest.median())
    found = call(made.model, made.known.images, made.known.labels, norm, eps)
    fooled = judged(made, found, eps, told=True).fooled
    assert fooled[smallest < eps / 2].all()
    assert not fooled[smallest > eps * (1 + 1e-4)].any()
    assert state_digest(made.model) == before
    assert not any(module.training for module in made.model.modules())
    assert all(parameter.grad is None for parameter in made.model.parameters())


@pytest.mark.parametrize("name", SMALLEST)
def test_attacks_that_minimise_a_norm(name: str) -> None:
    """Never below the smallest perturbation, and as near to it as they are known to come."""
    norm, near, call = SMALLEST[name]
    made = behind(norm)
    found = call(made.model, made.known.images, made.known.labels, norm, 0.0)
    fooled = judged(made, found, 1.0, told=False).fooled
    ratios = made.known.ratios(found)[fooled]
    assert fooled.double().mean() > 0.5
    assert ratios.min() > 1 - 1e-3
    assert ratios.median() < near


@pytest.mark.parametrize("name", ["foolbox LinfPGD", "art PGD", "secml PGD", "advlib PGD"])
def test_a_prototype_model_is_a_plain_module_to_each_tool(name: str) -> None:
    """All of its logits are negative squared distances."""
    torchvision()
    known = nearest_prototypes("Linf")
    assert isinstance(known.model, PrototypeAdapter)
    eps = float(np.quantile(known.smallest.numpy(), 0.5))
    found = TOLD[name][1](known.model, known.images, known.labels, "Linf", eps)
    fooled = judge(
        known.model, found.float(), known.images, known.labels, threat_of("Linf", eps), True
    ).fooled
    assert fooled[known.smallest < eps / 1.5].all()
    assert fooled.any()
    assert not fooled[known.smallest > eps * (1 + 1e-4)].any()
