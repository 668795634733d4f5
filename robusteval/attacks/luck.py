"""Models whose outputs change: what is a success, and what was one lucky pass among hundreds."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robusteval.attacks.losses import logit_margin

if TYPE_CHECKING:
    from robusteval.attacks.search import Search

_FIRST, _MOST = 32, 256  # fresh passes that a success is looked at by
_SURE = 4.0  # standard errors that a margin must be above 0: it is looked at again and again
_TOLD = 64  # fresh passes whose spread is told


def sure_margins(search: "Search", rows: Tensor, points: Tensor) -> Tensor:
    """Margins (B,) of points that look broken, by fresh passes alone.

    As many again until the margin of mean logits is below 0 or sure to be above; where all can't
    tell, it is what the margin is at least.
    """
    labels, found = search.labels[rows], torch.empty(len(rows), dtype=torch.float64)
    found = found.to(points.device)
    left = torch.arange(len(rows), device=rows.device)
    logits = _fresh(search, rows, points, _FIRST)
    while True:
        margins, least = _bounds(logits, labels[left])
        unsure = (margins > 0) & (least <= 0)
        found[left] = torch.where(unsure, least, margins)
        left, logits = left[unsure], logits[:, unsure]
        if len(left) == 0 or len(logits) >= _MOST:
            return found
        more = _fresh(search, rows[left], points[left], len(logits))
        logits = torch.cat([logits, more])


def _fresh(search: "Search", rows: Tensor, points: Tensor, count: int) -> Tensor:
    """Logits (N, B, K) of so many passes, one by one."""
    votes, search.votes = search.votes, 1
    try:
        return torch.stack([search.logits(rows, points) for _ in range(count)])
    finally:
        search.votes = votes


def _bounds(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Margins (B,) of mean logits, of (N, B, K), and what they are at least."""
    mean = logits.mean(0)
    wrong = mean.scatter(1, labels[:, None], -torch.inf).argmax(1)
    places = torch.stack([wrong, labels], 1).expand(len(logits), -1, -1)
    single = logits.gather(2, places)
    gaps = (single[..., 0] - single[..., 1]).double()
    error = gaps.std(0) / len(logits) ** 0.5
    margins = logit_margin(mean, labels).double()
    return margins, margins - _SURE * error


def right_by_luck(search: "Search") -> tuple[int, ...]:
    """How many samples each of so many single fresh passes gets right on the images found."""
    rows = torch.arange(len(search.images), device=search.images.device)
    logits = _fresh(search, rows, search.best, _TOLD)
    return tuple((logits.argmax(2) == search.labels).sum(1).tolist())
