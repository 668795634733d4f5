"""What counts as a success: in range, in the ball, and the first of a sample."""

import numpy as np
import pytest
import torch

from robusteval.errors import (
    AttackError,
)
from robusteval.evidence.judge import (
    first_successes,
    in_threat,
    judge,
    success,
)
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.models import linear_model

LINF = ThreatModel("Linf", parse_eps("0.15"))


def test_nothing_counts_that_is_out_of_range_or_out_of_the_ball() -> None:
    model = linear_model(torch.tensor([[1.0], [-1.0]]), torch.tensor([-1.0, 0.0]))  # boundary 0.5
    clean = torch.full((4, 1, 1, 1), 0.4)
    labels = torch.ones(4, dtype=torch.int64)
    images = torch.tensor([0.52, 0.48, 0.9, 1.5]).view(4, 1, 1, 1)
    threat = ThreatModel("Linf", parse_eps("0.15"))
    judged = judge(model, images, clean, labels, threat, bound=True)
    assert judged.fooled.tolist() == [True, False, False, False]
    assert judged.norm.tolist() == pytest.approx([0.12, 0.08, 0.5, 1.1], abs=1e-6)
    assert judge(model, images, clean, labels, threat, bound=False).fooled.tolist() == [
        True,
        False,
        True,
        False,
    ]
    assert judged.margin.tolist()[:2] == pytest.approx([0.04, -0.04], abs=1e-6)


def test_the_tolerance_admits_float32_overshoot_and_no_more() -> None:
    """8-bit pixels plus 8/255 in float32 exceed ε by up to 2.8e-8: they must count."""
    threat = ThreatModel("Linf", parse_eps("8/255"))
    clean = (torch.arange(0, 240).float() / 255).view(-1, 1, 1, 1)
    model = linear_model(torch.tensor([[0.0], [0.0]]), torch.tensor([1.0, 0.0]))
    labels = torch.ones(240, dtype=torch.int64)
    moved = clean + threat.radius
    assert (moved.double() - clean.double()).max() > 8 / 255
    assert judge(model, moved, clean, labels, threat, bound=True).fooled.all()
    too_far = clean + threat.radius + 3e-6
    assert not judge(model, too_far, clean, labels, threat, bound=True).fooled.any()


def test_rounding_to_8_bits_is_told_apart() -> None:
    model = linear_model(torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 128.4 / 255]))
    clean = torch.full((2, 1, 1, 1), 120 / 255)
    labels = torch.ones(2, dtype=torch.int64)
    images = torch.tensor([128.45 / 255, 129 / 255]).view(2, 1, 1, 1)  # one rounds back
    judged = judge(model, images, clean, labels, LINF, bound=True)
    assert judged.fooled.tolist() == [True, True]
    assert judged.survives_8_bit.tolist() == [False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_that_are_not_finite_fail_the_attack(bad: float) -> None:
    clean = torch.zeros(3, 1, 2, 2)
    images = clean.clone()
    images[1, 0, 0, 0] = bad
    with pytest.raises(AttackError, match="1 of 3"):
        in_threat(images, clean, LINF)
    with pytest.raises(AttackError, match="shape"):
        in_threat(images[:2], clean, LINF)


def test_what_counts_as_broken_within_a_threat() -> None:
    rows = {"fooled": np.array([True, True, False]), "norm": np.array([0.15, 0.16, 0.0])}
    assert success(rows, LINF).tolist() == [True, False, False]
    assert success({"label": np.arange(2)}, LINF).tolist() == [False, False]


def test_first_successes_in_the_suites_order() -> None:
    """The second and fourth attack know no ε, and work in the norm that the third doesn't."""
    small, large = (ThreatModel("L2", parse_eps(eps)) for eps in ("0.1", "0.5"))
    threats = [(small,), (small, large), (LINF,), (small, large)]
    broke = {
        (0, small): [True, False, False, False],
        (1, small): [True, True, False, False],
        (1, large): [True, True, True, False],
        (2, LINF): [True, True, True, True],
        (3, small): [True, True, True, False],
        (3, large): [True, True, True, True],
    }
    firsts = [
        first_successes(threats[: part + 1], lambda *which: np.array(broke[which])).tolist()
        for part in range(4)
    ]
    assert firsts == [
        [True, False, False, False],
        [True, True, True, False],  # the first sample within the larger ball alone
        [True, True, True, True],
        [False, False, True, True],  # the third within the smaller, the last within the larger
    ]
