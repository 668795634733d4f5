"""``adaptive`` and ``smallest`` against exact truths, the range of pixels included."""

from functools import cache
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import masked, stored, truths
from benchmarks.exact import broken_behind_quantiser, prototype_radii, quantised
from benchmarks.truths import KINDS, Known, Result, known, left_by_adaptive, table
from benchmarks.variants import OutsideOnly
from robusteval.attacks.adaptive import adaptive, adaptive_result
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.data.datasets import Dataset
from robusteval.models.adapter import Adapter
from robusteval.types import Norm
from tests.helpers.known import Function, in_threat, linear, margins, threat_of

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PLAIN, SHOWN = "four prototypes a class, as a plain module", "four prototypes a class, shown"


@cache
def right(kind: str) -> Known:
    """All test images that a model gets right."""
    return known(kind, 360, None)


def nearest_to(eps: float, count: int, norm: Norm = "L2") -> tuple[Known, Tensor]:
    """So many of these, whose exact radii (B,) in L2 are nearest to ε."""
    one = right(PLAIN)
    radii = prototype_radii(one.model.prototypes, one.images, one.labels, norm)  # type: ignore[arg-type]
    rows = (radii - eps).abs().argsort()[:count]
    return Known(one.model, one.images[rows], one.labels[rows], one.robust), radii[rows]


@pytest.mark.parametrize("kind", [PLAIN, SHOWN])
def test_in_l2_nothing_breakable_is_left(kind: str) -> None:
    """Some break only by ascents inside the ball from the clean image."""
    one = right(kind)
    robust = one.robust(one.images, one.labels, "L2", 0.9)
    assert int(robust.sum()) == left_by_adaptive(one, threat_of("L2", 0.9)) == 81


def test_in_l2_ascents_inside_the_ball_break_what_larger_balls_miss() -> None:
    """Without cutting planes, which find all of it."""
    one, _ = nearest_to(0.9, 80)
    left = []
    for variant in (Cascade, OutsideOnly):
        counted = as_counted(one.model, one.images, one.labels)
        cascade = variant(counted, one.images, one.labels, threat_of("L2", 0.9), 0, 400)
        cascade.left_out = frozenset({"pieces"})
        found = cascade.run().images
        left.append(int((margins(one.model, found, one.labels) <= 0).sum()))
    assert int(one.robust(one.images, one.labels, "L2", 0.9).sum()) <= left[0] < left[1]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_of_a_random_model_just_what_is_within_reach_of_its_mean_is_broken(norm: Norm) -> None:
    """Noise on a linear model's logits: exact distances of the mean are known."""
    known = linear(norm, 4, count=24)
    generator = torch.Generator().manual_seed(0)
    noise = 0.2 * float(known.model(known.images).std())

    def noisy(images: Tensor) -> Tensor:
        mean = 10 * known.model(images)
        return mean + noise * torch.randn(mean.shape, generator=generator)

    radius = float(known.smallest.median())
    threat = threat_of(norm, radius)
    found = adaptive_result(Function(noisy), known.images, known.labels, threat).images
    in_threat(found, known.images, threat)
    broken = margins(known.model, found, known.labels) > 0
    assert broken[known.smallest < radius / 1.05].all()
    assert not broken[known.smallest > radius * 1.001].any()


def test_stored_cells_are_the_truth_and_copies_hold() -> None:
    """But for tanh, which float32 makes ties of."""
    of_truths = stored.read(RESULTS / "truths.csv", truths.Result)
    assert {r.kind for r in of_truths} == set(KINDS)
    assert [r for r in of_truths if r.left != r.truth] == []
    of_copies = stored.read(RESULTS / "masked.csv", masked.Result)
    assert {r.mask for r in of_copies} == set(masked.EVERY)
    assert [r for r in of_copies if not r.holds and r.mask != "tanh"] == []


@pytest.mark.parametrize(("norm", "eps", "least"), [("L2", 0.9, 1.08), ("Linf", 0.2, 1.15)])
def test_more_steps_of_smallest_never_find_larger_norms(
    norm: Norm, eps: float, least: float
) -> None:
    """Nor smaller ones than there are.  In L∞ one sample stays at 1.14 of its radius."""
    plain, radii = nearest_to(eps, 32, norm)
    found = []
    for steps in (60, 100, 130, 200):
        images = smallest(plain.model, plain.images, plain.labels, threat_of(norm, 1), steps=steps)
        found.append(norms(images.double() - plain.images.double(), norm))
    assert all((more <= fewer).all() for fewer, more in pairwise(found))
    ratios = found[1] / radii
    assert ratios.max() < max(1.1, least)
    assert (ratios > 1.1).sum() <= 1
    assert (found[-1] / radii).max() < least
    assert (found[-1] / radii).min() > 1 - 1e-3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_scale_of_logits_or_a_constant_changes_nothing(norm: Norm) -> None:
    """By a sample at most: float32 rounds otherwise."""
    plain, _ = nearest_to(0.9, 32)
    threat, left = threat_of(norm, 0.9 if norm == "L2" else 0.2), []
    for scale, constant in ((1.0, 0.0), (1e-3, 0.0), (1e3, 0.0), (1.0, 100.0)):
        model = Function(lambda x, a=scale, b=constant: a * plain.model(x) + b)
        found = adaptive(model, plain.images, plain.labels, threat, passes_per_sample=120)
        left.append(int((margins(model, found, plain.labels) <= 0).sum()))
    assert max(left) - min(left) <= 1
    assert 0 < min(left) < 32


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_nor_do_they_on_a_network(norm: Norm, digits: Dataset, ce_digits: Adapter) -> None:
    """By random search and aims, too, which what is linear on pieces never needs."""
    data = digits.balanced_subset(30)
    images, labels = data.images(), ce_digits(data.images()).argmax(1)
    threat, left = threat_of(norm, 0.3 if norm == "L2" else 0.07), []
    for scale, constant in ((1.0, 0.0), (1e-6, 0.0), (1e6, 0.0), (1.0, 100.0)):
        model = Function(lambda x, a=scale, b=constant: a * ce_digits(x) + b)
        found = adaptive(model, images, labels, threat, passes_per_sample=120)
        left.append(int((margins(model, found, labels) <= 0).sum()))
    assert max(left) - min(left) <= 1
    assert 0 < min(left) < 30


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.15), ("Linf", 0.3), ("L2", 0.4)])
@pytest.mark.parametrize("levels", [2, 4])
def test_the_truth_behind_a_quantiser_is_what_trying_all_finds(
    norm: Norm, eps: float, levels: int
) -> None:
    """Four pixels, each as it is or barely in another level."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 17, (30, 1, 2, 2), generator=generator) / 16
    means = torch.rand((3, 4), generator=generator)

    def classes(pixels: Tensor) -> Tensor:
        seen = quantised(pixels.flatten(1), levels)
        return (seen[:, None] - means.to(seen)).square().sum(2).argmin(1)

    labels, broken = classes(images), []
    for image, label in zip(images.double().flatten(1), labels, strict=True):
        edges = [(k / levels, (k + 1) / levels - 1e-9) for k in range(levels)]
        tried = torch.tensor(
            [*product(*[[min(max(x, a), b) for a, b in edges] for x in image.tolist()])],
            dtype=torch.float64,
        )
        near = norms(tried - image, norm) <= eps
        broken.append(bool((classes(tried[near]) != label).any()))
    found = broken_behind_quantiser(means, images, labels, norm, eps, levels)
    assert found.tolist() == broken
    assert any(broken)
    assert levels == 4 or not all(broken)


def test_the_table_shows_what_is_above_the_truth() -> None:
    results = [
        Result("linear", "Linf", "0.1", 9, 8, 5, attack, left, 3)
        for attack, left in (("adaptive", 5), ("smallest", 6))
    ]
    assert [*table(results)][-1] == "| linear | L∞ | 0.1 | 8 | 5 | 5 | **6** |"
