"""Inward: balls in L2 that shrink around whatever breaks a sample, from what broke similar ones.

A model that was trained against L∞ may hide the ways that are short in L2: no ascent within ε sees
them, nor one that is put back into that ball from a larger one.  What broke a similar sample shows
such a way, farther off as a rule.  From there the ball follows the sample's own boundary inwards,
as in ``smallest``, until it is as small as the threat's.  Steps outside the threat's ball are the
idea of Constraint Relaxation (AAAI 2025; see ``cr``).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robusteval.attacks.counting import BACKWARD
from robusteval.attacks.search import MARGIN, Search
from robusteval.attacks.smallest import Leg, Shrinking
from robusteval.attacks.staged import Staged
from robusteval.attacks.steps import project
from robusteval.attacks.tuning import Round

_FROM_OTHERS = Round(share=1.0, steps=0, others=True)
_IN_VAIN = 2  # turns that gained nothing, after which none follow
_GAIN = 0.05  # by which the median of known norms has to fall, where none was broken


@dataclass(frozen=True)
class Known:
    """Of each sample of a batch the ``nearest`` image (B, C, H, W) that breaks it, and at which
    ``norms`` (B,); the clean image and infinity where none is known."""

    nearest: Tensor
    norms: Tensor

    @classmethod
    def nothing(cls, search: Search) -> "Known":
        images = search.images
        return cls(images.clone(), torch.full_like(images[:, 0, 0, 0], torch.inf))


def go_inward(attack: Staged, rows: Tensor) -> None:
    """Survivors of ``rows``, for as many turns as there are."""
    known, tuning = Known.nothing(attack.search), attack.tuning
    for _ in range(tuning.inward_turns):
        if len(alive := attack.search.alive(rows)):
            _turn(attack, alive, known, tuning.inward_long)


def inward_once(attack: Staged) -> None:
    """As long as it pays, as soon as survivors have had so many passes as ``tuning`` says."""
    after, alive = attack.tuning.inward_after, attack.search.alive().cpu()
    if after is None or attack.went_inward or "inward" in attack.left_out or len(alive) == 0:
        return
    if float(attack.budget.spent()[alive].mean()) >= after * attack.search.draws:
        attack.went_inward = True
        _while_it_pays(attack)


def _while_it_pays(attack: Staged) -> None:
    """The nearest survivors first, while the budget lasts and every other turn gains something."""
    search, tuning = attack.search, attack.tuning
    known, untried, vain = Known.nothing(search), ~search.broken, 0
    while vain < _IN_VAIN and len(alive := search.alive()):
        untried = untried if untried[alive].any() else ~search.broken
        wanted = max(tuning.fewest, math.ceil(tuning.inward_share * len(alive)))
        near = search.nearest(alive[untried[alive]], wanted)
        near = attack.budget.affordable(near, _cost(tuning.inward, tuning.drawn), alive)
        if len(near) == 0:
            return
        untried[near], before = False, known.norms[near]
        _turn(attack, near, known, tuning.inward)
        gains = len(search.alive(near)) < len(near) or _fell(before, known.norms[near])
        vain = 0 if gains else vain + 1


def _fell(before: Tensor, after: Tensor) -> bool:
    """Whether norms (B,) that were known fell, as a rule."""
    share = (after / before)[before.isfinite()]
    return bool(len(share)) and float(share.median()) < 1 - _GAIN


def _cost(steps: tuple[int, int], drawn: int) -> int:
    """The passes of a turn for each sample, the model's own word on each step among them."""
    return (2 + BACKWARD) * sum(steps) + drawn


def _turn(attack: Staged, rows: Tensor, known: Known, steps: tuple[int, int]) -> None:
    """From what broke similar ones, then in small steps from the nearest that breaks each."""
    search = attack.search
    start, images = attack.start_of(rows, _FROM_OTHERS), search.images[rows]
    balls = Shrinking(attack.model, images, search.labels[rows], attack.threat.norm)
    inner = balls.search
    inner.draws, inner.votes, inner.nearby = search.draws, search.votes, search.nearby
    balls.best, balls.known = known.nearest[rows], known.norms[rows]
    far, fine = steps
    with attack.model.attending(rows):
        for leg in (Leg(far), Leg(fine, fine=True)):
            balls.climb(leg, leg.steps, MARGIN, None, start)
    known.nearest[rows], known.norms[rows] = balls.best, balls.known
    search.judge(rows, project(balls.best, images, attack.threat))
