"""Pixels that are read in steps, moved to other levels."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from benchmarks.exact import quantised
from benchmarks.truths import known
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.attacks.levels import Moves, Prices, levels_of, move_levels
from robusteval.attacks.ranking import tried
from robusteval.attacks.search import Search
from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.attacks.straight import ReadStraight
from robusteval.attacks.tuning import TUNING
from robusteval.types import Norm
from tests.helpers.known import Function, threat_of

THRESHOLDS = (0.2, 0.5, 0.8)


class Thermometer(nn.Module):
    """A linear layer on one bit for each pixel and threshold."""

    def __init__(self, together: bool = True) -> None:
        super().__init__()
        self.together = together
        weights = torch.randn((3, 8 * len(THRESHOLDS)), generator=torch.Generator().manual_seed(3))
        self.register_buffer("weights", weights)

    def forward(self, images: Tensor) -> Tensor:
        if self.together:
            bits = (images.flatten(1)[:, None] > images.new_tensor(THRESHOLDS)[:, None]).float()
        else:
            bits = torch.stack([(images.flatten(1) > at).float() for at in THRESHOLDS], 1)
        return bits.flatten(1) @ self.weights.T  # type: ignore[operator]


def searched(model: nn.Module, eps: float = 0.5, norm: Norm = "L2", count: int = 24) -> Search:
    """A search on random images (count, 2, 2, 2) that the model gets right."""
    images = torch.rand((count, 2, 2, 2), generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    search = Search(as_counted(model, images), images, labels, threat_of(norm, eps))
    search.judge(torch.arange(count), images)
    return search


def straight(search: Search) -> ReadStraight:
    return ReadStraight(search.model.adapter)


@pytest.mark.parametrize("together", [True, False])
def test_thresholds_are_found_by_queries(together: bool) -> None:
    search = searched(Thermometer(together))
    levels = levels_of(search, straight(search))
    assert levels is not None
    assert levels.low.tolist() == pytest.approx([0, *THRESHOLDS], abs=2e-6)
    assert levels.high.tolist() == pytest.approx([*THRESHOLDS, 1], abs=2e-6)
    assert (levels.low[1:] > torch.tensor(THRESHOLDS)).all()
    assert (levels.high[:-1] <= torch.tensor(THRESHOLDS)).all()


@pytest.mark.parametrize("levels", [None, 255])
def test_nothing_is_moved_without_levels_or_among_too_many(levels: int | None) -> None:
    def seen(images: Tensor) -> Tensor:
        images = images.flatten(1)[:, :3]
        return images if levels is None else quantised(images, levels)

    search = searched(Function(seen))
    assert levels_of(search, straight(search)) is None
    passes = search.model.forward_passes.sum()
    targets = torch.ones_like(search.labels)[:, None]
    move_levels(search, straight(search), search.alive(), targets, 2)
    assert (search.best == search.images).all()
    assert search.model.forward_passes.sum() == passes + 257


@pytest.mark.parametrize("together", [True, False])
def test_gains_are_what_each_level_adds(together: bool) -> None:
    """Behind a linear layer they are exact: by changing one pixel at a time."""
    model = Thermometer(together)
    search = searched(model, count=4)
    levels = levels_of(search, straight(search))
    assert levels is not None
    rows, targets = torch.arange(4), (search.labels + 1) % 3
    gains = Moves(search, straight(search), levels).gains(rows, search.images, targets)
    middles = (levels.low + levels.high) / 2
    for pixel, level in product(range(8), range(4)):
        changed = search.images.clone().flatten(1)
        changed[:, pixel] = middles[level]
        logits = model(changed.view_as(search.images))
        lowest = search.images.clone().flatten(1)
        lowest[:, pixel] = middles[0]
        first = model(lowest.view_as(search.images))
        more = (logits - first)[rows, targets] - (logits - first)[rows, search.labels]
        found = gains[:, pixel, level] - gains[:, pixel, 0]
        assert found.tolist() == pytest.approx(more.tolist(), abs=1e-5)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_the_chosen_levels_are_within_the_budget_and_the_best(norm: Norm) -> None:
    """Against all 3⁷ choices of levels; exchanges may miss a little of a knapsack."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((40, 1, 1, 7), generator=generator)
    edges = torch.tensor([[0, 0.33], [0.34, 0.66], [0.67, 1]])
    nearest = clean.flatten(1)[..., None].clamp(edges[:, 0], edges[:, 1])
    gains = torch.randn(nearest.shape, generator=generator)
    prices = Prices.of(nearest, clean, norm, torch.full((40,), 0.4))
    chosen = prices.chosen(gains)
    points = nearest.gather(2, chosen[..., None])[..., 0].view_as(clean)
    assert (norms(points - clean, norm) <= 0.4 + 1e-6).all()
    every = torch.tensor([*product(range(3), repeat=7)])
    best = []
    for costs, gain in zip(prices.costs, gains, strict=True):
        spent = costs[torch.arange(7), every]
        fits = (spent.sum(1) if norm == "L2" else spent.amax(1)) <= prices.budget[0]
        best.append(float(gain[torch.arange(7), every].sum(1)[fits].max()))
    found = gains.gather(2, chosen[..., None]).sum((1, 2))
    assert (found <= torch.tensor(best) + 1e-5).all()
    missed = found < torch.tensor(best) - 1e-5
    assert int(missed.sum()) <= (2 if norm == "L2" else 0)


@pytest.mark.parametrize(
    ("eps", "level"), [(0.6, "1-bit inputs"), (0.9, "thermometer codes, four levels")]
)
def test_behind_steps_nothing_breakable_is_left_in_l2(eps: float, level: str) -> None:
    """Of all samples that the models get right; the first stages leave up to 147."""
    one = known(f"the nearest mean of {level}", 360, None)
    robust = one.robust(one.images, one.labels, "L2", eps)
    search = Search(as_counted(one.model, one.images), one.images, one.labels, threat_of("L2", eps))
    rows = torch.arange(len(one.images))
    targets = tried(search, rows, 9, prototypes=False)
    move_levels(search, straight(search), rows, targets, TUNING["L2"].level_turns)
    assert 0 < int(robust.sum()) < 12
    assert (search.broken == ~robust).all()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_the_smallest_perturbations_behind_one_bit_are_found(norm: Norm) -> None:
    """Of 40 samples, at radii between which many break."""
    one = known("the nearest mean of 1-bit inputs", 40, None)
    found = smallest(one.model, one.images, one.labels, threat_of(norm, 1), steps=75)
    with torch.no_grad():
        assert (one.model(found).argmax(1) != one.labels).all()
    lengths = norms(found.double() - one.images.double(), norm)
    for eps in (0.3, 0.45, 0.6) if norm == "L2" else (0.1, 0.15, 0.2):
        robust = one.robust(one.images, one.labels, norm, eps)
        assert ((lengths > eps) == robust).all()


def test_what_is_nearly_the_best_choice_of_pixels_is_shaved() -> None:
    """Of four levels in L2: by halvings alone one of 16 samples more is left at 0.6."""
    one = known("the nearest mean of thermometer codes, four levels", 360, None)
    images, labels = one.images[50:66], one.labels[50:66]
    robust = one.robust(images, labels, "L2", 0.6)
    left = []
    for steps in (73, 146):  # eight for each of nine classes, once and twice
        found = smallest(one.model, images, labels, threat_of("L2", 1), steps=steps)
        with torch.no_grad():
            assert (one.model(found).argmax(1) != labels).all()
        left.append(norms(found.double() - images.double(), "L2") > 0.6)
    assert int(left[0].sum()) == int(robust.sum()) + 1
    assert torch.equal(left[1], robust)


def test_in_linf_nothing_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels share no budget there, so that a smaller share of it chooses the same."""
    one = known("the nearest mean of 1-bit inputs", 8, None)
    monkeypatch.setattr(Moves, "shave", lambda *_: pytest.fail("nothing is shaved in L∞"))
    smallest(one.model, one.images, one.labels, threat_of("Linf", 1), steps=146)


def test_the_cascade_comes_to_it() -> None:
    one = known("the nearest mean of 1-bit inputs", 32, None)
    threat = threat_of("L2", 0.45)
    counted = as_counted(one.model, one.images, one.labels)
    cascade = Cascade(counted, one.images, one.labels, threat, 0, passes_per_sample=60)
    cascade.left_out = frozenset({"square", "more steps", "inward", "AutoAttack"})
    found = cascade.run()
    broken = {stage.name: stage.broke for stage in found.stages}
    assert broken["levels"] > 0
    assert found.warned[0].stages == ("levels",)  # straight through from the first step
    assert (norms(found.images - one.images, "L2") <= 0.45).all()
    robust = one.robust(one.images, one.labels, "L2", 0.45)
    assert 0 < int(robust.sum()) < 20
    assert ((one.model(found.images).argmax(1) == one.labels) == robust).all()


def test_a_pixel_on_the_edge_of_its_level_stays_in_the_ball() -> None:
    """Also where it is white, and a quantiser cuts off what would be a level of its own."""
    model = Function(lambda x: quantised(x.flatten(1), 2)[:, :3])
    search = searched(model, eps=0.6)
    search.images[:, 0] = 1.0
    search.images[:, 1] = 0.5
    search.best[:] = search.images
    rows = torch.arange(len(search.images))
    move_levels(search, straight(search), rows, (search.labels[:, None] + 1) % 3, 2)
    assert (norms(search.best - search.images, "L2") <= 0.6).all()
