"""What samples are driven towards: wrong classes, or prototypes of them, the nearest first."""

from collections.abc import Iterator

import torch
from torch import Tensor

from robusteval.attacks.search import AIMED, PULLED_TO, Objective, Search
from robusteval.models.adapter import Adapter


def tried(search: Search, rows: Tensor, most: int, prototypes: bool) -> Tensor:
    """At most so many wrong classes (B, places) to try for the samples ``rows``.

    The one with the largest logit comes last: the margin was about it.  With ``prototypes`` it is
    those, the nearest to the clean image first: the best image stands among those of one class.
    """
    if prototypes:
        order = ranked_prototypes(search, rows, search.images[rows])
        first = order[:, :1]
    else:
        logits = search.logits(rows, search.best[rows])
        order = ranked(search, rows, logits)
        own = search.labels[rows][:, None]
        first = logits.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    others = order[order != first].view(len(rows), -1)[:, : min(order.shape[1], most) - 1]
    return torch.cat([others, first], 1)


def in_turn(tried: Tensor, aims: int | None) -> Iterator[Tensor | None]:
    """What samples are driven towards one after the other, of (B, places), the nearest last; None
    for whichever is nearest at each step."""
    if aims == 0:
        yield None
    elif aims is None:
        yield from [*tried.T, None]
    else:
        yield from tried.roll(1, 1).T[:aims]


def ranked_classes(search: Search, rows: Tensor, points: Tensor) -> Tensor:
    """Wrong classes (B, K − 1) of the samples ``rows``, the one closest at ``points`` first."""
    return ranked(search, rows, search.logits(rows, points))


def ranked(search: Search, rows: Tensor, logits: Tensor) -> Tensor:
    """The same from logits (B, K): by their gap over the distance between classes in feature space,
    where that is known."""
    labels = search.labels[rows]
    gaps = logits - logits.gather(1, labels[:, None])
    if (apart := search.model.class_distances()) is not None:
        gaps = gaps / apart[labels].clamp_min(1e-12)
    gaps = gaps.scatter(1, labels[:, None], -torch.inf)
    return gaps.argsort(1, descending=True)[:, :-1]


def aims(search: Search, rows: Tensor, points: Tensor) -> tuple[Objective, Tensor]:
    """What the samples ``rows`` can be driven towards (B, places), the closest at ``points`` first,
    and by which objective.

    Wrong classes, as a rule.  Where the nearest of several prototypes decides, it is wrong
    prototypes: on the way to a class ascent follows its nearest one, though another may be closer
    to being nearer than the own.
    """
    if nearest_of_several(search.model):
        return PULLED_TO, ranked_prototypes(search, rows, points)
    return AIMED, ranked_classes(search, rows, points)


def nearest_of_several(model: Adapter) -> bool:
    """Whether the nearest prototype decides, and a class has several."""
    return model.reads_distances and model.prototypes_per_class > 1


def ranked_prototypes(search: Search, rows: Tensor, points: Tensor) -> Tensor:
    """Other classes' prototypes, as places in K·M, the nearest at ``points`` first (B, (K − 1)·M).

    With the nearest own one each makes a pair, which a class of several prototypes has many of.
    """
    parts, labels = [], search.labels[rows]
    with torch.no_grad():
        for at in torch.arange(len(rows), device=rows.device).split(search.batch_size):
            with search.model.attending(rows[at]):
                parts.append([*search.model.logits_and_distances(points[at])[1].values()][-1])
    squared = torch.cat(parts)
    own = torch.arange(squared.shape[1], device=labels.device) == labels[:, None]
    squared = squared.masked_fill(own[:, :, None], torch.inf).flatten(1)
    return squared.argsort(1)[:, : -parts[0].shape[2]]
