"""Who leads where a model's own gradients don't: the model read straight, or what is inside it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.attacks.search import MARGIN, PROBED, Search
from robusteval.attacks.steps import input_gradient, per_sample, random_start
from robusteval.attacks.straight import ReadStraight, Straight
from robusteval.models.acceleration import cosines
from robusteval.models.adapter import Adapter

_MEMBER = 0.5  # of samples on which inner logits must name the class that the model names
_STEPS, _FURTHER = 3, 1.5  # linear steps beyond a head's boundary, each so many times as long
_ALIVE = 0.9  # of samples that must have a gradient
_TINY = torch.finfo(torch.float32).tiny
_SAME = 0.999  # cosine from which on another's gradients lead nowhere else
_BENT = 0.9999  # correlation from which on one value is a line of another
_TIES = 0.01  # of values that may be one though what they are made of differs


def leader_of(search: Search, rows: Tensor, seed: int) -> Adapter | None:
    """What has gradients where the model itself has none or others, None where nothing in it does:
    at clean images of some samples ``rows`` (B,), at their best ones, and at random ones.

    Candidates, in order: inner logits that always name the model's own class, also beyond their own
    boundary, the model read straight, and the mean of inner logits that mostly do, such as members
    that vote.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = rows[(~search.flat[rows]).int().argsort(stable=True)][: _looked_at(search)]
    clean = search.images[rows]
    drawn = random_start(clean, search.threat, generator)
    points = torch.cat([clean, search.best[rows], drawn])
    rows = rows.repeat(3)
    try:
        candidates = _candidates(search, rows, points)
    except Exception:  # noqa: BLE001 - read otherwise, a foreign module may fail in any way
        return None
    own = search.slopes(rows, points, MARGIN).gradients.flatten(1)
    for one in candidates:
        with search.model.led_by(one), search.model.quickly():
            found = search.slopes(rows, points, MARGIN).gradients.flatten(1)
        if _leads(found, own):
            return one
    return None


def squashed_logits(search: Search, rows: Tensor, seed: int) -> ReadStraight | None:
    """Inner logits that the model's outputs are a function of, one by one, that grows and bends;
    None where there are none, or where float32 makes ties of them."""
    rows = rows[: _looked_at(search)]
    clean = search.images[rows]
    drawn = random_start(clean, search.threat, torch.Generator().manual_seed(seed))
    try:
        inner = _read(search, rows.repeat(2), torch.cat([clean, drawn]), len(rows))
    except Exception:  # noqa: BLE001 - read otherwise, a foreign module may fail in any way
        return None
    for at in inner.first_to_name(1.0)[:1]:
        if _grows_and_bends(inner.reading.logits[at[0]].detach(), inner.outputs):
            return ReadStraight(search.model.adapter, (at,))
    return None


def _looked_at(search: Search) -> int:
    """How many samples are looked at; each goes through the model up to six times at once."""
    return min(PROBED, max(1, search.batch_size // 4))


def _grows_and_bends(inner: Tensor, outputs: Tensor) -> bool:
    """Whether each of the outputs is one and the same growing function of its inner logit, and not
    a line."""
    logits, order = inner.double().flatten().sort()
    found = outputs.double().flatten()[order]
    steps = found.diff()[logits.diff() > 0]
    if len(steps) == 0 or (steps < 0).any() or (steps == 0).double().mean() > _TIES:
        return False
    return float(torch.corrcoef(torch.stack([logits, found]))[0, 1]) < _BENT


def _candidates(search: Search, rows: Tensor, points: Tensor) -> list[Adapter]:
    """By what names the model's class at points, and beyond where inner logits change theirs."""
    model, inner = search.model.adapter, _read(search, rows, points, len(points))
    if first := inner.first_to_name(1.0)[:1]:
        beyond = _beyond(search, rows, points, ReadStraight(model, first))
        inner = _read(search, rows.repeat(2), torch.cat([points, beyond]), len(points))
    same, members = inner.first_to_name(1.0)[:1], inner.first_to_name(_MEMBER)
    read_as = [*([same] if same else []), (), *([members] if members else [])]
    return [ReadStraight(model, those, bool(inner.reading.steps)) for those in read_as]


@dataclass(frozen=True)
class _Inner:
    """What was read on the way to ``outputs`` (B, K), and by place which share of samples inner
    logits name as the model does; the first ``count`` of them tell their scales."""

    reading: Straight
    outputs: Tensor
    named: list[float]
    count: int

    def first_to_name(self, share: float) -> tuple[tuple[int, float], ...]:
        """Those that name so many and are made of no other that does, each with its scale."""
        those = {at for at, other in enumerate(self.named) if other >= share}
        first = [at for at in sorted(those) if not self.reading.behind[at] & those]
        return tuple((at, _scale(self.reading.logits[at].detach()[: self.count])) for at in first)


def _read(search: Search, rows: Tensor, points: Tensor, count: int) -> _Inner:
    with search.model.attending(rows), torch.enable_grad():
        moved = points.clone().requires_grad_()
        reading, outputs = ReadStraight(search.model.adapter).read(moved, search.model)
    outputs = outputs.detach()
    named = [_named(one.detach(), outputs) for one in reading.logits]
    return _Inner(reading, outputs, named, count)


def _beyond(search: Search, rows: Tensor, points: Tensor, head: ReadStraight) -> Tensor:
    """Points (B, C, H, W) some linear steps beyond where a head names another class: what it is
    made for follows it there, and a vote that it is one of stays."""
    first = None
    for _ in range(_STEPS):
        moved = points.detach().requires_grad_()
        with search.model.attending(rows), torch.enable_grad():
            logits = head.outputs(*head.read(moved, search.model))
            first = logits.argmax(1, keepdim=True) if first is None else first
            others = logits.scatter(1, first, -torch.inf).amax(1)
            gaps = others - logits.gather(1, first)[:, 0]
            slopes = input_gradient(gaps, moved)
        squares = slopes.square().flatten(1).sum(1).clamp_min(_TINY)
        needed = (-_FURTHER * gaps.detach()).clamp_min(0) / squares
        points = (points + per_sample(needed, slopes) * slopes).clamp(0, 1)
    return points


def _named(inner: Tensor, outputs: Tensor) -> float:
    """The share of samples whose largest inner logit is a class with the largest output, too."""
    chosen = outputs.gather(1, inner.argmax(1, keepdim=True))[:, 0]
    return float((chosen >= outputs.amax(1)).double().mean())


def _scale(logits: Tensor) -> float:
    """The median gap between the two largest."""
    first, second = logits.topk(2, dim=1).values.T
    return max(float((first - second).median()), _TINY)


def _leads(gradients: Tensor, own: Tensor) -> bool:
    alive, before = gradients.any(1), own.any(1)
    if alive.double().mean() < _ALIVE:
        return False
    both = alive & before
    lost = float((alive & ~before).double().mean())
    return lost > 0 or not both.any() or float(cosines(gradients[both], own[both]).min()) < _SAME
