"""The smallest perturbation that linear cuts allow: linear and quadratic programs, a batch at once.

Newton's method along a line solves them for one cut.  For several it is a primal-dual
interior-point method with a predictor and a corrector (Mehrotra 1992, "On the Implementation of a
Primal-Dual Interior Point Method").  There are few cuts and many pixels, so each step solves a
system as large as the number of cuts.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from robusteval.attacks.steps import norms, per_sample
from robusteval.types import Norm

_Solve = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_MOST = 25  # steps; 8 to 12 suffice, as a rule
# The mean product of slacks and multipliers at which a program is solved; in L2 norms are squared.
_CLOSED: dict[Norm, float] = {"Linf": 1e-10, "L2": 1e-13}
_VIOLATED = 1e-6  # by which a solution may miss a cut, in units of its normal
_MOST_PIECES = 100  # steps along a line; 10 suffice, as a rule
_KEPT = 0.99  # share of the way to the nearest constraint that a step goes


def shortest(normals: Tensor, least: Tensor, images: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Perturbations d (B, n), float64, the smallest with normals · d >= least and images + d in
    [0, 1], and their norms (B,), infinite where none is known that keeps all cuts.

    ``normals`` (B, M, n), ``least`` (B, M), ``images`` (B, n).  A cut of zeros with a negative
    ``least`` cuts nothing.  In L2 one half of the squared norm is least, in L∞ the norm.
    """
    program = _Program(normals.double(), least.double(), images.double(), norm)
    found = program.solved()
    return found, torch.where(program.keeps_cuts(found), norms(found, norm), torch.inf)


def into_half_space(
    normals: Tensor, least: Tensor, images: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """The smallest perturbation behind one cut, ``normals`` (B, n) and ``least`` (B,), as
    ``shortest`` returns it.

    Pixels move by λ·|normal| in L2 and by λ in L∞, each until it is 0 or 1.  What they gain is
    concave in λ and linear on pieces, so that Newton's steps from 0 never go too far, and end.
    """
    normals, least, images = normals.double(), least.double(), images.double()
    slopes = normals.abs()
    room = torch.where(normals > 0, 1 - images, images)
    speed = slopes if norm == "L2" else torch.ones_like(slopes)
    along, way = torch.zeros_like(least), torch.zeros_like(slopes)
    close = _VIOLATED**2 * slopes.norm(dim=1)
    missing = least
    for _ in range(_MOST_PIECES):
        gained = (slopes * speed * (way < room)).sum(1)
        going = (missing > close) & (gained > 0)
        if not going.any():
            break
        along = torch.where(going, along + missing / gained, along)
        way = torch.minimum(along[:, None] * speed, room)
        missing = least - (slopes * way).sum(1)
    found = way * normals.sign()
    return found, torch.where(missing <= close, norms(found, norm), torch.inf)


class _Point(NamedTuple):
    """Perturbations ``way`` (B, n), their largest entries ``size`` (B,), slacks of all constraints
    and their multipliers (B, N)."""

    way: Tensor
    size: Tensor
    slacks: Tensor
    multipliers: Tensor

    def gaps(self) -> Tensor:
        """The mean product of slacks and multipliers (B,), 0 at the solution."""
        return (self.slacks * self.multipliers).mean(1)

    def moved(self, by: "_Point", share: Tensor, dual_share: Tensor) -> "_Point":
        """Along a direction, by a share of it for each sample (B,)."""
        return _Point(
            self.way + share[:, None] * by.way,
            self.size + share * by.size,
            self.slacks + share[:, None] * by.slacks,
            self.multipliers + dual_share[:, None] * by.multipliers,
        )


class _Program:
    """Constraints A z >= b on z = (d, t): first the walls, then the cuts.

    Walls keep d between −x and 1 − x, and in L∞ between −t and t, where t is what has to be least.
    In L2 t has no part, and stays 0.
    """

    def __init__(self, normals: Tensor, least: Tensor, images: Tensor, norm: Norm) -> None:
        lengths = norms(normals.flatten(0, 1), "L2").view(least.shape)
        lengths = torch.where(lengths > 0, lengths, 1.0)
        self.normals, self.least = normals / lengths[..., None], least / lengths
        self.images, self.closed, self.curved = images, _CLOSED[norm], float(norm == "L2")
        count = 2 if self.curved else 4
        self.signs = images.new_tensor([-1.0, 1.0, -1.0, 1.0])[:count, None]
        self.moves = images.new_tensor([0.0, 0.0, 1.0, 1.0])[:count, None]
        nothing = torch.zeros_like(images)
        walls = torch.stack([images - 1, -images, nothing, nothing][:count], 1)
        self.bounds = torch.cat([walls.flatten(1), self.least], 1)

    def solved(self) -> Tensor:
        """d (B, n) in the box."""
        point = self._start()
        for _ in range(_MOST):
            gaps = point.gaps()
            going = (gaps > self.closed) & gaps.isfinite()
            if not going.any():
                break
            point = self._stepped(point, gaps, going)
        return torch.maximum(torch.minimum(point.way, 1 - self.images), -self.images)

    def keeps_cuts(self, way: Tensor) -> Tensor:
        """Whether d keeps all cuts (B,)."""
        return (self._along(way) >= self.least - _VIOLATED).all(1)

    def _start(self) -> _Point:
        way = torch.maximum(torch.minimum(0 * self.images, 0.95 - self.images), 0.05 - self.images)
        size = torch.full_like(way[:, 0], 0.0 if self.curved else 0.5)
        slacks = (self._rows(way, size) - self.bounds).clamp_min(0.02)
        return _Point(way, size, slacks, 0.1 / slacks)

    def _stepped(self, point: _Point, gaps: Tensor, going: Tensor) -> _Point:
        """One step of those that still go (B,)."""
        solve = self._system(point.multipliers / point.slacks)
        wanted = -point.multipliers * point.slacks
        ahead = self._direction(point, wanted, solve)
        shares = _room(point.slacks, ahead.slacks), _room(point.multipliers, ahead.multipliers)
        centred = (point.moved(ahead, *shares).gaps() / gaps).clamp(0, 1) ** 3 * gaps
        wanted = wanted + centred[:, None] - ahead.slacks * ahead.multipliers
        step = self._direction(point, wanted, solve)
        share = (_KEPT * _room(point.slacks, step.slacks)).clamp_max(1)
        dual_share = (_KEPT * _room(point.multipliers, step.multipliers)).clamp_max(1)
        if self.curved:  # a quadratic program's two residuals fall together
            share = dual_share = torch.minimum(share, dual_share)
        going = going & torch.stack([part.flatten(1).isfinite().all(1) for part in step[2:]]).all(0)
        there = point.moved(step, share, dual_share)
        pairs = zip(there, point, strict=True)
        return _Point(*(torch.where(per_sample(going, new), new, old) for new, old in pairs))

    def _direction(self, point: _Point, wanted: Tensor, solve: _Solve) -> _Point:
        """Newton's, towards products of slacks and multipliers that change by ``wanted``."""
        missed = self._rows(point.way, point.size) - self.bounds - point.slacks
        pushed = (wanted - point.multipliers * missed) / point.slacks
        way_part, size_part = self._columns(point.multipliers + pushed)
        way, size = solve(
            way_part - self.curved * point.way,
            size_part - (self.curved * point.size + 1 - self.curved),
        )
        slacks = self._rows(way, size) + missed
        return _Point(way, size, slacks, (wanted - point.multipliers * slacks) / point.slacks)

    def _system(self, weights: Tensor) -> _Solve:
        """What solves (Aᵀ W A + curvature) z = r for diagonal W (B, N): a diagonal, a border for t,
        and of low rank what the cuts add."""
        walls, cuts = self._split(weights)
        diagonal = walls.sum(1) + self.curved
        border = (self.signs * self.moves * walls).sum(1)
        corner = (self.moves * walls).sum((1, 2)) + self.curved
        scaled = self.normals / diagonal[:, None]
        inner = scaled @ self.normals.mT + torch.diag_embed(1 / cuts)
        side = (scaled @ border[..., None])[..., 0]
        corner = corner - (border.square() / diagonal).sum(1)
        whole = torch.cat(
            [
                torch.cat([inner, side[..., None]], 2),
                torch.cat([-side, corner[:, None]], 1)[:, None],
            ],
            1,
        )
        factors, pivots, _ = torch.linalg.lu_factor_ex(whole)

        def solve(way: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
            right = (scaled @ way[..., None])[..., 0]
            rest = size - (border * way / diagonal).sum(1)
            stacked = torch.cat([right, rest[:, None]], 1)[..., None]
            found = torch.linalg.lu_solve(factors, pivots, stacked)[..., 0]
            pulled = (self.normals.mT @ found[:, :-1, None])[..., 0] + border * found[:, -1:]
            return (way - pulled) / diagonal, found[:, -1]

        return solve

    def _along(self, way: Tensor) -> Tensor:
        return (self.normals @ way[..., None])[..., 0]

    def _rows(self, way: Tensor, size: Tensor) -> Tensor:
        """A z (B, N)."""
        walls = self.signs * way[:, None] + self.moves * size[:, None, None]
        return torch.cat([walls.flatten(1), self._along(way)], 1)

    def _columns(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Aᵀ v, for d (B, n) and for t (B,)."""
        walls, cuts = self._split(values)
        way = (self.signs * walls).sum(1) + (self.normals.mT @ cuts[..., None])[..., 0]
        return way, (self.moves * walls).sum((1, 2))

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the walls (B, walls, n), and of the cuts (B, M)."""
        cuts = self.least.shape[1]
        return values[:, :-cuts].view(len(values), len(self.signs), -1), values[:, -cuts:]


def _room(values: Tensor, step: Tensor) -> Tensor:
    """The share of a step, at most 1, that keeps values (B, N) above 0."""
    return torch.where(step < 0, -values / step, torch.inf).amin(1).clamp_max(1)
