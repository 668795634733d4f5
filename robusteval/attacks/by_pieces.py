"""The stage along pieces, where the margin is linear on them (see ``pieces``)."""

import torch
from torch import Tensor

from robusteval.attacks.budget import steps_cost
from robusteval.attacks.pieces import NOT_LESS, Pieces, in_parts, linear_on_pieces
from robusteval.attacks.search import Objective
from robusteval.attacks.staged import Staged
from robusteval.attacks.steps import project


def seen_in_pieces(attack: Staged, rows: Tensor) -> Objective | None:
    """The objective that is linear on pieces at some samples, if there is one; the look isn't taken
    from the budget."""
    if attack.search.votes > 1 or attack.leader or "pieces" in attack.left_out:
        return None
    with attack.budget.uncharged(), attack.model.led_by(None):
        return linear_on_pieces(attack.search, rows)


def follow_pieces(attack: Staged, objective: Objective, rows: Tensor) -> None:
    """Survivors, as far as the budget goes."""
    search, radius = attack.search, attack.threat.radius

    def attempt(some: Tensor, points: Tensor) -> Tensor:
        search.judge(some, project(points, search.images[some], attack.threat))
        return torch.where(search.broken[some], 0.0, wanted)

    wanted = radius / NOT_LESS
    with attack.model.led_by(None):
        for at in in_parts(search, rows):
            known = torch.full_like(search.margin[at], wanted)
            pieces = Pieces(search, at, known, attempt, objective)
            while len(going := pieces.going()):
                if not attack.budget.affords(len(going) * steps_cost(1), search.alive()):
                    return
                pieces.step(going)
