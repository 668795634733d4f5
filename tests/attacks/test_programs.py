"""Linear and quadratic programs of a batch, against solvers of one at a time."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.exact import flattest, shortest
from robusteval.attacks import programs
from robusteval.attacks.steps import norms
from robusteval.types import Norm

SOLVERS = {"L2": shortest, "Linf": flattest}


class Drawn(NamedTuple):
    normals: Tensor
    least: Tensor
    images: Tensor


def drawn(pixels: int, cuts: int, count: int = 12) -> Drawn:
    """Cuts that point alike, as those of one way do, of images with many black pixels."""
    generator = torch.Generator().manual_seed(pixels)
    shared, own = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((count, 1, pixels), (count, cuts, pixels))
    )
    least = torch.rand((count, cuts), generator=generator, dtype=torch.float64)
    images = torch.rand((count, pixels), generator=generator, dtype=torch.float64)
    images[torch.rand(images.shape, generator=generator) < 0.4] = 0
    return Drawn(2 * shared + own, 0.2 * pixels**0.5 * least, images)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(("pixels", "cuts"), [(6, 1), (20, 3), (64, 8)])
def test_norms_are_the_smallest_that_cuts_allow(norm: Norm, pixels: int, cuts: int) -> None:
    given = drawn(pixels, cuts)
    found, lengths = programs.shortest(*given, norm)
    one_by_one = zip(*(part.numpy() for part in given), strict=True)
    exact = torch.tensor([SOLVERS[norm](*one) for one in one_by_one], dtype=torch.float64)
    assert exact.isfinite().sum() > 6
    assert torch.equal(exact.isfinite(), lengths.isfinite())
    there = exact.isfinite()
    torch.testing.assert_close(lengths[there], exact[there], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(norms(found, norm)[there], lengths[there])
    moved = given.images + found
    assert moved.min() >= 0
    assert moved.max() <= 1
    lengths_of = given.normals.norm(dim=2)
    over = (given.normals @ found[..., None])[..., 0] - given.least
    assert (over[there] >= -1e-6 * lengths_of[there]).all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_of_one_cut_both_ways_agree(norm: Norm) -> None:
    """Within reach, beyond it, and of no use."""
    given = drawn(40, 1, count=30)
    least = given.least * torch.tensor([0.01, 1.0, 100.0, -1.0]).repeat(8)[:30, None]
    _, lengths = programs.shortest(given.normals, least, given.images, norm)
    found, alone = programs.into_half_space(given.normals[:, 0], least[:, 0], given.images, norm)
    assert 0 < int(lengths.isinf().sum()) < 20
    torch.testing.assert_close(alone, lengths, rtol=1e-6, atol=1e-5)
    there = alone.isfinite()
    gained = (given.normals[:, 0] * found).sum(1)[there]
    asked = least[there, 0].clamp_min(0)
    torch.testing.assert_close(gained, asked, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_what_no_perturbation_satisfies_has_no_norm(norm: Norm) -> None:
    """Cuts that contradict each other, that the box keeps out of reach, or that have no slope."""
    images = torch.full((3, 4), 0.5)
    normals = torch.zeros((3, 2, 4))
    normals[0, 0], normals[0, 1], normals[1, 0] = 1.0, -1.0, 1.0
    least = torch.tensor([[0.1, 0.1], [3.0, -1.0], [0.1, -1.0]])
    _, lengths = programs.shortest(normals, least, images, norm)
    assert lengths.isinf().all()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_cut_that_cuts_nothing_changes_nothing(norm: Norm) -> None:
    given = drawn(20, 2)
    more = torch.cat([given.normals, torch.zeros_like(given.normals)], 1)
    least = torch.cat([given.least, torch.full_like(given.least, -1.0)], 1)
    _, lengths = programs.shortest(*given, norm)
    _, again = programs.shortest(more, least, given.images, norm)
    torch.testing.assert_close(again, lengths, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_where_nothing_is_asked_nothing_is_moved(norm: Norm) -> None:
    given = drawn(20, 2)
    _, lengths = programs.shortest(given.normals, -given.least - 0.1, given.images, norm)
    assert lengths.max() < 1e-5
