"""The probability margin attack: exact radii of linear models, its passes, halves and sizes."""

import math

import pytest
import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.pma import pma
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from tests.helpers.known import Function, in_threat, linear, margins, threat_of

FAR = 1e-4  # ε at which nothing breaks


@pytest.mark.parametrize("classes", [2, 5])
def test_it_breaks_exactly_what_can_be_broken(classes: int) -> None:
    known = linear("Linf", classes, 24)
    threat = threat_of("Linf", float(known.smallest.sort().values[11:13].mean()))
    found = pma(known.model, known.images, known.labels, threat)
    in_threat(found, known.images, threat)
    broken = margins(known.model, found, known.labels) > 0
    assert torch.equal(broken, known.smallest < threat.radius)


def test_each_half_climbs_its_own_loss_by_sizes_that_fall_from_twice_eps() -> None:
    """On a linear model a step is what its loss's gradient by hand is, where the ball allows."""
    known, passes = linear("Linf", 3, 1), list[Tensor]()
    weight = torch.autograd.functional.jacobian(known.model, known.images)[0, :, 0, 0]

    def watched(images: Tensor) -> Tensor:
        passes.append(images.detach())
        return known.model(images)

    model = Counted(Adapter(Function(watched), 3), 1)
    pma(model, known.images, known.labels, threat_of("Linf", FAR), steps=20)
    assert len(passes) == 2 * 21 + 1  # the last looks for a gradient
    assert (float(model.forward_passes), float(model.backward_passes)) == (2 * 21, 2 * 20)
    label, radius = int(known.labels), FAR

    def slopes(images: Tensor) -> tuple[Tensor, Tensor]:
        """Of the label's probability, and of the likeliest other class's: p (w − Σ p w)."""
        p = known.model(images).softmax(1)[0]
        other = int(p.masked_fill(torch.arange(3) == label, 0).argmax())
        mean = (p[:, None, None] * weight).sum(0)
        return p[label] * (weight[label] - mean), p[other] * (weight[other] - mean)

    for ascent in range(2):
        seen = passes[ascent * 21 : (ascent + 1) * 21]
        for step in range(20):
            own, other = slopes(seen[step])
            climbed = own if step == 0 else (-own, other)[ascent] if step < 10 else other - own
            since = step - 10 if step > 10 else step
            size = radius * (1 + math.cos((since - 1) / 10 * math.pi))
            wanted = (seen[step] + size * climbed.sign()).clamp(
                known.images - radius, known.images + radius
            )
            assert torch.allclose(seen[step + 1], wanted, atol=1e-7)


def test_probabilities_saturate() -> None:
    """As published: where float32 makes the label's 1, the images stay at their random starts."""
    known = linear("Linf", 3, 4)
    scaled = Function(lambda x: 1e4 * known.model(x))
    threat = threat_of("Linf", 1.5 * float(known.smallest.max()))
    found = pma(scaled, known.images, known.labels, threat)
    assert (margins(known.model, found, known.labels) <= 0).all()
    found = pma(known.model, known.images, known.labels, threat)
    assert (margins(known.model, found, known.labels) > 0).all()


def test_it_is_of_one_norm() -> None:
    known = linear("L2", 3, 2)
    with pytest.raises(AttackError, match="pma doesn't work in L2: set its norms to Linf"):
        pma(known.model, known.images, known.labels, threat_of("L2", 0.1))
