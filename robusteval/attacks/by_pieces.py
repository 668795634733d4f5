"""The cascade's stage along pieces, where the margin is linear on them (see ``pieces``)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robusteval.attacks.budget import steps_cost
from robusteval.attacks.pieces import NOT_LESS, Pieces, in_parts, linear_on_pieces
from robusteval.attacks.steps import project

if TYPE_CHECKING:
    from robusteval.attacks.cascade import Cascade


def seen_in_pieces(cascade: "Cascade", rows: Tensor) -> bool:
    """Whether the margin is linear on pieces at samples of a cascade; the look isn't taken from
    the budget."""
    if cascade.search.votes > 1 or cascade.leader or "pieces" in cascade.left_out:
        return False
    with cascade.budget.uncharged(), cascade.model.led_by(None):
        return linear_on_pieces(cascade.search, rows)


def follow_pieces(cascade: "Cascade", rows: Tensor) -> None:
    """Survivors of a cascade, as far as the budget goes."""
    search, radius = cascade.search, cascade.threat.radius

    def attempt(some: Tensor, points: Tensor) -> Tensor:
        search.judge(some, project(points, search.images[some], cascade.threat))
        return torch.where(search.broken[some], 0.0, wanted)

    wanted = radius / NOT_LESS
    with cascade.model.led_by(None):
        for at in in_parts(search, rows):
            pieces = Pieces(search, at, torch.full_like(search.margin[at], wanted), attempt)
            while len(going := pieces.going()):
                if not cascade.budget.affords(len(going) * steps_cost(1), search.alive()):
                    return
                pieces.step(going)
