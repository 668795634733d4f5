"""Attacks that know a detector, against linear ones whose best images are known."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from robusteval import wrap_module
from robusteval.attacks.counting import Counted
from robusteval.attacks.evasion import EVADING, MOVING, Evasion, Guard, _without
from robusteval.attacks.steps import norms
from robusteval.models.adapter import Adapter
from robusteval.types import Evading, Goal, Norm, ThreatModel

PIXELS, COUNT = 12, 24


class Linear(nn.Module):
    """Two classes by one hyperplane."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        margin = (images.flatten(1) - 0.5) @ self.weight
        return torch.stack([-margin, margin], 1) / 2


def problem(seed: int = 0) -> tuple[Adapter, Tensor, Tensor, Tensor, Tensor]:
    """A linear model and its weight, a linear detector's, images and their predicted classes."""
    generator = torch.Generator().manual_seed(seed)
    weight, score = (torch.randn(PIXELS, generator=generator) for _ in range(2))
    images = torch.rand((COUNT, 1, 3, 4), generator=generator)
    model = wrap_module(Linear(weight), 2)
    return model, weight, score, images, model(images).argmax(1)


def guard(score: Tensor, threshold: float = 0.0, detached: bool = False) -> Guard:
    """The detector ``score`` · x."""

    def look(model: Adapter, images: Tensor) -> tuple[Tensor, Tensor]:
        seen = images.detach() if detached else images
        return model(images), seen.flatten(1) @ score

    return Guard(look, threshold, 1.0)


def run(
    found: Guard, goal: Goal, norm: Norm, eps: float, passes: int = 300, seed: int = 0
) -> tuple[Evasion, int, Tensor, Tensor]:
    """The search, for how many there was a gradient, and the best images' classes and scores."""
    model, _, score, images, labels = problem(seed)
    counted = Counted(model, COUNT)
    search = Evasion(counted, images, labels, ThreatModel(norm, eps), found, goal)
    guided = search.run(0, passes)
    assert counted.passes(COUNT).max() <= 1.1 * passes + 10
    return search, guided, model(search.best).argmax(1), search.best.flatten(1) @ score


def best_linf(score: Tensor, images: Tensor, eps: float, sign: int) -> Tensor:
    """The largest (or smallest) score · x in the ball and the box: each pixel by itself."""
    flat = images.flatten(1)
    up = torch.where(sign * score > 0, (flat + eps).clamp_max(1), (flat - eps).clamp_min(0))
    return up @ score


@pytest.mark.parametrize(("goal", "sign"), [("accept", 1), ("reject", -1)])
def test_a_linear_score_is_moved_as_far_as_it_can_be(goal: Goal, sign: int) -> None:
    _, _, score, images, _ = problem()
    _, guided, _, reached = run(guard(score), goal, "Linf", 0.2)
    assert guided == COUNT
    torch.testing.assert_close(reached, best_linf(score, images, 0.2, sign), rtol=0, atol=1e-4)


def best_l2(score: Tensor, image: Tensor, eps: float) -> float:
    """The largest score · x in the L2 ball and the box: clip(x + t · score) of that length."""
    flat, low, high = image.flatten().double(), 0.0, 1e3
    along = score.double()
    for _ in range(100):
        middle = (low + high) / 2
        moved = (flat + middle * along).clamp(0, 1)
        low, high = (middle, high) if (moved - flat).norm() < eps else (low, middle)
    return float(moved @ along)


def test_in_l2_too() -> None:
    _, _, score, images, _ = problem()
    _, _, _, reached = run(guard(score), "accept", "L2", 0.3)
    truth = torch.tensor([best_l2(score, image, 0.3) for image in images])
    torch.testing.assert_close(reached, truth, rtol=0, atol=0.01)
    assert (reached <= truth + 1e-4).all()


def best_evading(
    weight: Tensor, score: Tensor, image: Tensor, label: int, eps: float
) -> float | None:
    """The largest score · x of an image in the L∞ ball and the box that is misclassified."""
    sign = 1.0 if label == 1 else -1.0  # label 1: margin > 0 is right
    a = sign * weight.double().numpy()
    flat = image.flatten().double().numpy()
    bounds = list(zip(np.maximum(flat - eps, 0), np.minimum(flat + eps, 1), strict=True))
    found = linprog(-score.double().numpy(), a[None], [a.sum() / 2 - 1e-6], bounds=bounds)
    return None if found.status == 2 else -found.fun


def test_the_best_accepted_error_is_that_of_a_linear_program() -> None:
    _, weight, score, images, labels = problem()
    search, _, classes, reached = run(guard(score), "evade", "Linf", 0.25, passes=400)
    truth = [
        best_evading(weight, score, image, int(label), 0.25)
        for image, label in zip(images, labels, strict=True)
    ]
    wrong = classes != labels
    assert wrong.tolist() == [value is not None for value in truth]
    assert 4 < wrong.sum() < COUNT
    clean = images.flatten(1) @ score
    short = [
        (value - float(now)) / abs(value - float(before))
        for value, now, before in zip(truth, reached, clean, strict=True)
        if value is not None
    ]
    assert max(short) < 0.25
    assert np.median(short) < 0.05
    assert torch.equal(search.margin > 0, wrong & (reached > 0))


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 0.3)])
def test_where_no_gradient_is_passed_random_search_raises_the_score(norm: Norm, eps: float) -> None:
    _, _, score, images, _ = problem()
    search, guided, _, reached = run(guard(score, detached=True), "accept", norm, eps, passes=400)
    assert guided == 0
    assert (norms(search.best - images, norm) <= eps + 1e-6).all()
    before, most = images.flatten(1) @ score, best_linf(score, images, eps, 1)
    if norm == "L2":
        most = torch.tensor([best_l2(score, image, eps) for image in images])
    assert ((reached - before) / (most - before)).median() > 0.6


def test_what_lies_along_another_gradient_is_taken_away() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn((5, 1, 2, 3), generator=generator) for _ in range(2))
    left = _without(one, other)
    torch.testing.assert_close((left * other).sum((1, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    back = one - left
    cosine = (back * other).sum((1, 2, 3)).abs() / (
        back.flatten(1).norm(dim=1) * other.flatten(1).norm(dim=1)
    )
    torch.testing.assert_close(cosine, torch.ones(5))


def test_where_nothing_else_is_left_a_gradient_stays() -> None:
    one = torch.ones(2, 1, 2, 2)
    assert torch.equal(_without(one, 3 * one), one)
    assert torch.equal(_without(one, torch.zeros_like(one)), one)


def test_each_goal_spends_all_of_its_passes() -> None:
    for legs in (*EVADING.values(), MOVING):
        assert sum(leg.share for leg in legs) == pytest.approx(1)


@pytest.mark.parametrize("method", EVADING)
def test_every_method_finds_errors_that_are_accepted(method: Evading) -> None:
    model, _, score, images, labels = problem()
    counted = Counted(model, COUNT)
    threat = ThreatModel("Linf", 0.25)
    search = Evasion(counted, images, labels, threat, guard(score), "evade", method)
    search.run(0, 120)
    found = search.margin > 0
    accepted = (model(search.best).argmax(1) != labels) & (search.best.flatten(1) @ score > 0)
    assert torch.equal(found, accepted)
    assert accepted.sum() >= 3
