"""Cutting planes along pieces: exact radii, and no step where nothing is linear."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robusteval.attacks.smallest as smallest_module
from benchmarks.exact import prototype_radii
from benchmarks.truths import KINDS, Known, Nearest, known
from robusteval.attacks.adaptive import adaptive_result
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.pieces import Pieces, linear_on_pieces, ways_of
from robusteval.attacks.readings import READINGS, Reading
from robusteval.attacks.search import AIMED, Search, Slopes
from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.data.datasets import Dataset
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.types import Norm
from tests.helpers.known import Function, images_near_grey, linear, margins, threat_of

PLAIN, SHOWN = "four prototypes a class, as a plain module", "four prototypes a class, shown"


def some_of(kind: str, count: int = 60) -> Known:
    """So many of the test images that a model gets right."""
    whole = known(kind, 360, None)
    return Known(whole.model, whole.images[:count], whole.labels[:count], whole.robust)


def exact_radii(one: Known, norm: Norm) -> Tensor:
    prototypes = known(PLAIN, 10, None).model.prototypes
    return prototype_radii(prototypes, one.images, one.labels, norm)  # type: ignore[arg-type]


def search_on(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm = "Linf") -> Search:
    return Search(as_counted(model, images, labels), images, labels, threat_of(norm, 0.1))


def found_norms(one: Known, norm: Norm, steps: int) -> Tensor:
    found = smallest(one.model, one.images, one.labels, threat_of(norm, 1), steps=steps)
    assert (margins(one.model, found, one.labels) > 0).all()
    return norms(found.double() - one.images.double(), norm)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_of_prototypes_that_are_shown_norms_are_exact(norm: Norm) -> None:
    """To a thousandth, where ascents alone are up to a tenth off."""
    one = some_of(SHOWN)
    ratios = found_norms(one, norm, 100) / exact_radii(one, norm)
    assert ratios.max() < 1.001
    assert ratios.min() > 1 - 1e-6


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_as_a_plain_module_similar_images_show_the_pieces(
    norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = some_of(PLAIN)
    radii = exact_radii(one, norm)
    near = (found_norms(one, norm, 200) / radii < 1.001).double().mean()
    assert near > 0.98
    monkeypatch.setattr(smallest_module, "linear_on_pieces", lambda *_: None)
    assert (found_norms(one, norm, 200) / radii < 1.001).double().mean() < near


def test_in_linf_nothing_breakable_is_left() -> None:
    """Ascents by signs alone leave three more."""
    one = known(PLAIN, 360, None)
    threat = threat_of("Linf", 0.15)
    left = []
    for left_out in (frozenset[str](), frozenset({"pieces"})):
        counted = as_counted(one.model, one.images, one.labels)
        cascade = Cascade(counted, one.images, one.labels, threat, 0, 400)
        cascade.left_out = left_out
        found = cascade.run()
        left.append(int((margins(one.model, found.images, one.labels) <= 0).sum()))
    robust = int(one.robust(one.images, one.labels, "Linf", threat.radius).sum())
    assert left[0] == robust == 173
    assert left[1] > robust


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("kind", list(KINDS)[:5])
def test_models_that_are_linear_on_pieces_are_known(kind: str, norm: Norm) -> None:
    one = some_of(kind, 32)
    assert linear_on_pieces(search_on(one.model, one.images, one.labels, norm), torch.arange(32))


TOLD: dict[str, Callable[[Tensor], Tensor]] = {
    "-d²": torch.neg,
    "-d": lambda squared: -squared.sqrt(),
    "-log d": lambda squared: -squared.log() / 2,
    "-log d²": lambda squared: -squared.log(),
    "exp(-d²)": lambda squared: (-squared).exp(),
    "exp(-d)": lambda squared: (-squared.sqrt()).exp(),
    "1 / (1 + d²)": lambda squared: 1 / (1 + squared),
}


@pytest.mark.parametrize("told", TOLD)
def test_whatever_is_told_of_distances_the_same_samples_are_left(told: str) -> None:
    """All that are robust, in L∞ at 0.2, where without this one to eight more are left of 342."""
    one = some_of(PLAIN)
    prototypes = known(PLAIN, 10, None).model.prototypes
    model = Nearest(prototypes, told=TOLD[told])  # type: ignore[arg-type]
    threat = threat_of("Linf", 0.2)
    robust = one.robust(one.images, one.labels, "Linf", threat.radius)
    found = adaptive_result(model, one.images, one.labels, threat)
    assert torch.equal(margins(model, found.images, one.labels) <= 0, robust)
    norm = found_norms(Known(model, one.images, one.labels, one.robust), "Linf", 200)
    assert torch.equal(norm > threat.radius, robust)


@pytest.mark.parametrize("reading", READINGS, ids=lambda one: one.told)
def test_slopes_of_what_is_read_are_those_of_autograd(reading: Reading) -> None:
    """Finite differences of the gap, within the range of each."""
    low, high = max(reading.low, -2.0) + 0.3, min(reading.high, 2.0) - 0.3
    outputs = torch.linspace(low, high, 6, dtype=torch.float64)
    assert (reading.function(outputs).diff() > 0).all(), "it grows"
    assert reading.takes(outputs)
    nothing = torch.zeros(6)

    def at(values: Tensor, change: Tensor) -> Slopes:
        return Slopes(nothing, nothing, values + change, torch.ones(6, 1, 1, 1))

    wrong, own, small = outputs.flip(0), outputs, torch.full((6,), 1e-6)
    found = reading.slopes(at(wrong, 0 * small), at(own, 0 * small)).gradients.flatten()
    by_hand = (reading.gap(wrong + small, own + small) - reading.gap(wrong, own)) / 1e-6
    torch.testing.assert_close(found.double(), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pcl_digits", "ce_digits", "mpat_at_digits"])
def test_networks_are_not(name: str, digits: Dataset) -> None:
    """Nor do they get any step of this."""
    model, data = load_model(find_entry(name)), digits.balanced_subset(40)
    images, labels = data.images(), data.labels
    assert not linear_on_pieces(search_on(model, images, labels), torch.arange(40))
    found = adaptive_result(model, images, labels, threat_of("Linf", 0.05), passes_per_sample=60)
    assert "pieces" not in [stage.name for stage in found.stages]


def test_what_is_wrong_already_says_nothing(digits: Dataset) -> None:
    """No step is needed there, so that nothing can be predicted."""
    model, data = load_model(find_entry("pcl_digits")), digits.balanced_subset(32)
    labels = torch.where(torch.arange(32) < 16, (data.labels + 1) % 10, data.labels)
    assert not linear_on_pieces(search_on(model, data.images(), labels), torch.arange(32))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_single_image_shows_it_too(norm: Norm) -> None:
    one = some_of(SHOWN, 20)
    seen = [
        linear_on_pieces(
            search_on(one.model, one.images[k : k + 1], one.labels[k : k + 1], norm),
            torch.arange(1),
        )
        for k in range(20)
    ]
    assert sum(one is not None for one in seen) >= 18


@pytest.mark.parametrize("slope", [0.0, torch.nan])
def test_a_model_without_slopes_is_not(slope: float) -> None:
    """A gradient that is not a number counts as none; ties are no prediction."""
    flat = Function(lambda x: (0 if slope == 0 else 1) * x.sum((1, 2, 3))[:, None] * torch.zeros(2))

    def rounded(x: Tensor) -> Tensor:
        wavy = (x * 16).round().sum((1, 2, 3)) + (slope * (x - x.detach())).nan_to_num(0).sum()
        return torch.stack([1 + 0 * wavy, 0.001 * wavy], 1)

    images, labels = images_near_grey(8), torch.zeros(8, dtype=torch.long)
    for model in (flat, Function(rounded)):
        assert not linear_on_pieces(search_on(model, images, labels), torch.arange(8))


def test_the_look_is_not_taken_from_the_budget(digits: Dataset) -> None:
    """What a network gets is as if there had been none."""
    data = digits.balanced_subset(40)
    model = load_model(find_entry("ce_at_digits"))
    given = (data.images(), data.labels, threat_of("Linf", 0.1))
    told = []
    for left_out in (frozenset[str](), frozenset({"pieces"})):
        cascade = Cascade(as_counted(model, given[0], given[1]), *given, 0, 100)
        cascade.left_out = left_out
        told.append(cascade.run().images)
    assert torch.equal(*told)


def test_a_way_that_is_no_shorter_is_left_at_its_first_cut() -> None:
    """On a linear model one gradient tells all of a way; each sample takes as many as there are."""
    one = linear("L2", 5, count=12)
    counted: Counted = as_counted(one.model, one.images, one.labels)
    search = Search(counted, one.images, one.labels, threat_of("L2", 1))
    least = torch.full((12,), torch.inf)

    def attempt(rows: Tensor, points: Tensor) -> Tensor:
        lengths = norms(points - one.images[rows], "L2")
        broken = margins(one.model, points, one.labels[rows]) > 0
        least[rows] = torch.where(broken, torch.minimum(least[rows], lengths), least[rows])
        return least[rows]

    rows = torch.arange(12)
    ways = len(ways_of(search, rows, AIMED))
    pieces = Pieces(search, rows, least, attempt, AIMED)
    left = pieces.run(1000)
    torch.testing.assert_close(pieces.known.float(), one.smallest, rtol=1e-3, atol=1e-5)
    # Its first cut, and a step to where it leads if that is nearer than before.
    assert ways <= 1000 - left <= 2 * ways


def test_what_is_broken_goes_no_further() -> None:
    one = linear("Linf", 5, count=12)
    search = search_on(one.model, one.images, one.labels)
    nothing = torch.ones(12)
    pieces = Pieces(search, torch.arange(12), nothing, lambda rows, _: 0.0 * rows, AIMED)
    pieces.step(pieces.going())
    before = pieces.place.clone()
    pieces.known[:4] = 0
    assert pieces.going().tolist() == [*range(4, 12)]
    pieces.run(1000)
    assert torch.equal(pieces.place[:4], before[:4])
