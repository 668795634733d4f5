"""Pieces: where the margin is linear on pieces, cutting planes find the smallest perturbation.

The nearest of several prototypes, in pixels or behind a linear layer, makes such a model, whatever
function of distances it returns (see ``readings``).  On the way to one wrong prototype the margin
is the least of linear functions, one for each own prototype.  A gradient shows one of these.  The
smallest perturbation that satisfies all that are known is the next point (Kelley 1960, "The
Cutting-Plane Method for Solving Convex Programs").  No other that leads this way is smaller, so a
way is left once it is longer than what is known.  Towards a class of several prototypes that is a
rule of thumb, since the nearest of them may change on the way.
Half-spaces give exact radii of such models (Voráček and Hein 2022, "Provably Adversarially Robust
Nearest Prototype Classifiers").  Signs of gradients, which ascents in L∞ go by, only swing to and
fro where several own prototypes are as near.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robusteval.attacks.losses import of_class
from robusteval.attacks.programs import into_half_space, shortest
from robusteval.attacks.ranking import aims, nearest_of_several
from robusteval.attacks.readings import OUTPUT, READINGS, Reading
from robusteval.attacks.search import AIMED, PROBED, Objective, Search, Slopes
from robusteval.types import Norm

# Given samples (b,) and points (b, C, H, W) that may break them: norms (b,) from which on nothing
# is of use any more.
Try = Callable[[Tensor, Tensor], Tensor]
PROBES = 2  # steps that it takes to tell whether a model is such
_CUTS = 8  # of a way, after which it is left
# Pixels of L2 norm behind a boundary that a point lies, so that it breaks its sample.
_BEYOND = 1e-5
NOT_LESS = 1 - 1e-4  # of a known norm: what a way has to fall short of
_AT_ONCE = 2**21  # pixels of samples whose cuts are kept in memory together
_OTHERS = 27  # samples of other classes that ways begin at
_LOOKED_AT = 0.3  # of the way of a linear step: further on, pieces end
_BENT = 1e-3  # share of a margin's change by which a linear prediction of it may fail,
_STRAIGHT = 0.25  # and the share of samples for which it has to hold


@dataclass(frozen=True)
class Ways:
    """Of each sample of a batch, what to drive it towards, one after the other: ``targets`` (B, Q),
    and from which images of the batch ``origins`` (B, Q)."""

    objective: Objective
    targets: Tensor
    origins: Tensor

    def __len__(self) -> int:
        return self.targets.shape[1]


def ways_of(search: Search, rows: Tensor, objective: Objective) -> Ways:
    """From the clean image to each wrong prototype, where the model shows several, or class, by an
    objective along which the margin is linear on pieces.

    Of a class's pieces a gradient shows only the one that it lies in.  To classes, ways therefore
    begin at similar images of them, too: of a large batch they show more.
    """
    _, targets = aims(search, rows, search.images[rows])
    origins = rows[:, None].expand_as(targets)
    if not nearest_of_several(search.model):
        others = _similar(search, rows)
        targets = torch.cat([targets, search.labels[others]], 1)
        origins = torch.cat([origins, others], 1)
    return Ways(objective, targets, origins)


def _similar(search: Search, rows: Tensor) -> Tensor:
    """Images of other classes (B, places), as places in the batch, the most similar first."""
    pixels, labels = search.images.flatten(1), search.labels
    apart = torch.cdist(pixels[rows], pixels)
    same = labels[rows][:, None] == labels
    fewest = int((~same).sum(1).min())
    return apart.masked_fill(same, torch.inf).argsort(1)[:, : min(_OTHERS, fewest)]


def linear_on_pieces(search: Search, rows: Tensor) -> Objective | None:
    """The objective that is as predicted on the way of a first linear step, for enough of the
    samples ``rows``; None where there is none: of a network hardly ever is."""
    rows = rows[:PROBED]
    objective, targets = aims(search, rows, search.images[rows])
    if objective is AIMED:
        return _read_straight(search, rows, targets[:, 0])
    here = search.gradients(rows, search.images[rows], objective, targets[:, 0])

    def losses(points: Tensor) -> Tensor:
        return search.gradients(rows, points, objective, targets[:, 0]).losses

    return objective if _is_predicted(search, rows, here, losses) else None


def _read_straight(search: Search, rows: Tensor, targets: Tensor) -> Objective | None:
    """The same towards classes (B,), by the first way to read outputs that makes it so."""
    clean, labels = search.images[rows], search.labels[rows]
    wrong, own = (search.gradients(rows, clean, OUTPUT, at) for at in (targets, labels))
    outputs = torch.cat([wrong.losses, own.losses])
    for reading in (one for one in READINGS if one.takes(outputs)):
        losses = partial(_gaps, search, rows, targets, reading)
        if _is_predicted(search, rows, reading.slopes(wrong, own), losses):
            return reading.objective
    return None


def _gaps(
    search: Search, rows: Tensor, targets: Tensor, reading: Reading, points: Tensor
) -> Tensor:
    """Between outputs of classes (B,) and the own ones, read so, at points (B, C, H, W)."""
    logits = search.logits(rows, points)
    return reading.gap(of_class(logits, targets), of_class(logits, search.labels[rows]))


def _is_predicted(
    search: Search, rows: Tensor, here: Slopes, losses: Callable[[Tensor], Tensor]
) -> bool:
    """Whether ``losses`` (B,) of images change as slopes at clean ones predict, for enough of the
    samples ``rows`` (B,)."""
    clean = search.images[rows]
    normals, least = _cut(here, clean, clean)
    found, lengths = into_half_space(normals, least, clean.flatten(1), search.threat.norm)
    part = _LOOKED_AT * found
    change = losses((clean + part.view_as(clean)).to(clean)).double() - here.losses
    predicted = (normals * part).sum(1)
    fits = lengths.isfinite() & (predicted > 0) & ((change - predicted).abs() <= _BENT * predicted)
    return float(fits.double().mean()) >= _STRAIGHT


def _cut(slopes: Slopes, points: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """normals (B, n) and least (B,): perturbations d of clean images with normals · d >= least
    break their samples, where losses are linear."""
    normals = slopes.gradients.flatten(1).double()
    way = (points - clean).flatten(1).double()
    over = _BEYOND * normals.norm(dim=1)
    return normals, over - slopes.losses.double() + (normals * way).sum(1)


class Pieces:
    """A search along ``ways`` for one batch of samples ``rows``, by an objective that is linear on
    pieces; ``known`` (B,): norms that are of no use any more.  Each sample goes its ways at its own
    pace."""

    def __init__(
        self, search: Search, rows: Tensor, known: Tensor, attempt: Try, objective: Objective
    ) -> None:
        self.search, self.rows, self.known, self.attempt = search, rows, known.double(), attempt
        self.norm: Norm = search.threat.norm
        self.ways = ways_of(search, rows, objective)
        self.clean = search.images[rows]
        pixels = self.clean[0].numel()
        self.normals = torch.zeros(
            (len(rows), _CUTS, pixels), dtype=torch.float64, device=rows.device
        )
        self.least = torch.full_like(self.normals[:, :, 0], -1.0)  # cuts of zeros cut nothing
        self.place, self.cuts = torch.zeros_like(rows), torch.zeros_like(rows)
        self.points = self._origin(torch.arange(len(rows), device=rows.device))

    def going(self) -> Tensor:
        """Places in the batch of samples that have ways left, and something to gain."""
        return torch.nonzero((self.place < len(self.ways)) & (self.known > 0))[:, 0]

    def run(self, steps: int) -> int:
        """At most so many steps; those that were left."""
        while steps and len(going := self.going()):
            self.step(going)
            steps -= 1
        return steps

    def step(self, going: Tensor) -> None:
        """One more cut for samples at places ``going`` (b,) of the batch, and where it leads."""
        rows, points = self.rows[going], self.points[going]
        targets = self.ways.targets[going, self.place[going]]
        slopes = self.search.gradients(rows, points, self.ways.objective, targets)
        doubts = 0 if self.search.is_exact else slopes.doubts
        promising = slopes.margins + doubts > 0
        if promising.any():
            some = going[promising]
            self.known[some] = self.attempt(self.rows[some], points[promising]).double()
        clean = self.clean[going]
        normals, least = _cut(slopes, points, clean)
        self.normals[going, self.cuts[going]], self.least[going, self.cuts[going]] = normals, least
        self.cuts[going] += 1
        found, lengths = into_half_space(normals, least, clean.flatten(1), self.norm)
        behind_all = (self.cuts[going] > 1) & self._of_use(going, lengths)
        if behind_all.any():  # one cut's bound holds for several, and costs next to nothing
            found[behind_all], lengths[behind_all] = self._behind_all(going[behind_all])
        self.points[going] = (clean + found.view_as(points)).to(points).clamp(0, 1)
        self._next(going[~self._of_use(going, lengths) | (self.cuts[going] == _CUTS)])

    def _of_use(self, going: Tensor, lengths: Tensor) -> Tensor:
        """Whether norms (b,) fall short of what is known."""
        return lengths < NOT_LESS * self.known[going]

    def _behind_all(self, going: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest perturbations (b, n) behind all cuts of a way, and their norms (b,)."""
        used, clean = int(self.cuts[going].max()), self.clean[going].flatten(1)
        return shortest(self.normals[going, :used], self.least[going, :used], clean, self.norm)

    def _next(self, done: Tensor) -> None:
        """The next way for samples at these places."""
        self.place[done] += 1
        self.cuts[done], self.least[done], self.normals[done] = 0, -1.0, 0.0
        left = done[self.place[done] < len(self.ways)]
        self.points[left] = self._origin(left)

    def _origin(self, places: Tensor) -> Tensor:
        return self.search.images[self.ways.origins[places, self.place[places]]]


def in_parts(search: Search, rows: Tensor) -> Iterator[Tensor]:
    """So many of the samples ``rows`` at a time as memory allows."""
    pixels = search.images[0].numel()
    yield from rows.split(max(1, min(search.batch_size, _AT_ONCE // pixels)))
