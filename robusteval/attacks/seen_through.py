"""An attack on logits, where outputs are functions that squash them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robusteval.attacks.leading import leader_of
from robusteval.attacks.results import Warned
from robusteval.attacks.search import PROBED
from robusteval.attacks.squashed import Squash, Unsquashed, squash_of
from robusteval.attacks.staged import Staged


@contextmanager
def unsquashed(attack: Staged) -> Iterator[None]:
    """Within it the model's outputs are logits again, or what has some leads, where it squashes
    them."""
    squash, model = _squash(attack), attack.model
    if squash is None:
        yield
    elif squash.inverse is not None:
        attack.warned.append(Warned("squashed", text=f"{squash.told}; went through the inverse"))
        with model.seen_as(Unsquashed(model.adapter, squash.inverse)):
            yield
    else:
        some = torch.arange(len(attack.search.images), device=attack.search.images.device)
        leader = attack.leader or leader_of(attack.search, some, attack.seed)
        way = "; went by what is squashed" if leader else ""
        attack.warned.append(Warned("squashed", text=f"{squash.told}{way}"))
        attack.leader = leader
        yield


def _squash(attack: Staged) -> Squash | None:
    """What the look costs isn't taken from the budget."""
    search, model = attack.search, attack.model
    if search.seen is None or search.votes > 1 or model.reads_distances:
        return None
    if "unsquashed" in attack.left_out:
        return None
    images = search.images[:PROBED]
    with attack.budget.uncharged(), model.attending(torch.arange(len(images))):
        return squash_of(model, images, search.seen)
