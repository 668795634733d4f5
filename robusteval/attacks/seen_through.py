"""An attack on logits, where outputs are functions that squash them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robusteval.attacks.leading import leader_of, squashed_logits
from robusteval.attacks.results import Warned
from robusteval.attacks.search import PROBED
from robusteval.attacks.squashed import Squash, Unsquashed, kind_of_squash, squash_of
from robusteval.attacks.staged import Staged
from robusteval.attacks.straight import ReadStraight
from robusteval.models.adapter import Adapter

_BY_INNER = "went by what is squashed"


@contextmanager
def unsquashed(attack: Staged) -> Iterator[None]:
    """Within it the model's outputs are logits again, or what has some leads, where it squashes
    them."""
    outputs = _looked_at(attack)
    if outputs is None or kind_of_squash(outputs) is None:
        yield
        return
    squash, logits = _seen_through(attack, outputs)
    if logits is not None:
        way = "went through the inverse" if squash and squash.inverse else _BY_INNER
        told = squash.told if squash else "each is one function of a logit inside"
        attack.warned.append(Warned("squashed", text=f"{told}; {way}"))
        with attack.model.seen_as(logits):
            yield
        return
    if squash is not None:
        attack.leader = attack.leader or leader_of(attack.search, _rows(attack), attack.seed)
        way = f"; {_BY_INNER}" if attack.leader else ""
        attack.warned.append(Warned("squashed", text=f"{squash.told}{way}"))
    yield


def _looked_at(attack: Staged) -> Tensor | None:
    """Outputs (B, K) that may be squashed; none of what is random, or known to be distances."""
    if attack.search.votes > 1 or attack.model.reads_distances:
        return None
    return None if "unsquashed" in attack.left_out else attack.search.seen


def _seen_through(attack: Staged, outputs: Tensor) -> tuple[Squash | None, Adapter | None]:
    """How outputs are squashed, if they are known to be, and the model in logits, if there is a way
    to them: an inverse, or what is squashed.  The look isn't taken from the budget."""
    search, model = attack.search, attack.model
    rows = _rows(attack)
    some = rows[:PROBED]
    with attack.budget.uncharged(), model.attending(some):
        squash = squash_of(model, search.images[some], outputs)
    if squash is not None and squash.inverse is not None:
        return squash, Unsquashed(model.adapter, squash.inverse)
    with attack.budget.uncharged():
        inner = squashed_logits(search, rows, attack.seed)
    return squash, None if inner is None else Inside(model.adapter, inner)


def _rows(attack: Staged) -> Tensor:
    """All samples, broken ones too: outputs are looked at before any attack."""
    images = attack.search.images
    return torch.arange(len(images), device=images.device)


class Inside(Unsquashed):
    """A model whose outputs are what it squashes."""

    def __init__(self, model: Adapter, inner: ReadStraight) -> None:
        super().__init__(model, lambda outputs: outputs)
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        return self.inner.inside(images)

    def embed_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.embed(images), self(images)

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), self.model.logits_and_distances(images)[1]
