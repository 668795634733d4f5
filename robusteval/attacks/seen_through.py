"""The cascade on logits: through functions that squash them, and by what leads past masks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robusteval.attacks.leading import leader_of
from robusteval.attacks.results import Warned
from robusteval.attacks.search import MARGIN, PROBED
from robusteval.attacks.squashed import Squash, Unsquashed, squash_of

if TYPE_CHECKING:
    from robusteval.attacks.cascade import Cascade


@contextmanager
def unsquashed(cascade: "Cascade") -> Iterator[None]:
    """Within it the model's outputs are logits again, or what has some leads, where it squashes
    them."""
    squash, model = _squash(cascade), cascade.model
    if squash is None:
        yield
    elif squash.inverse is not None:
        cascade.warned.append(Warned("squashed", text=f"{squash.told}; went through the inverse"))
        with model.seen_as(Unsquashed(model.adapter, squash.inverse)):
            yield
    else:
        some = torch.arange(len(cascade.search.images), device=cascade.search.images.device)
        leader = cascade.leader or leader_of(cascade.search, some, cascade.seed)
        way = "; went by what is squashed" if leader else ""
        cascade.warned.append(Warned("squashed", text=f"{squash.told}{way}"))
        cascade.leader = leader
        yield


def _squash(cascade: "Cascade") -> Squash | None:
    """What the look costs isn't taken from the budget."""
    search, model = cascade.search, cascade.model
    if search.seen is None or search.votes > 1 or model.reads_distances:
        return None
    images = search.images[:PROBED]
    with cascade.budget.uncharged(), model.attending(torch.arange(len(images))):
        return squash_of(model, images, search.seen)


def through(cascade: "Cascade", rows: Tensor) -> None:
    """The first stages once more, on a budget of their own, along the leader's gradients."""
    search = cascade.search
    cascade.budget.begin_anew()
    with cascade.model.led_by(cascade.leader):
        start = search.images[rows]
        cascade.ascend(rows, start, MARGIN, cascade.tuning.margin_steps)
        stages = [cascade.flip] if cascade.threat.norm == "Linf" else []
        for stage in [*stages, cascade.aim, cascade.polish]:
            if len(left := search.alive()):
                stage(left)
