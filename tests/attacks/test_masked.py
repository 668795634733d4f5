"""Copies of models that hide gradients are no more robust, and ``adaptive`` finds that out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.masked import EVERY, GAPS, Mask, masks, measure
from benchmarks.masked import attacked as attacked_by
from benchmarks.masks import SQUASHES, compressed, detached, mean, rounded, squashed, vote
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.attacks.leading import leader_of, squashed_logits
from robusteval.attacks.results import AttackResult, said
from robusteval.attacks.search import MARGIN, Search, Step
from robusteval.attacks.squashed import squash_of
from robusteval.attacks.steps import input_gradient
from robusteval.attacks.straight import ReadStraight
from robusteval.data.datasets import Dataset
from robusteval.models.adapter import Adapter
from robusteval.types import Norm
from tests.helpers.known import (
    Function,
    Known,
    images_near_grey,
    in_threat,
    linear,
    margins,
    threat_of,
)

# What takes longest, and needs no gradient, would find some of it by luck.
SLOW = frozenset({"flip", "square", "more steps", "more search", "AutoAttack"})
# What sees through a linear model, whatever hides its slopes further on.
PIECES = frozenset({"pieces"})


def scaled(norm: Norm, scale: float = 15.0) -> Known:
    """Of logits some units apart, as networks have them."""
    known = linear(norm, 5, count=24)
    model = known.model
    return replace(known, model=Function(lambda x: scale * model(x)))


def attacked(
    model: nn.Module,
    known: Known,
    radius: float,
    left_out: frozenset[str] = SLOW,
    kicks: bool = True,
) -> AttackResult:
    counted = as_counted(model, known.images, known.labels)
    threat = threat_of(known.norm, radius)
    cascade = Cascade(counted, known.images, known.labels, threat, 0, passes_per_sample=200)
    cascade.left_out = left_out
    if not kicks:
        cascade.search.kicks = None
    return cascade.run()


def wrongly_left(
    model: nn.Module, known: Known, left_out: frozenset[str] = SLOW, kicks: bool = True
) -> tuple[int, AttackResult]:
    """Samples that are left at the median of known distances, and are closer by a hair."""
    radius = float(known.smallest.median())
    found = attacked(model, known, radius, left_out, kicks)
    in_threat(found.images, known.images, threat_of(known.norm, radius))
    with torch.no_grad():
        left = model(found.images).argmax(1) == known.labels
    return int(left[known.smallest < radius / 1.01].sum()), found


def kinds(result: AttackResult) -> list[str]:
    return [warned.kind for warned in result.warned]


@pytest.mark.parametrize(
    ("norm", "gap"), [*(("Linf", gap) for gap in GAPS), ("L2", 0.3), ("L2", 2)]
)
def test_a_detached_copy_is_left_with_what_its_base_is(norm: Norm, gap: float) -> None:
    """Without what leads past it and without kicks, more is left."""
    known = scaled(norm, 4.0)
    copy = detached(known.model, gap)
    assert wrongly_left(copy, known, SLOW | PIECES)[0] == 0
    assert wrongly_left(copy, known, SLOW | PIECES | {"through"}, kicks=False)[0] > 0


def test_gradients_that_vanish_where_ascents_end_are_told() -> None:
    """Clean images are outside of the band, and the best ones inside."""
    known = scaled("Linf")
    radius = 0.98 * float(known.smallest.min())
    (warned,) = attacked(detached(known.model, 0.1), known, radius).warned
    assert (warned.kind, warned.number, warned.stages) == ("flat", 0.08, ("through",))
    assert said(warned).startswith("adaptive: gradients vanish on the way of 8 % of the samples")
    assert not attacked(known.model, known, radius).warned


SATURATED = "softmax of 1,000 times the logits"
SQUASHED = {
    "scaled tanh": lambda logits: 3 + 7 * torch.tanh(logits / 2),
    "-exp(-z)": lambda logits: -torch.exp(-logits),
    **SQUASHES,
}


@pytest.mark.parametrize(
    ("norm", "name"),
    [*(("Linf", name) for name in SQUASHED), ("L2", "sigmoid"), ("L2", SATURATED)],
)
def test_a_squashed_copy_is_left_with_what_its_base_is(norm: Norm, name: str) -> None:
    known = scaled(norm)
    copy = squashed(known.model, SQUASHED[name])
    assert (copy(known.images).argmax(1) == known.labels).all()
    wrong, found = wrongly_left(copy, known)
    assert wrong == 0
    assert kinds(found)[:1] == ["squashed"]


@pytest.mark.parametrize("name", sorted({*SQUASHED} - {"tanh"}))
def test_a_squashed_network_is_left_with_what_its_base_is(
    digits: Dataset, ce_digits: Adapter, name: str
) -> None:
    """By gradients alone (within two where it is saturated); more is left where nothing sees
    through it."""
    data = digits.balanced_subset(40)
    images, labels = data.images(), ce_digits(data.images()).argmax(1)
    known = Known(ce_digits, images, labels, torch.empty(0), "Linf")
    copy = squashed(ce_digits, SQUASHED[name])
    base, seen_through, straight = (
        int((margins(ce_digits, attacked(*given).images, labels) <= 0).sum())
        for given in (
            (ce_digits, known, 0.08),
            (copy, known, 0.08),
            (copy, known, 0.08, SLOW | {"unsquashed", "through"}),
        )
    )
    assert seen_through <= base + (2 if name == SATURATED else 0)
    assert straight > base + (2 if name == SATURATED else 0)


def test_outputs_that_only_look_bounded_are_not_squashed() -> None:
    """Cosines, and logits that happen to be small, or tied at zero but for the last bit."""
    images = images_near_grey(20)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((5, 64), generator=generator)
    small = Function(lambda x: 0.1 * (x.flatten(1) - 0.5) @ weight.T)
    cosines = Function(lambda x: F.normalize(x.flatten(1) - 0.45) @ F.normalize(weight).T)
    tied = Function(lambda x: 0 * x.flatten(1)[:, :5] + torch.tensor([5e-7, 0, 0, 0, 0]))
    for module in (small, cosines, tied):
        model = Adapter(module, 5)
        assert model(images).abs().max() <= 1
        assert squash_of(model, images, model(images)) is None


@pytest.mark.parametrize("squash", [F.softsign, torch.atan, lambda z: torch.tanh(z / 5)])
def test_what_outputs_are_one_function_of_is_found(squash: Callable[[Tensor], Tensor]) -> None:
    """Its values are the first logits on the way, whether or not a gradient is asked for."""
    known = linear("Linf", 5, count=24)
    inner = squashed_by(lambda x: squash(15 * known.model(x)), known)
    assert inner is not None
    ((_, scale),) = inner.members
    wanted = known.model(known.images)
    torch.testing.assert_close(scale * inner.inside(known.images), wanted)
    leaf = known.images.clone().requires_grad_()
    slope = input_gradient(scale * inner.inside(leaf)[:, 0], leaf)
    torch.testing.assert_close(slope, input_gradient(known.model(leaf)[:, 0], leaf))


@pytest.mark.parametrize(
    "squash",
    [
        lambda z: 0.1 * z + 1,  # a line bends nothing
        lambda z: torch.tanh(20 * z),  # float32 makes ties
        lambda z: torch.softmax(z, 1),  # each depends on all
        torch.cos,  # doesn't grow
    ],
    ids=["line", "ties", "softmax", "cosine"],
)
def test_what_they_are_no_such_function_of_is_not(squash: Callable[[Tensor], Tensor]) -> None:
    known = scaled("Linf")
    assert squashed_by(lambda x: squash(known.model(x)), known) is None


def squashed_by(function: Callable[[Tensor], Tensor], known: Known) -> ReadStraight | None:
    copy = Function(function)
    search = Search(
        as_counted(copy, known.images), known.images, known.labels, threat_of("Linf", 0.05)
    )
    return squashed_logits(search, torch.arange(len(known.images)), seed=0)


STOPS: dict[str, Callable[[Tensor], Tensor]] = {
    "round": lambda x: (64 * x).round() / 64,
    "round_": lambda x: (64 * x).round_() / 64,
    "floor": lambda x: torch.floor(64 * x + 0.5) / 64,
    "//": lambda x: (x + 1 / 128) // (1 / 64) / 64,
    "uint8": lambda x: (255 * x).to(torch.uint8).float() / 255,
    "int": lambda x: (255 * x).int() / 255,
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "NumPy": lambda x: torch.from_numpy(np.round(64 * x.detach().numpy()) / 64).float(),
    "bits": lambda x: (x > 0.5).float(),
    "where": lambda x: torch.where(x > 0.5, 1.0, 0.0),
}


@pytest.mark.parametrize("name", STOPS)
def test_gradients_pass_straight_through_what_stops_them(name: str) -> None:
    """Values stay what they are; the gradient is that of the layer behind."""
    layer = nn.Linear(64, 3).requires_grad_(False)
    model = Adapter(Function(lambda x: layer(STOPS[name](x).flatten(1))), 3)
    leaf = images_near_grey(4).requires_grad_()
    logits = ReadStraight(model)(leaf)
    torch.testing.assert_close(logits, model(leaf))
    wanted = layer.weight[0].view(1, 1, 8, 8).expand(4, -1, -1, -1)
    gradient = input_gradient(logits[:, 0], leaf)
    cosine_of = torch.cosine_similarity(gradient.flatten(1), wanted.flatten(1))
    assert cosine_of.min() > 0.999
    if name != "//":  # torch has no derivative of it, not even zero
        assert input_gradient(model(leaf)[:, 0], leaf).abs().max() == 0


def test_without_gradients_in_the_forward_pass() -> None:
    layer = nn.Linear(64, 3).requires_grad_(False)

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return layer(images.flatten(1))

    model, leaf = Adapter(Function(logits), 3), images_near_grey(2).requires_grad_()
    gradient = input_gradient(ReadStraight(model)(leaf)[:, 0], leaf)
    torch.testing.assert_close(gradient[0].flatten(), layer.weight[0])
    assert torch.is_grad_enabled()


def test_rounded_images_are_attacked_as_straight_through() -> None:
    known = scaled("Linf")
    radius, threat = 0.1, threat_of("Linf", 0.1)
    copy, guide = rounded(known.model, 9), rounded(known.model, 9, straight=True)
    labels = copy(known.images).argmax(1)
    one = Known(known.model, known.images, labels, known.smallest, "Linf")
    found, by_guide = attacked(copy, one, radius), attacked(guide, one, threat.radius)
    assert "dead" in kinds(found)
    left, truth = (margins(copy, r.images, labels) <= 0 for r in (found, by_guide))
    assert left.sum() <= truth.sum() + 1
    assert truth.sum() < len(labels)


class Opaque(torch.autograd.Function):
    """Nine levels, and no gradient that anything could read straight."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return (8 * images).round() / 8

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros_like(gradient)


@pytest.mark.parametrize(("norm", "radius"), [("Linf", 0.1), ("L2", 0.6)])
def test_where_nothing_has_a_gradient_random_search_goes_on(
    digits: Dataset, ce_digits: Adapter, norm: Norm, radius: float
) -> None:
    """It leaves next to what gradients do of the same model with its levels passed through."""
    images = digits.balanced_subset(12).images()
    copy = Adapter(Function(lambda x: ce_digits(Opaque.apply(x))), 10)
    guide = rounded(ce_digits, 9, straight=True)
    one = Known(copy, images, copy(images).argmax(1), torch.empty(0), norm)
    found = {
        "nothing more": attacked(copy, one, radius),
        "random search": attacked(copy, one, radius, SLOW - {"more search"}),
        "its guide": attacked(guide, one, radius),
    }
    assert "dead" in kinds(found["random search"])
    left = {
        told: int((margins(copy, result.images, one.labels) <= 0).sum())
        for told, result in found.items()
    }
    assert left["nothing more"] > 9
    assert left["random search"] <= left["its guide"] + 1 <= 2


@pytest.mark.parametrize(("norm", "radius", "count"), [("Linf", 0.1, 16), ("L2", 0.5, 8)])
def test_rounding_as_jpegs_hides_nothing(
    digits: Dataset, ce_digits: Adapter, norm: Norm, radius: float, count: int
) -> None:
    """Cosine coefficients are rounded, which no pixel shows."""
    data, step = digits.balanced_subset(count), 0.3
    mask = Mask(compressed(ce_digits, step), compressed(ce_digits, step, straight=True), same=False)
    threat = threat_of(norm, radius)
    found = measure(mask, data.images(), data.labels, threat)
    assert found.truth < found.correct - 3
    assert found.left <= found.truth + 1
    assert found.kinds == ["dead"]


def test_members_of_a_vote_lead() -> None:
    """Votes have no slope, their members do."""
    models = [linear("Linf", 5, count=1).model, *(Function(member) for member in _members(4))]
    images = images_near_grey(40)
    copy, guide = vote([*models[1:4]]), mean([*models[1:4]])
    labels = copy(images).argmax(1)
    known = Known(copy, images, labels, torch.zeros(40), "Linf")
    found, by_guide = attacked(copy, known, 0.05), attacked(guide, known, 0.05)
    left, truth = (margins(copy, r.images, labels) <= 0 for r in (found, by_guide))
    assert left.sum() <= truth.sum() + 1


def leading(copy: nn.Module, images: Tensor) -> ReadStraight:
    labels = copy(images).argmax(1)
    search = Search(as_counted(copy, images), images, labels, threat_of("Linf", 0.001))
    leader = leader_of(search, torch.arange(len(images)), seed=0)
    assert isinstance(leader, ReadStraight)
    return leader


@pytest.mark.parametrize("own", [0.5, 0.02], ids=["mostly agree", "nearly always agree"])
def test_one_member_does_not_lead_alone(own: float) -> None:
    """Not even where it names what the vote does at all images: beyond them it doesn't."""
    members, images = [Function(member) for member in _members(3, own)], images_near_grey(40)
    copy = vote([*members])
    assert len(leading(copy, images).members) == 3
    named = torch.stack([member(images).argmax(1) == copy(images).argmax(1) for member in members])
    assert named.all(1).any() == (own < 0.5)


def test_a_head_that_decides_nothing_does_not_lead() -> None:
    """Though it mostly agrees with the one that does."""
    (main, beside), images = _members(2), images_near_grey(40)

    def named(x: Tensor) -> Tensor:
        agrees = (beside(x).argmax(1) == main(x).argmax(1)).double().mean()
        assert agrees > 0.5 or len(x) != 40
        return nn.functional.one_hot(main(x).argmax(1), 5).float()

    ((place, _),) = leading(Function(named), images).members
    assert place > 0  # after the one beside


def _members(count: int, own: float = 0.5) -> list[Callable[[Tensor], Tensor]]:
    """Linear models that mostly agree, more often the smaller what is a member's ``own``."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn((5, 64), generator=generator)
    weights = [own * torch.randn((5, 64), generator=generator) for _ in range(count)]
    return [lambda x, w=w: (x.flatten(1) - 0.5) @ (shared + w).T for w in weights]


def test_a_zero_gradient_is_no_zero_step() -> None:
    """On a plateau the last slope goes on, and one without any is left at random."""
    weight = torch.ones(64)

    def logits(images: Tensor) -> Tensor:
        height = (images.flatten(1) - 0.5) @ weight
        stopped = torch.where(height > 0.5, height.detach(), height)
        return torch.stack([0 * height, stopped - 2.0], 1)

    model, images = Function(logits), torch.full((3, 1, 8, 8), 0.5)
    images[2] += 0.01  # begins where nothing is seen
    labels = torch.zeros(3, dtype=torch.long)
    threat = threat_of("Linf", 0.05)
    search = Search(as_counted(model, images), images, labels, threat)
    search.kicks = torch.Generator().manual_seed(0)
    search.ascend(search.alive(), images, MARGIN, [Step(0.01, threat.radius)] * 6)
    assert search.flat.all()
    assert search.broken[:2].all()
    assert (search.best[2] != images[2]).any()


def test_the_panel_tells_truth_verdict_and_flag() -> None:
    known = scaled("Linf")
    threat = threat_of("Linf", float(known.smallest.median()))
    members = [Function(member) for member in _members(2)]
    panel = masks(known.model, members)
    assert set(panel) == set(EVERY)
    told = measure(panel["sigmoid"], known.images, known.labels, threat, budget=100)
    assert told.correct == 24
    assert 12 <= told.truth <= 13  # the one at the median may fall either way
    assert told.truth - 1 <= told.left <= told.truth + 1
    assert told.ties <= 1  # float32 rounds what lies at the boundary
    assert told.kinds == ["squashed"]
    assert told.passes > 0


def test_ties_are_no_successes_of_the_panel(ce_digits: Adapter, digits: Dataset) -> None:
    """Where tanh makes ties of logits, the model itself says what is left."""
    data = digits.balanced_subset(10)
    copy, images = squashed(ce_digits, torch.tanh), data.images()
    labels = copy(images).argmax(1)
    found = measure(Mask(copy, ce_digits), images, labels, threat_of("Linf", 0.08), budget=60)
    assert found.correct == 10
    assert found.ties > 0
    by_hand, _ = attacked_by(copy, images, labels, threat_of("Linf", 0.08), 60)
    assert found.left == int((margins(ce_digits, by_hand.images, labels) <= 0).sum())
    assert found.ties == int((margins(copy, by_hand.images, labels) == 0).sum())
