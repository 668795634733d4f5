"""Random search from the best images known: a look at what gradients overlook."""

import torch
from torch import Tensor

from robusteval.attacks.search import Search
from robusteval.attacks.steps import corners, norms, project_fully

_SHORTEST = 0.03  # of ε: how little a square is moved in L2
_SMALLEST, _LARGEST = 0.004, 0.1  # of the pixels: the squares that are tried


def flip_squares(
    search: Search, rows: Tensor, queries: int, generator: torch.Generator, together: int = 4
) -> float:
    """Sets squares of each sample's best image to x ± ε, by a sign for each channel, and keeps
    what raises the margin; in L2 it moves squares by a vector of up to ε, and projects.  One
    forward pass a query, and one for the best of those that are made ``together``: a batch of few
    images takes as long as one of more.

    The proposals of Square (Andriushchenko et al. 2020), which starts at stripes and shrinks its
    squares by a schedule; here their sizes are drawn, so that one may stop at any time, and only
    the best of those together, by whatever form of the model is fast, is judged by the model
    itself.  Returns the share of the proposals that were kept: next to none where gradients led to
    the best.
    """
    kept = tried = 0
    for _ in range(0, queries, together):
        alive = search.alive(rows)
        if len(alive) == 0:
            break
        before = search.margin[alive]
        search.judge(alive, _best_proposed(search, alive, generator, together))
        kept += int((search.margin[alive] > before).sum())
        tried += len(alive) * together
    return kept / max(tried, 1)


def _best_proposed(
    search: Search, rows: Tensor, generator: torch.Generator, together: int
) -> Tensor:
    """Of so many changed images of each sample the one of the largest rough margin (B, C, H, W)."""
    several = rows.repeat_interleave(together)
    clean, best = search.images[several], search.best[several]
    if search.threat.norm == "Linf":
        moved = corners(clean, search.threat, generator)
        points = torch.where(_squares(clean, generator).to(clean.device), moved, best)
    else:
        points = _pushed(clean, best, search.threat.radius, generator)
    with search.model.quickly():
        margins = search.margins(several, points).view(-1, together)
    first = torch.arange(0, len(points), together, device=rows.device)
    return points[first + margins.argmax(1)]


def _pushed(clean: Tensor, best: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """``best`` moved inside one square of each image, by a sign for each channel and a log-uniform
    length of up to ε, and put back in the L2 ball around ``clean``."""
    shape = (len(best), *[1] * (best.dim() - 1))
    signs = 2.0 * torch.randint(2, (*best.shape[:2], 1, 1), generator=generator) - 1
    push = signs * _squares(best, generator)
    length = radius * _SHORTEST ** torch.rand(shape, generator=generator)
    push = length * push / norms(push, "L2").view(shape)
    return project_fully(best + push.to(best), clean, "L2", radius)


def _squares(images: Tensor, generator: torch.Generator) -> Tensor:
    """One square of pixels of each image (B, 1, H, W), true inside; its area is log-uniform."""
    count, _, height, width = images.shape
    chance = torch.rand((count, 3), generator=generator)
    area = height * width * _SMALLEST * (_LARGEST / _SMALLEST) ** chance[:, 0]
    side = area.sqrt().round().clamp(1, min(height, width))
    down = _covered(height, side, chance[:, 1])
    across = _covered(width, side, chance[:, 2])
    return (down[:, :, None] & across[:, None, :])[:, None]


def _covered(length: int, side: Tensor, chance: Tensor) -> Tensor:
    """The places (B, length) that a stretch of ``side`` (B,) covers, laid by ``chance`` (B,)."""
    first = ((length - side + 1) * chance).floor()[:, None]
    places = torch.arange(length)
    return (places >= first) & (places < first + side[:, None])
