"""What other tools break of what is left, and what of that is beyond ``full``."""

import pytest
import torch
from torch import Tensor

from benchmarks.foreign import CALLS, Left, Result, measured, table
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from robusteval.plan.suite import AttackSpec
from robusteval.types import ThreatModel
from tests.helpers.known import linear, threat_of
from tests.helpers.models import linear_model


def left() -> tuple[Left, Tensor]:
    """All samples of a linear model, and the smallest norms (B,) that break them."""
    known = linear("Linf", 4, count=12)
    pixels = known.images[0].numel()
    points = torch.cat([torch.zeros(1, pixels), torch.eye(pixels)]).view(-1, *known.images[0].shape)
    logits = known.model(points)
    model = linear_model((logits[1:] - logits[:1]).T, logits[0])
    threat = threat_of("Linf", float(known.smallest.median()))
    return Left(model, known.images, known.labels, 12, threat), known.smallest


def test_what_a_tool_breaks_is_shown_to_the_suites_other_attacks() -> None:
    subject, smallest = left()
    broke, beyond, note = measured(subject, CALLS["Linf"]["adv-lib apgd_targeted"])
    assert broke == pytest.approx(int((smallest < subject.threat.radius).sum()), abs=1)
    assert (beyond, note) == (0, "")


def test_what_the_suites_attacks_break_is_not_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one that knows no ε does, at a norm within it, and two break nothing."""
    subject, smallest = left()
    ran: list[str] = []

    def noted(self: Left, spec: AttackSpec, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        ran.append(spec.name)
        if spec.name != "smallest":
            return torch.zeros(len(images), dtype=torch.bool)
        return broken_as(self, spec, images, labels, seed)

    broken_as = Left._broken_as
    monkeypatch.setattr(Left, "_broken_as", noted)
    every = torch.ones(12, dtype=torch.bool)
    assert subject.beyond(every) == int((smallest > 0.999 * subject.threat.radius).sum())
    assert ran.count("pgd20") == 5
    assert "autoattack" in ran
    assert "adaptive" not in ran
    assert "cw" not in ran  # that one is of L2


def test_what_lies_outside_the_ball_breaks_nothing() -> None:
    def call(model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        return 1 - images

    subject, _ = left()
    assert measured(subject, call) == (0, 0, "")


def test_an_attack_that_cannot_run_is_noted() -> None:
    def call(model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        raise AttackError("needs what isn't there")

    assert measured(left()[0], call) == (0, 0, "needs what isn't there")


@pytest.mark.foreign
@pytest.mark.parametrize("name", ["Foolbox LInfFMN", "ART AutoPGD", "ART MomentumIterativeMethod"])
def test_tools_are_called_as_their_users_do(name: str) -> None:
    pytest.importorskip("foolbox")
    pytest.importorskip("art")
    subject, smallest = left()
    broken = subject.broken_by(CALLS["Linf"][name])
    assert broken.any()
    assert not broken[smallest > 1.001 * subject.threat.radius].any()


def test_the_table_names_who_broke_what() -> None:
    rows = [
        Result("m", "w", "L2", "0.5", 20, 18, 9, attack, broke, beyond, note, 3)
        for attack, broke, beyond, note in (("a", 0, 0, ""), ("b", 2, 1, ""), ("c", 0, 0, "no"))
    ]
    assert [*table(rows)][-1] == "| `m` | L2 0.5 | 18 | 9 | 2 | 2 by b | 1 |"
