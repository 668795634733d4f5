"""Whether gradients look masked: by what they are, and what larger balls and random search find.

Ascents through those are the idea of Constraint Relaxation (AAAI 2025; see ``cr``).
"""

import torch
from torch import Generator, Tensor

from robusteval.attacks.blindness import reaches_images
from robusteval.attacks.results import Warned
from robusteval.attacks.search import MARGIN, Search
from robusteval.attacks.steps import random_start
from robusteval.attacks.tuning import Tuning
from robusteval.models.acceleration import cosines


def masked(search: Search, rows: Tensor, generator: Generator, tuning: Tuning) -> Warned | None:
    """Why gradients on the margin look masked at clean images ``rows`` (B,), if they do.

    Where they turn at a small step, the search averages them over noise from then on.
    """
    images = search.images[rows]
    here = search.slopes(rows, images, MARGIN).gradients.flatten(1)
    dead = float((here.abs().amax(1) == 0).double().mean())
    if dead == 1 and not reaches_images(search.model, images):
        return Warned("no_gradient")
    if dead > tuning.dead_share:
        return Warned("dead", _in_hundredths(dead))
    moved = random_start(images, search.threat, generator, share=0.1)
    there = search.slopes(rows, moved, MARGIN).gradients.flatten(1)
    cosine_of = float(cosines(here, there).median())
    if cosine_of >= tuning.turned:
        return None
    search.nearby = lambda points: random_start(
        points, search.threat, generator, share=tuning.smoothed
    )
    return Warned("turning", _in_hundredths(cosine_of))


def flat(search: Search) -> Warned | None:
    """Why gradients look masked where ascents end, if they do: those of survivors vanish."""
    share = float(search.flat[search.alive()].double().mean())
    return Warned("flat", _in_hundredths(share)) if share > 0 else None


def outdone(only_larger: int, correct: int, tuning: Tuning) -> Warned | None:
    """Why gradients inside the ball look masked, if they do: so many of the correct samples broke
    by ascents through larger balls, after those that never leave it had failed."""
    missed = only_larger / correct
    return Warned("outdone", _in_hundredths(missed)) if missed > tuning.outdone else None


def searched(before: Tensor, after: Tensor, some: bool, tuning: Tuning) -> Warned | None:
    """Why gradients look masked, if they do: from margins ``before`` (B,), where they ended, random
    search went most of the way to breaking, as a rule.  ``some``: gradients had broken others."""
    if len(before) < tuning.fewest_closed:
        return None
    way, left = -before, -after.clamp(max=0)
    closed = torch.where(way > 0, 1 - left / way, 0.0)
    most = tuning.closed_of_some if some else tuning.closed
    return Warned("searched") if float(closed.median()) > most else None


def _in_hundredths(measured: float) -> float:
    """As it is told: the last bits of what was measured are no part of it."""
    return round(100 * measured) / 100
