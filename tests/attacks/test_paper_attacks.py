"""Attacks as papers have them: momentum on the joint loss, and targeted modes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.attacks.counting import Counted, PositiveLogits, as_counted
from robusteval.attacks.libraries.torchattacks import (
    LISTED,
    targets_of,
    torchattacks_attack,
    torchattacks_module,
)
from robusteval.attacks.prototype_ascents import _OfGradients, joint_pc
from robusteval.attacks.search import Search
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel
from tests.helpers.known import linear, threat_of

SMALL = ThreatModel("Linf", "1/1000")  # type: ignore[arg-type]  # nothing breaks


def joint(model: Adapter, images: Tensor, labels: Tensor) -> Tensor:
    """CE + PC: PCL, eqs. 5 and 8, without the term that knows no image."""
    logits, squared = model.logits_and_distances(images)
    total = F.cross_entropy(logits, labels, reduction="sum")
    for apart in squared.values():
        own = apart[torch.arange(len(labels)), labels, 0]
        total = total + (own - (apart[:, :, 0].sum(1) - own) / (apart.shape[1] - 1)).sum()
    return total


def test_momentum_of_the_joint_attack_is_that_of_eq_18(
    digits: Dataset, pcl_digits: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits.images(slice(0, 5)), digits.labels[:5]
    points, added = images.clone(), torch.zeros_like(images)
    for _ in range(6):
        leaf = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(joint(pcl_digits, leaf, labels), leaf)
        added = added + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        moved = points + SMALL.radius / 3 * added.sign()
        points = moved.clamp(images - SMALL.radius, images + SMALL.radius).clamp(0, 1)
    last: list[Tensor] = []
    judged = Search.judge

    def seen(search: Search, rows: Tensor, at: Tensor) -> Tensor:
        last.append(at)
        return judged(search, rows, at)

    monkeypatch.setattr(Search, "judge", seen)
    given = {"steps": 6, "step_size": 1 / 3, "momentum": 1.0}
    joint_pc(pcl_digits, images, labels, SMALL, **given, adds="gradients")
    joint_pc(pcl_digits, images, labels, SMALL, **given, adds="signs")
    by_gradients, by_signs = last
    assert ((by_gradients - points).abs() < 1e-6).float().mean() > 0.999
    assert not torch.equal(by_gradients, by_signs)
    assert issubclass(_OfGradients, Search)


def test_the_joint_attack_takes_what_it_can(pcl_digits: Adapter, digits: Dataset) -> None:
    given = pcl_digits, digits.images(slice(0, 2)), digits.labels[:2], SMALL
    with pytest.raises(AttackError, match="adds = 'both': choose signs or gradients"):
        joint_pc(*given, adds="both")
    with pytest.raises(AttackError, match=r"momentum = 1\.1: choose from 0 to 1"):
        joint_pc(*given, momentum=1.1)


TARGETED = ("BIM", "CW", "FGSM", "MIFGSM", "PGD", "PGDL2")


def test_targets_are_never_a_samples_own_class() -> None:
    known = linear("Linf", 4)
    model, labels = as_counted(known.model, known.images), known.labels
    found = {
        mode: targets_of(mode, model, known.images, labels, 0)
        for mode in ("least_likely", "next", "random")
    }
    assert all((targets != labels).all() for targets in found.values())
    assert torch.equal(found["next"], (labels + 1) % 4)
    logits = known.model(known.images)
    assert torch.equal(found["least_likely"], logits.argmin(1))  # all are right at first
    apart = (found["random"] - labels) % 4
    counts = torch.bincount(apart, minlength=4)[1:]
    assert counts.min() > 0.2 * len(labels)
    assert not torch.equal(found["random"], targets_of("random", model, known.images, labels, 1))


def test_of_two_classes_every_mode_takes_the_other() -> None:
    known = linear("Linf", 2)
    model = as_counted(known.model, known.images)
    for mode in ("least_likely", "next", "random"):
        assert torch.equal(targets_of(mode, model, known.images, known.labels, 5), 1 - known.labels)


def test_a_targeted_attack_is_torchattacks_own(digits: Dataset, ce_digits: Adapter) -> None:
    images, labels, threat = digits.images(slice(0, 12)), digits.labels[:12], threat_of("Linf", 0.1)
    settings = {"steps": 5, "alpha": 0.025, "random_start": False}
    theirs = torchattacks_module().PGD(PositiveLogits(Counted(ce_digits)), eps=0.1, **settings)
    theirs.set_device(images.device)
    untargeted = theirs(images, labels)
    for mode, switch in (
        ("least_likely", lambda: theirs.set_mode_targeted_least_likely(quiet=True)),
        (
            "next",
            lambda: theirs.set_mode_targeted_by_function(lambda x, y: (y + 1) % 10, quiet=True),
        ),
    ):
        switch()
        given = {**settings, "target": mode}
        found = torchattacks_attack(
            ce_digits, images, labels, threat, name="PGD", seed=0, parameters=given
        ).images
        assert torch.equal(found, theirs(images, labels)), mode
        assert not torch.equal(found, untargeted)


@pytest.mark.parametrize("name", TARGETED)
def test_targets_go_with_the_attacks_that_know_them(name: str) -> None:
    known = linear("L2" if name in ("CW", "PGDL2") else "Linf", 3)
    threat = threat_of(LISTED[name].norms[0], 0.3)
    given = {"steps": 3} if "steps" in LISTED[name].parameters else {}
    for mode in ("least_likely", "next", "random"):
        counted = as_counted(known.model, known.images)
        tried = counted.forward_passes.clone()
        made = {**given, "target": mode}
        torchattacks_attack(
            counted, known.images, known.labels, threat, name=name, seed=1, parameters=made
        )
        forward, backward = LISTED[name].passes(made, 3)
        assert float((counted.forward_passes - tried).max()) <= forward
        assert float(counted.backward_passes.max()) <= backward
    assert [n for n, listed in LISTED.items() if "target" in listed.parameters] == [*TARGETED]
    with pytest.raises(AttackError, match="target = 'worst': choose least_likely or next"):
        torchattacks_attack(
            *(known.model, known.images, known.labels, threat),
            name=name,
            seed=1,
            parameters={"target": "worst"},
        )
