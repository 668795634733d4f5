"""Balls that shrink around what breaks a sample: exact distances, and a way that is hidden."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.attacks.inward import go_inward
from robusteval.attacks.results import Warned
from tests.helpers.known import Function, in_threat, linear, margins, threat_of

PIXELS = 256
EPS = 0.4
SEEN, LEFT = 0.05, 0.95  # units of ε: how far before it a boundary shows, and where it is
IN_SIGHT, HIDDEN = 6, 3  # samples that any ascent breaks, and that none at ε does


def whole(
    model: torch.nn.Module, images: Tensor, labels: Tensor, radius: float, budget: int = 400
) -> Cascade:
    threat = threat_of("L2", radius)
    return Cascade(as_counted(model, images, labels), images, labels, threat, 0, budget)


def test_alone_it_reaches_what_is_within_reach_and_nothing_else() -> None:
    known = linear("L2", 5, count=24)
    radius = float(known.smallest.median())
    cascade = whole(known.model, known.images, known.labels, radius)
    go_inward(cascade, cascade.search.alive())
    found = cascade.search.best
    in_threat(found, known.images, threat_of("L2", radius))
    broken = margins(known.model, found, known.labels) > 0
    assert broken[known.smallest < radius / 1.01].all()
    assert not broken[known.smallest > radius].any()


def basis() -> tuple[Tensor, Tensor, Tensor]:
    """Three unit vectors at right angles: apart, the way there, and the shortest way."""
    drawn = torch.randn((PIXELS, 3), generator=torch.Generator().manual_seed(0))
    apart, way, shortest = torch.linalg.qr(drawn)[0].T
    return apart, way, shortest


def hidden_way(images: Tensor) -> Tensor:
    """Logits of two classes.  Of images in sight the other class lies half of ε along ``there``.

    Of the others it lies ``LEFT`` · ε along ``shortest``, 60° from there.  Only just before it the
    slope leads to it; farther off, and behind it, the slope leads elsewhere.
    """
    apart, way, shortest = basis()
    there = 0.5 * shortest + 0.75**0.5 * way
    moved = images.flatten(1) - 0.5
    to_go = moved @ shortest - LEFT * EPS
    hidden = torch.where(
        to_go > 0,
        0.1 + 0.01 * (moved @ there),
        torch.where(to_go > -SEEN * EPS, to_go, -0.2 - 0.01 * (moved @ (shortest - way))),
    )
    margin = torch.where(moved @ apart > 2 * EPS, moved @ there - 0.5 * EPS, hidden)
    return torch.stack([-margin / 2, margin / 2], 1)


def hidden() -> tuple[Tensor, Tensor, list[bool]]:
    """Images, labels, and which of them any ascent breaks."""
    generator = torch.Generator().manual_seed(1)
    images = 0.5 + 0.002 * torch.randn((IN_SIGHT + HIDDEN, PIXELS), generator=generator)
    images[:IN_SIGHT] += 3 * EPS * basis()[0]
    labels = torch.zeros(len(images), dtype=torch.long)
    return images.view(-1, 1, 16, 16), labels, IN_SIGHT * [True] + HIDDEN * [False]


@pytest.mark.parametrize("without", ["inward", ""])
@pytest.mark.parametrize(
    ("budget", "reason"), [(400, Warned("searched")), (3000, None)], ids=["masked", "large budget"]
)
def test_it_follows_a_boundary_that_no_ascent_at_eps_sees(
    budget: int, reason: Warned | None, without: str
) -> None:
    """Where gradients look masked, and where there are passes left for it."""
    images, labels, in_sight = hidden()
    cascade = whole(Function(hidden_way), images, labels, EPS, budget)
    cascade.left_out = frozenset({without, "through", "AutoAttack"})
    cascade.reason = reason
    cascade.tuning = replace(cascade.tuning, inward=cascade.tuning.inward_long)
    found = cascade.run().images
    in_threat(found, images, threat_of("L2", EPS))
    broken = margins(hidden_way, found, labels) > 0
    assert broken.tolist() == (in_sight if without else len(images) * [True])
