"""Starts from what broke similar samples: a way that one was broken by is often open to others."""

import torch
from torch import Generator, Tensor

from robusteval.attacks.search import Search
from robusteval.attacks.steps import per_sample
from robusteval.attacks.tuning import Tuning


def led_by_others(search: Search, rows: Tensor, generator: Generator, tuning: Tuning) -> Tensor:
    """Starts (B, C, H, W) of the samples ``rows``: clean images plus a lengthened perturbation of a
    broken one.

    Of the most similar of these, those of the same class first, some are drawn.  The one by which
    the margin is largest counts, for one forward pass each.  What is similar is told by pixels.
    """
    images = search.images[rows]
    start, highest = images, search.margin.new_full((len(rows),), -torch.inf)
    for other in _drawn(search, rows, generator, tuning).T:
        moved = tuning.lengthened * (search.best[other] - search.images[other])
        points = (images + moved).clamp(0, 1)
        with search.model.quickly():
            margins = search.margins(rows, points)
        higher = margins > highest
        start = torch.where(per_sample(higher, images), points, start)
        highest = torch.maximum(margins, highest)
    return start


def led(search: Search) -> Tensor:
    """The samples that a perturbation broke (N,), and no mistake on the clean image."""
    moved = (search.best != search.images).flatten(1).any(1)
    return torch.nonzero(search.broken & moved)[:, 0]


def _drawn(search: Search, rows: Tensor, generator: Generator, tuning: Tuning) -> Tensor:
    """Broken samples (B, draws) for each of ``rows``, none of them twice."""
    known, images, labels = led(search), search.images.flatten(1), search.labels
    apart = torch.cdist(images[rows], images[known])
    other_class = labels[rows][:, None] != labels[known]
    near = (apart + other_class * 2 * apart.amax()).argsort(1)[:, : tuning.similar]
    chance = torch.rand(near.shape, generator=generator).to(near.device)
    return known[near.gather(1, chance.argsort(1)[:, : tuning.drawn])]
