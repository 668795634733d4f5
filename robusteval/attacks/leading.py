"""Who leads where a model's own gradients don't: the model read straight, or what is inside it."""

import torch
from torch import Tensor

from robusteval.attacks.search import MARGIN, PROBED, Search
from robusteval.attacks.steps import random_start
from robusteval.attacks.straight import ReadStraight
from robusteval.models.acceleration import cosines
from robusteval.models.adapter import Adapter

_MEMBER = 0.5  # of samples on which inner logits must name the class that the model names
_ALIVE = 0.9  # of samples that must have a gradient
_SAME = 0.999  # cosine from which on another's gradients lead nowhere else


def leader_of(search: Search, rows: Tensor, seed: int) -> Adapter | None:
    """What has gradients where the model itself has none or others, None where nothing in it does:
    at clean images of some samples ``rows`` (B,), at their best ones, and at random ones.

    Candidates, in order: inner logits that always name the model's own class, with others beside
    them that mostly do, the model read straight, and the mean of inner logits that mostly do.  One
    member of a vote may always agree with it, and decides nothing alone.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = rows[(~search.flat[rows]).int().argsort(stable=True)][:PROBED]
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


def _candidates(search: Search, rows: Tensor, points: Tensor) -> list[Adapter]:
    model = search.model.adapter
    with search.model.attending(rows), torch.enable_grad():
        reading, outputs = ReadStraight(model).read(points.clone().requires_grad_(), search.model)
    named = [_named(one.detach(), outputs.detach()) for one in reading.logits]

    def first_to_name(share: float) -> list[int]:
        """Those that name so many and are made of no other that does."""
        those = {at for at, other in enumerate(named) if other >= share}
        return [at for at in sorted(those) if not reading.behind[at] & those]

    def apart(one: int, other: int) -> bool:
        return (
            one != other and one not in reading.behind[other] and other not in reading.behind[one]
        )

    def scaled(places: list[int]) -> tuple[tuple[int, float], ...]:
        return tuple((at, _scale(reading.logits[at].detach())) for at in sorted(places))

    same, members = first_to_name(1.0), first_to_name(_MEMBER)
    beside = [at for at in members if all(apart(at, other) for other in same)]
    read_as = [*([same + beside] if same else []), [], *([members] if members else [])]
    return [ReadStraight(model, scaled(those), bool(reading.steps)) for those in read_as]


def _named(inner: Tensor, outputs: Tensor) -> float:
    """The share of samples whose largest inner logit is a class with the largest output, too."""
    chosen = outputs.gather(1, inner.argmax(1, keepdim=True))[:, 0]
    return float((chosen >= outputs.amax(1)).double().mean())


def _scale(logits: Tensor) -> float:
    """The median gap between the two largest."""
    first, second = logits.topk(2, dim=1).values.T
    return max(float((first - second).median()), torch.finfo(torch.float32).tiny)


def _leads(gradients: Tensor, own: Tensor) -> bool:
    alive, before = gradients.any(1), own.any(1)
    if alive.double().mean() < _ALIVE:
        return False
    both = alive & before
    lost = float((alive & ~before).double().mean())
    return lost > 0 or not both.any() or float(cosines(gradients[both], own[both]).min()) < _SAME
