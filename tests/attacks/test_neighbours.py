"""Starts from what broke similar samples."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robusteval.attacks.counting import as_counted
from robusteval.attacks.neighbours import led, led_by_others
from robusteval.attacks.search import Search
from robusteval.attacks.tuning import TUNING
from tests.helpers.known import Function, threat_of

PIXELS = 4
# Two classes of three samples each; within a class the brightness of all pixels sets them apart.
SHADES = torch.tensor([0.50, 0.46, 0.20, 0.48, 0.22, 0.24])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])


def logits(images: Tensor) -> Tensor:
    """The class that the first pixel is far from the others towards."""
    pixels = images.flatten(1)
    apart = pixels[:, 0] - pixels[:, 1:].mean(1)
    return torch.stack([0.1 - apart, apart], 1)


@pytest.fixture
def search() -> Search:
    """All but the first are broken, each by its own change of one pixel."""
    images = SHADES.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    made = Search(as_counted(Function(logits), images), images, LABELS, threat_of("L2", 0.5))
    for sample in range(1, len(images)):
        made.best[sample, 0, 0, 0] += 0.01 * sample
        made.broken[sample] = True
    return made


def moves(search: Search, similar: int, drawn: int, seed: int = 0) -> Tensor:
    """How the first sample's start differs from its clean image (pixels,)."""
    tuning = replace(TUNING["L2"], similar=similar, drawn=drawn)
    first, generator = torch.tensor([0]), torch.Generator().manual_seed(seed)
    start = led_by_others(search, first, generator, tuning)
    return (start - search.images[first]).flatten()


@pytest.mark.parametrize(
    ("similar", "other"),
    [(1, 1), (2, 2), (3, 3), (5, 5)],  # its own class first, then by brightness
)
def test_of_the_most_similar_the_one_that_leads_highest_counts(
    search: Search, similar: int, other: int
) -> None:
    """Here it is the last of them, whose change is the largest; its length is doubled."""
    assert moves(search, similar, similar) == pytest.approx([0.02 * other, 0, 0, 0], abs=1e-6)


def test_one_forward_pass_for_each_that_was_drawn(search: Search) -> None:
    moves(search, similar=5, drawn=3)
    assert search.model.forward_passes.tolist() == [3, 0, 0, 0, 0, 0]
    assert not search.model.backward_passes.any()


def test_none_is_drawn_twice(search: Search) -> None:
    """Else the highest would be missing at times."""
    assert all(moves(search, 5, 5, seed)[0] == pytest.approx(0.1) for seed in range(5))


def test_a_mistake_on_the_clean_image_leads_nowhere(search: Search) -> None:
    search.best[1] = search.images[1]
    assert led(search).tolist() == [2, 3, 4, 5]
    assert moves(search, 1, 1) == pytest.approx([0.04, 0, 0, 0], abs=1e-6)
