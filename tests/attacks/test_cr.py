"""Constraint Relaxation: phases, targets and passes by hand; exact radii of linear models."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.cr import cr
from robusteval.attacks.registry import find
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from tests.helpers.known import Function, Known, in_threat, linear, margins, threat_of

FAR = 1e-4  # ε at which nothing breaks


def farthest(count: int) -> Known:
    """Those of some samples that are farthest from breaking."""
    known = linear("Linf", 5, 20)
    rows = known.smallest.argsort(descending=True)[:count]
    return replace(
        known, images=known.images[rows], labels=known.labels[rows], smallest=known.smallest[rows]
    )


def counted(known: Known, scale: float = 1.0) -> Counted:
    """The model with logits so many times as large."""
    model = Adapter(Function(lambda x: scale * known.model(x)), 5)
    return Counted(model, len(known.images))


def seen_by(known: Known, scale: float, **parameters: int) -> list[Tensor]:
    """What each pass looked at, in units of ε from the clean images."""
    passes = list[Tensor]()

    def watched(images: Tensor) -> Tensor:
        passes.append(images.detach())
        return scale * known.model(images)

    model = Counted(Adapter(Function(watched), 5), len(known.images))
    cr(model, known.images, known.labels, threat_of("Linf", FAR), **parameters)
    return [(one - known.images) / FAR for one in passes[:-1]]  # the last looks for a gradient


@pytest.mark.parametrize("classes", [2, 5])
def test_it_breaks_exactly_what_can_be_broken(classes: int) -> None:
    known = linear("Linf", classes, 24)
    threat = threat_of("Linf", float(known.smallest.sort().values[11:13].mean()))
    found = cr(known.model, known.images, known.labels, threat, restarts=1)
    in_threat(found, known.images, threat)
    broken = margins(known.model, found, known.labels) > 0
    assert torch.equal(broken, known.smallest < threat.radius)


def test_what_is_far_leaves_at_mid_cycle() -> None:
    """One look at the start, ten steps and one look to rank; to each target 20 steps, the first 11
    with a look."""
    known = farthest(3)
    model = counted(known, scale=100)
    cr(model, known.images, known.labels, threat_of("Linf", FAR))
    assert model.forward_passes.tolist() == [1 + 10 + 1 + 3 * (20 + 11)] * 3
    assert model.backward_passes.tolist() == [10 + 3 * 20] * 3


def test_what_is_near_takes_every_restart_and_what_is_not_takes_one() -> None:
    """On small logits all samples are near; where margins are a bit above 0.05, none is, or far."""
    known = farthest(1)
    parameters = {"targets": 2, "cycles": 1, "restarts": 2}
    threat = threat_of("Linf", FAR)
    margin = -float(margins(known.model, known.images, known.labels))
    for scale, restarts in ((1e-4, 2), (0.06 / margin, 1)):
        model = counted(known, scale)
        cr(model, known.images, known.labels, threat, **parameters)
        rounds = 2 * restarts
        assert float(model.forward_passes) == 12 + rounds * 41
        assert float(model.backward_passes) == 10 + rounds * 30
    stated = find("robusteval", "cr").expected_passes(parameters, 5)
    assert stated == (12 + 4 * 41, 10 + 4 * 30)
    assert find("robusteval", "cr").expected_passes({}, 10) == (3087, 2260)


def test_a_cycle_goes_through_a_wider_ball_the_ball_and_a_narrower_one() -> None:
    moved = seen_by(farthest(1), 1e-4, targets=1, cycles=6, restarts=1)
    largest = [float(one.abs().max()) for one in moved][12:]
    assert max(float(one.abs().max()) for one in moved[:12]) < 1 + 1e-3
    for share in (0.5, 0.25, 0.125, 0.0625, 0.05, 0.05):
        cycle, largest = largest[:41], largest[41:]
        wide, looks = cycle[:22:2], cycle[1:22:2]
        assert max(looks) < 1 + 1e-3
        assert wide[-1] == pytest.approx(1 + share, abs=1e-2)  # the last of ten steps beyond ε
        assert max(cycle[22:]) < 1 + 1e-3
    assert largest == []


def test_what_shrinks_gets_noise_and_ends_inside() -> None:
    """Where the ball was full, the pass after shrinking sees perturbations of ε (1 − share) and up
    to share times ε of noise."""
    moved = seen_by(farthest(1), 1e-4, targets=1, cycles=1, restarts=1)
    before, after = moved[12 + 30].abs(), moved[12 + 31].abs()
    assert (before > 0.99).float().mean() > 0.9
    assert after.max() <= 1 + 1e-3
    assert after.min() < 0.1
    assert float(after[before > 0.99].mean()) == pytest.approx(0.5, abs=0.05)


def test_targets_are_the_largest_wrong_logits() -> None:
    """Of a linear model the steps towards each say which one it was."""
    known = farthest(1)
    label = int(known.labels)
    weight = torch.autograd.functional.jacobian(known.model, known.images)[0, :, 0, 0]
    others = known.model(known.images)[0].argsort(descending=True)[1:]
    moved = seen_by(known, 100.0, targets=4, restarts=1)
    for place, target in enumerate(others.tolist()):
        start = 12 + place * 31
        signs = (weight[target] - weight[label]).sign()
        assert torch.equal(moved[start + 20][0, 0].sign(), signs)
    assert len(moved) == 12 + 4 * 31


@pytest.mark.parametrize("budget", [3, 30, 60, 240])
def test_a_budget_is_the_survivors_mean(budget: int) -> None:
    known = linear("Linf", 5, 6)
    model = counted(known, 0.5)
    threat = threat_of("Linf", float(known.smallest.median()))
    found = cr(model, known.images, known.labels, threat, passes_per_sample=budget)
    left = margins(known.model, found, known.labels) <= 0
    spent = model.passes(6)[left]
    assert spent.mean() <= budget
    assert spent.mean() > budget - 8
    assert find("robusteval", "cr").expected_passes({"passes_per_sample": 30}, 5) == (30, 10)


def test_it_is_of_one_norm() -> None:
    known = linear("L2", 3, 2)
    with pytest.raises(AttackError, match="cr doesn't work in L2: set its norms to Linf"):
        cr(known.model, known.images, known.labels, threat_of("L2", 0.1))
