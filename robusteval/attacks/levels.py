"""Pixels that a model reads in steps: which of them to move to another level.

A quantiser (bit depths: Guo et al. 2018; thermometer codes: Buckman et al. 2018) hears nothing of a
pixel until it crosses a threshold.  In L2 a step along a gradient moves all pixels a little, and so
wastes ε on those that cross none.  Where ``straight`` sees the steps, queries find their
thresholds.  Then each pixel has a few levels, each at a price, the square of the way to it, and
with a gain, to first order in the codes.  Which are best for ε² is a knapsack: a multiplier solves
it roughly, then exchanges of pixels fill it up.  In L∞ each pixel takes its best level within ε.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.attacks.search import AIMED, Search, Seen
from robusteval.attacks.steps import project
from robusteval.attacks.straight import ReadStraight
from robusteval.types import Norm

_GRID = 256  # values between which thresholds are looked for
_ENDS = 1e-5  # how far from 0 and 1 they begin: as a rule a quantiser treats its ends as their like
_HALVINGS = 12  # from there to where float32 still tells sums of pixels apart
_MOST = 32  # thresholds; levels that are closer lose little to gradients
_HAIR = 1e-6  # of the budget, which float32 may lose
_MULTIPLIERS = 40  # halvings of a multiplier's interval
_NEAR = 128  # moves of single pixels that are tried by twos
_EXCHANGES = 16  # of two pixels, one after the other
_SHAVED = 0.004  # of a known radius, what the next is smaller by,
_BEGUN = 7  # and by how many shares of its budget it is tried
_LESS = 0.05  # of ε², by which turns differ on a model that is linear in the codes


def move_levels(
    search: Search, leader: ReadStraight, rows: Tensor, targets: Tensor, turns: int
) -> None:
    """The samples ``rows`` towards one class of ``targets`` (B, places) after the other, by so many
    images each.

    Nothing happens where no step is seen, or where steps are too fine.
    """
    levels = levels_of(search, leader)
    if levels is None:
        return
    moves = Moves(search, leader, levels)
    for aims in targets.T:
        left = torch.nonzero(~search.broken[rows])[:, 0]
        if len(left) == 0:
            return
        for at in left.split(search.batch_size):
            moves.towards(rows[at], aims[at], turns)


@dataclass(frozen=True)
class Levels:
    """The smallest and the largest value of a pixel on each level, (L,); what steps make of images
    all of whose pixels lie on one of them, (L, ...) each."""

    low: Tensor
    high: Tensor
    codes: list[Tensor]

    def nearest(self, images: Tensor) -> Tensor:
        """For each pixel its nearest value on each level: (B, C·H·W, L)."""
        return images.flatten(1)[..., None].clamp(self.low, self.high)


def levels_of(search: Search, leader: ReadStraight) -> Levels | None:
    """The levels between all thresholds that images of a single grey show; None if there is none,
    or too many."""
    ends = torch.tensor([0.0, 1.0], device=search.images.device)
    values = torch.linspace(_ENDS, 1 - _ENDS, _GRID + 1, device=ends.device)
    codes = _codes(search, leader, values)
    if not codes:
        return None
    crossed = ~_same([one[1:] for one in codes], [one[:-1] for one in codes])
    places = torch.nonzero(crossed)[:, 0]
    if not 0 < len(places) <= _MOST:
        return None
    below, above = values[places], values[places + 1]
    known = [one[places] for one in codes]
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        same = _same(_codes(search, leader, middle), known)
        below, above = torch.where(same, middle, below), torch.where(same, above, middle)
    low, high = torch.cat([ends[:1], above]), torch.cat([below, ends[1:]])
    return Levels(low, high, _codes(search, leader, (low + high) / 2))


def _codes(search: Search, leader: ReadStraight, values: Tensor) -> list[Tensor]:
    """What each step makes (V, ...) of images all of whose pixels have one of these values (V,)."""
    parts = []
    for some in values.split(search.batch_size):
        images = some.view(-1, 1, 1, 1).expand(-1, *search.images.shape[1:])
        with torch.enable_grad():
            reading, _ = leader.read(images.clone().requires_grad_(), search.model)
        parts.append([one.detach() for one in reading.steps])
    return [torch.cat(one) for one in zip(*parts, strict=True)]


def _same(codes: list[Tensor], others: list[Tensor]) -> Tensor:
    """Of which values (V,) all steps make the same."""
    each = [(a == b).flatten(1).all(1) for a, b in zip(codes, others, strict=True)]
    return torch.stack(each).all(0)


@dataclass(frozen=True)
class Moves:
    """Of a search's samples, led by gradients that pass straight through the steps."""

    search: Search
    leader: ReadStraight
    levels: Levels

    def towards(self, rows: Tensor, targets: Tensor, turns: int) -> None:
        """By gains that are averaged over the images that they have led to."""
        threat, clean = self.search.threat, self.search.images[rows]
        nearest = self.levels.nearest(clean)
        prices = Prices.of(nearest, clean, threat.norm, clean.new_full((len(rows),), threat.radius))
        points, gains = clean, torch.zeros_like(nearest)
        for turn in range(turns):
            gains = gains + self.gains(rows, points, targets)
            points = _of(nearest, prices.chosen(gains, 1 - turn * _LESS)).view_as(clean)
            self.search.judge(rows, project(points, clean, threat))
            if self.search.broken[rows].all():
                return

    def narrow(
        self, targets: Tensor, known: Tensor, broken: Callable[[Tensor], Tensor], halvings: int
    ) -> None:
        """All samples towards their classes, within radii (B,) that halvings narrow from ``known``
        ones down; ``broken`` tells which (B,) of the points are."""
        clean, norm = self.search.images, self.search.threat.norm
        rows = torch.arange(len(clean), device=clean.device)
        nearest = self.levels.nearest(clean)
        gains = self.gains(rows, clean, targets)
        low, high = torch.zeros_like(known), known
        for _ in range(halvings):
            middle = (low + high) / 2
            chosen = Prices.of(nearest, clean, norm, middle).chosen(gains)
            found = broken(_of(nearest, chosen).view_as(clean))
            low, high = torch.where(found, low, middle), torch.where(found, middle, high)

    def shave(
        self, targets: Tensor, known: Tensor, broken: Callable[[Tensor], Tensor], tries: int
    ) -> None:
        """The same a little below ``known``, by budgets that are begun otherwise: the pixels chosen
        are nearly the best, so that a smaller radius may do where a larger one did not."""
        clean = self.search.images
        nearest = self.levels.nearest(clean)
        gains = self.gains(torch.arange(len(clean), device=clean.device), clean, targets)
        for number in range(tries):
            shaved, begun = divmod(number, _BEGUN)
            radii = (1 - _SHAVED * (1 + shaved)) * known
            prices = Prices.of(nearest, clean, self.search.threat.norm, radii)
            chosen = prices.chosen(gains, 1 - (1 + begun) * _LESS)
            found = broken(_of(nearest, chosen).view_as(clean))
            known = torch.where(found, radii, known)

    def gains(self, rows: Tensor, points: Tensor, targets: Tensor) -> Tensor:
        """What each level of each pixel adds to the way to a class (B, N, L), to first order in the
        codes, up to a constant of the pixel."""
        inner = points.clamp(_ENDS, 1 - _ENDS).requires_grad_()
        with self.search.model.attending(rows), torch.enable_grad():
            reading, logits = self.leader.read(inner, self.search.model)
            outputs = self.leader.outputs(reading, logits)
            seen = Seen(outputs, {}, self.search.labels[rows], targets)
            losses = AIMED.losses(seen).sum()
            slopes = torch.autograd.grad(losses, reading.steps, None, True, allow_unused=True)
        gains = points.new_zeros(*points.flatten(1).shape, len(self.levels.low))
        for step, slope, codes in zip(reading.steps, slopes, self.levels.codes, strict=True):
            if slope is not None:
                gains += _by_pixel(step, slope, codes, inner)
        return gains


def _by_pixel(step: Tensor, slope: Tensor, codes: Tensor, images: Tensor) -> Tensor:
    """A step's slopes (B, ...) times its codes (L, ...), summed for each pixel: (B, N, L).

    Autograd knows which of a step's numbers are of which pixel: it passes on what it is given,
    times the scale of what was rounded.
    """

    def passed_on(given: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(step, images, given, retain_graph=True)
        return found.flatten(1)

    scale = passed_on(torch.ones_like(step)) * images.numel() / step.numel()
    found = torch.stack([passed_on(slope * code) for code in codes], 2)
    return torch.where(scale[..., None] != 0, found / scale[..., None], 0.0)


@dataclass(frozen=True)
class Prices:
    """What each level of each pixel costs (B, N, L), and the budgets (B,): of all pixels together,
    or of each by itself."""

    costs: Tensor
    budget: Tensor
    together: bool

    @classmethod
    def of(cls, nearest: Tensor, clean: Tensor, norm: Norm, radii: Tensor) -> "Prices":
        """Of moving pixels of images (B, C, H, W) to their nearest value on each level, by at most
        so much (B,)."""
        ways = nearest - clean.flatten(1)[..., None]
        if norm == "Linf":
            return cls(ways.abs(), radii + _HAIR, together=False)
        return cls(ways.square(), (1 - _HAIR) * radii**2, together=True)

    def chosen(self, gains: Tensor, begun: float = 1.0) -> Tensor:
        """Levels (B, N) of large gains (B, N, L) within the budget; of largest ones where pixels
        don't share it.  ``begun``: the share that is spent before pixels are exchanged."""
        if not self.together:
            over = self.costs > self.budget[:, None, None]
            return gains.masked_fill(over, -torch.inf).argmax(2)
        left = gains - self._multiplier(gains, begun * self.budget) * self.costs
        return self._exchanged(gains, left)

    def spent(self, levels: Tensor) -> Tensor:
        """What levels (B, N) cost together: (B,)."""
        return _of(self.costs, levels).sum(1)

    def _multiplier(self, gains: Tensor, budget: Tensor) -> Tensor:
        """The smallest (B, 1, 1) at which the levels of largest gains, less so many times their
        costs, are within the budget."""
        free = _of(gains, self.costs.argmin(2))[..., None]
        rates = (gains - free).clamp_min(0) / self.costs.clamp_min(1e-12)
        high = 2 * rates.masked_fill(self.costs == 0, 0).amax((1, 2), keepdim=True)
        low = torch.zeros_like(high)
        for _ in range(_MULTIPLIERS):
            middle = (low + high) / 2
            fits = self.spent((gains - middle * self.costs).argmax(2)) <= budget
            fits = fits[:, None, None]
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        return high

    def _exchanged(self, gains: Tensor, left: Tensor) -> Tensor:
        """The levels of which most is left (B, N, L), with one pixel or two at a time moved on
        while that gains and the budget has room, among those that are chosen nearly."""
        levels = left.argmax(2)
        count = min(_NEAR, left[0].numel())
        regret = (left.amax(2, keepdim=True) - left).flatten(1)
        near = regret.topk(count, largest=False).indices
        pixel, level = near // left.shape[2], near % left.shape[2]
        twice = (pixel[:, :, None] == pixel[:, None]) & ~torch.eye(count, device=near.device).bool()
        for _ in range(_EXCHANGES):
            room = self.budget - self.spent(levels)
            more, dearer = (
                _in_pairs((of - _of(of, levels)[..., None]).flatten(1).gather(1, near))
                for of in (gains, self.costs)
            )
            more = more.masked_fill(twice | (dearer > room[:, None, None]), 0)
            best, place = more.flatten(1).max(1)
            if not (best > 0).any():
                break
            for one in (place // count, place % count):
                at = one[:, None]
                moved = levels.scatter(1, pixel.gather(1, at), level.gather(1, at))
                levels = torch.where((best > 0)[:, None], moved, levels)
        return levels


def _of(values: Tensor, levels: Tensor) -> Tensor:
    """Those (B, N) of values (B, N, L) that belong to levels (B, N)."""
    return values.gather(2, levels[..., None])[..., 0]


def _in_pairs(values: Tensor) -> Tensor:
    """The sums of two of values (B, M): (B, M, M), and on the diagonal each by itself."""
    sums = values[:, :, None] + values[:, None]
    return sums.diagonal_scatter(values, dim1=1, dim2=2)
