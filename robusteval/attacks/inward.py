"""Inward: what ascents at one ε leave, through balls that shrink around whatever breaks a sample.

A model that was trained against L∞ may hide the ways that are short in L2: no ascent within ε sees
them, nor one that is put back into that ball from a larger one.  What broke a similar sample shows
such a way, farther off as a rule.  From there the ball follows the sample's own boundary inwards,
as in ``smallest``, until it is as small as the threat's.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robusteval.attacks.neighbours import led, led_by_others
from robusteval.attacks.search import MARGIN
from robusteval.attacks.smallest import Leg, Shrinking
from robusteval.attacks.steps import project

if TYPE_CHECKING:
    from robusteval.attacks.cascade import Cascade


def go_inward(cascade: "Cascade", rows: Tensor) -> None:
    """Survivors of ``rows``, turn by turn: from what broke similar ones, then finely from what was
    the nearest to break each."""
    search, tuning = cascade.search, cascade.tuning
    nearest = search.images.clone()
    known = torch.full_like(nearest[:, 0, 0, 0], torch.inf)
    for _ in range(tuning.inward_turns):
        alive = search.alive(rows)
        if len(alive) == 0:
            return
        start = cascade.anywhere(alive)
        if len(led(search)):
            start = led_by_others(search, alive, cascade.generator, tuning)
        images = search.images[alive]
        balls = Shrinking(cascade.model, images, search.labels[alive], cascade.threat.norm)
        balls.search.draws, balls.search.nearby = search.draws, search.nearby
        balls.best, balls.known = nearest[alive], known[alive]
        with cascade.model.attending(alive):
            for leg in (Leg(tuning.inward_steps), Leg(tuning.inward_fine, fine=True)):
                balls.climb(leg, leg.steps, MARGIN, None, start)
        nearest[alive], known[alive] = balls.best, balls.known
        search.judge(alive, project(balls.best, images, cascade.threat))
