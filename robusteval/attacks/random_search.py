"""Random search from the best images known: a look at what gradients overlook."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.attacks.search import Search
from robusteval.attacks.steps import norms, per_sample, project, project_fully
from robusteval.types import Norm, ThreatModel

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
    """Of so many changed images of each sample the one of the largest rough margin (B, C, H, W).

    No more images are made at once than go through the model together.
    """
    drawn = _Drawn.of(search.images[rows[:1]], len(rows) * together, search.threat.norm, generator)
    chosen = []
    for at in torch.arange(len(rows)).split(max(1, search.batch_size // together)):
        several = rows[at.to(rows.device)].repeat_interleave(together)
        some = slice(int(at[0]) * together, int(at[-1] + 1) * together)
        points = drawn.points(some, search.images[several], search.best[several], search.threat)
        with search.model.quickly():
            margins = search.margins(several, points).view(-1, together)
        first = torch.arange(0, len(points), together, device=rows.device)
        chosen.append(points[first + margins.argmax(1)])
    return torch.cat(chosen)


@dataclass(frozen=True)
class _Drawn:
    """What changes so many images: signs (B, C, 1, 1), squares (B, 1, H, W), true inside, and in L2
    shares of ε (B, 1, 1, 1) that squares are moved by, log-uniform."""

    signs: Tensor
    squares: Tensor
    shares: Tensor | None

    @classmethod
    def of(cls, image: Tensor, count: int, norm: Norm, generator: torch.Generator) -> "_Drawn":
        """For images like this one (1, C, H, W)."""
        _, channels, height, width = image.shape
        signs = 2.0 * torch.randint(2, (count, channels, 1, 1), generator=generator) - 1
        squares = _squares(count, height, width, generator)
        if norm == "Linf":
            return cls(signs, squares, None)
        return cls(signs, squares, _SHORTEST ** torch.rand((count, 1, 1, 1), generator=generator))

    def points(self, some: slice, clean: Tensor, best: Tensor, threat: ThreatModel) -> Tensor:
        """Changed images (b, C, H, W) within the threat, of clean and best ones."""
        signs, squares = self.signs[some].to(clean), self.squares[some].to(clean.device)
        if self.shares is None:
            moved = project(clean + threat.radius * signs, clean, threat)
            return torch.where(squares, moved, best)
        push = signs * squares
        length = threat.radius * self.shares[some].to(clean)
        push = length * push / per_sample(norms(push, "L2"), push)
        return project_fully(best + push, clean, "L2", threat.radius)


def _squares(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A square of pixels of each image (B, 1, H, W), true inside; its area is log-uniform."""
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
