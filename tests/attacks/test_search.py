"""The gradient oracle, its schedules, starts and random search, apart from the cascade."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.random_search import flip_squares
from robusteval.attacks.search import MARGIN, Objective, Search, Slopes, Step, cosine, shrinking
from robusteval.attacks.steps import free_gradient, norms, project, project_fully, striped_start
from robusteval.models.acceleration import static_batch
from robusteval.models.adapter import Adapter
from robusteval.types import Norm
from tests.helpers.known import (
    Function,
    images_near_grey,
    linear,
    margins,
    small_network,
    threat_of,
)


def test_a_cut_perturbation_is_lengthened() -> None:
    """At a corner of the box a plain projection stays far inside the L2 ball."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randint(0, 2, (30, 1, 8, 8), generator=generator).float()
    moved = clean + torch.randn(clean.shape, generator=generator)
    threat = threat_of("L2", 0.5)
    short = norms(project(moved, clean, threat) - clean, "L2")
    long = norms(project_fully(moved, clean, "L2", 0.5) - clean, "L2")
    assert (short < 0.45).all()
    assert ((long > 0.49) & (long <= 0.5 + 1e-6)).all()
    inside = clean + 0.01 * (0.5 - clean)
    assert torch.equal(project_fully(inside, clean, "L2", 0.5), project(inside, clean, threat))


def test_a_free_gradient_does_not_push_out_of_the_box() -> None:
    images = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    gradient = torch.tensor([[-1.0, 1.0, -1.0, 1.0, -1.0]])
    assert free_gradient(gradient, images).tolist() == [[0.0, 1.0, -1.0, 0.0, -1.0]]


def test_survivors_fill_batches_anew_at_each_step() -> None:
    """Only the last batch is smaller than a full one, however many have left."""
    steps: list[list[int]] = []

    class Watched(Search):
        def gradients(self, rows: Tensor, *what: Any) -> Slopes:
            steps.append([])
            return super().gradients(rows, *what)

        def slopes(self, rows: Tensor, *what: Any) -> Slopes:
            steps[-1].append(len(rows))
            return super().slopes(rows, *what)

    full = static_batch()
    known = linear("Linf", 3, count=3 * full)
    threat = threat_of("Linf", float(known.smallest.median()))
    search = Watched(as_counted(known.model, known.images), known.images, known.labels, threat)
    rows = torch.arange(3 * full)
    search.ascend(rows, known.images, MARGIN, cosine(threat.radius, 20))
    left = [sum(sizes) for sizes in steps]
    assert left[0] == 3 * full > left[-1] > full
    assert [sizes[:-1] for sizes in steps] == [[full] * (len(sizes) - 1) for sizes in steps]
    assert len(steps[-1]) == -(-left[-1] // full)


def test_a_search_takes_fewer_large_images_at_once() -> None:
    model = as_counted(Function(lambda x: x.mean((2, 3))), images_near_grey(1, (3, 8, 8)))
    threat, label = threat_of("Linf", 0.1), torch.zeros(1, dtype=torch.int64)
    for side, size in ((32, 128), (224, 32)):
        images = images_near_grey(1, (3, side, side))
        assert Search(model, images, label, threat).batch_size == size


def test_rough_gradients_never_decide() -> None:
    """A rough form that sees success everywhere: nothing counts but the model's own word."""
    network, images = small_network(), images_near_grey(12)
    with torch.no_grad():
        labels = network(images).argmax(1)
    liar = Adapter(Function(lambda x: -network(x)), 5)
    model = Counted(Adapter(network, 5), len(images), fast=liar)
    search = Search(model, images, labels, threat_of("Linf", 0.001))
    climb = Objective(lambda seen: logit_margin(seen.logits, seen.labels))
    search.ascend(search.alive(), images, climb, cosine(0.001, 3))
    honest = margins(network, search.best, labels) > 0
    assert torch.equal(search.broken, honest)
    assert not search.broken.all()


def test_without_a_rougher_form_each_pass_is_a_verdict() -> None:
    """The best image is the one with the largest margin of all, and no pass is made twice."""
    model, images = small_network(), images_near_grey(10)
    labels, threat = model(images).argmax(1), threat_of("Linf", 0.02)
    counted = Counted(Adapter(model, 5), len(images))
    seen: list[Tensor] = []
    search = Search(counted, images, labels, threat)
    assert search.is_exact
    original = search.keep

    def keep(rows: Tensor, points: Tensor, found: Tensor) -> None:
        seen.append(found.new_full((len(images),), -torch.inf).index_put((rows,), found))
        original(rows, points, found)

    search.keep = keep  # type: ignore[method-assign]
    search.ascend(search.alive(), images, MARGIN, cosine(threat.radius, 12))
    assert int(counted.forward_passes.max()) <= 13
    torch.testing.assert_close(search.margin, torch.stack(seen).amax(0))
    by_hand = logit_margin(model(search.best), labels).double()
    torch.testing.assert_close(search.margin, by_hand, rtol=1e-4, atol=1e-5)


def test_where_another_leads_the_best_image_of_an_ascent_counts() -> None:
    """The last one is beyond the peak; a form of the model itself is judged there alone."""

    def peaked(images: Tensor) -> Tensor:
        margin = -1 - (images.flatten(1).mean(1) - 0.52).abs()
        return torch.stack([0 * margin, margin], 1)

    images, labels = torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, dtype=torch.long)
    schedule = [Step(size, 0.1) for size in (0.019, 0.03)]
    for led, best in ((False, 0.549), (True, 0.519)):
        model = as_counted(Adapter(Function(peaked), 2), images)
        form = Adapter(Function(peaked), 2)
        model.fast = None if led else form
        search = Search(model, images, labels, threat_of("Linf", 0.1))
        with model.led_by(form):
            search.ascend(search.alive(), images, MARGIN, schedule)
        torch.testing.assert_close(search.best, torch.full_like(images, best))


def test_step_sizes_fall_from_twice_the_radius() -> None:
    schedule = cosine(0.1, 10)
    assert schedule[0].size == pytest.approx(0.2)
    assert all(second.size < first.size for first, second in pairwise(schedule))
    assert schedule[-1].size > 0
    assert {step.radius for step in schedule} == {0.1}


def test_shrinking_balls_end_in_the_smallest() -> None:
    schedule = shrinking(0.1, 30)
    assert len(schedule) == 30
    radii = [step.radius for step in schedule]
    assert radii == pytest.approx([0.6] * 9 + [0.2] * 10 + [0.1] * 11)


def test_random_search_keeps_what_raises_the_margin_and_nothing_else() -> None:
    """On a linear model: from a clean image it climbs by corners, from the optimum nowhere."""
    known = linear("Linf", 2)
    threat = threat_of("Linf", 0.9 * float(known.smallest.min()))
    model = as_counted(known.model, known.images)
    search = Search(model, known.images, known.labels, threat)
    rows = torch.arange(len(known.images))
    clean = search.judge(rows, known.images)
    assert flip_squares(search, rows, 30, torch.Generator().manual_seed(0)) > 0.1
    assert (search.margin >= clean).all()
    moved = (search.best - known.images).abs()
    corners = torch.isclose(moved, torch.tensor(threat.radius), atol=1e-6)
    assert (corners | (moved == 0)).all()
    search.ascend(rows, known.images, MARGIN, cosine(threat.radius, 40))
    best = search.best.clone()
    assert flip_squares(search, rows, 30, torch.Generator().manual_seed(0)) < 0.01
    assert not search.broken.any()
    assert torch.allclose(search.best, best, atol=1e-3)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_search_makes_no_more_images_than_go_through_the_model_together(norm: Norm) -> None:
    """And the same ones as if all were made at once."""
    network, images = small_network(), images_near_grey(20)
    labels = network(images).argmax(1)
    found, most = [], []
    for batch_size in (8, 1000):
        sizes: list[int] = []

        def told(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(len(x))
            return network(x)

        model = as_counted(Adapter(Function(told), 5), images)
        search = Search(model, images, labels, threat_of(norm, 0.02))
        search.batch_size = batch_size
        sizes.clear()
        flip_squares(search, search.alive(), 24, torch.Generator().manual_seed(0), together=4)
        found.append(search.best)
        most.append(max(sizes))
    assert most == [8, 80]
    torch.testing.assert_close(*found)


def test_striped_starts_are_corners_constant_along_columns() -> None:
    clean = torch.full((50, 3, 6, 5), 0.5)
    start = striped_start(clean, threat_of("Linf", 0.2), torch.Generator().manual_seed(0)) - clean
    assert torch.allclose(start.abs(), torch.tensor(0.2))
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    assert abs(float((start > 0).float().mean()) - 0.5) < 0.1
    assert len(start[:, :, 0].flatten(1).unique(dim=0)) == 50
