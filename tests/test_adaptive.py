"""The adaptive cascade: against known smallest perturbations, and what only one stage breaks."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks.adaptive import BACKWARD, Cascade, adaptive, adaptive_told
from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.search import Objective, Search, cosine, shrinking
from robusteval.attacks.steps import free_gradient, norms, project, project_fully
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.backbones import Backbone
from robusteval.models.network import HeadConfig, PrototypeNetwork
from robusteval.types import Norm, ThreatModel
from tests.known import (
    Function,
    Known,
    images_near_grey,
    linear,
    margins,
    nearest_prototypes,
    threat_of,
)


def in_threat(found: Tensor, images: Tensor, threat: ThreatModel) -> None:
    assert found.min() >= 0
    assert found.max() <= 1
    assert norms(found.double() - images.double(), threat.norm).max() <= threat.radius + 1e-6


# Known smallest perturbations


def broken_at_the_median(known: Known) -> Tensor:
    """Which samples break at the median of known distances: those closer by 1.05, none beyond."""
    radius = float(known.smallest.median())
    threat = threat_of(known.norm, radius)
    found = adaptive(known.model, known.images, known.labels, threat)
    in_threat(found, known.images, threat)
    broken = margins(known.model, found, known.labels) > 0
    assert broken[known.smallest < radius / 1.05].all()
    assert not broken[known.smallest > radius * (1 + 1e-5)].any()
    return broken


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_linear_models_break_where_they_must(norm: Norm, classes: int) -> None:
    """To within 1.05 of the distance to the nearest of the hyperplanes, and never below it."""
    known = linear(norm, classes)
    broken = broken_at_the_median(known)
    assert broken.any()
    assert not broken.all()


def test_nearest_prototypes_break_at_the_certified_distance() -> None:
    """In input space: max over own prototypes, min over others (Voráček and Hein 2022)."""
    broken_at_the_median(nearest_prototypes())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_every_image_is_in_the_ball_and_the_range(norm: Norm) -> None:
    """On black and white pixels, in colour, on any rows' worth of classes."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 2, (20, 3, 6, 6), generator=generator).float()
    weight = torch.randn((5, 108), generator=generator)
    model = Function(lambda x: torch.tanh(x.flatten(1)) @ weight.T)
    labels = model(images).argmax(1)
    threat = threat_of(norm, 0.2)
    in_threat(adaptive(model, images, labels, threat), images, threat)


def test_a_cut_perturbation_is_lengthened() -> None:
    """At a corner of the box a plain projection stays far inside the L2 ball."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randint(0, 2, (30, 1, 8, 8), generator=generator).float()
    moved = clean + torch.randn(clean.shape, generator=generator)
    threat = threat_of("L2", 0.5)
    short = norms(project(moved, clean, threat) - clean, "L2")
    long = norms(project_fully(moved, clean, "L2", 0.5) - clean, "L2")
    assert (short < 0.45).all()
    assert ((long > 0.49) & (long <= 0.5 + 1e-6)).all()
    inside = clean + 0.01 * (0.5 - clean)
    assert torch.equal(project_fully(inside, clean, "L2", 0.5), project(inside, clean, threat))


def test_a_free_gradient_does_not_push_out_of_the_box() -> None:
    images = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    gradient = torch.tensor([[-1.0, 1.0, -1.0, 1.0, -1.0]])
    assert free_gradient(gradient, images).tolist() == [[0.0, 1.0, -1.0, 0.0, -1.0]]


# Each stage earns its place: models that only it breaks


def told(model: nn.Module, images: Tensor, labels: Tensor, eps: float = 0.1) -> dict[str, int]:
    """What each stage broke."""
    result = adaptive_told(model, images, labels, threat_of("Linf", eps))
    return {
        note.split(" broke ")[0]: int(note.split(" broke ")[1].split()[0])
        for note in result.notes
        if " broke " in note
    }


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    """Two linear features, zero at grey."""
    flat = images.flatten(1) - 0.5
    return flat[:, :32].mean(1), flat[:, 32:].mean(1)


def test_margin_breaks_what_blinds_cross_entropy() -> None:
    """Logits so large that every probability is 0 or 1."""
    model = Function(lambda x: 1e6 * torch.stack([halves(x)[0] + 0.04, -halves(x)[0] - 0.04], 1))
    images = images_near_grey(20)
    labels = model(images).argmax(1)
    probabilities = model(images).softmax(1)
    assert ((probabilities == 0) | (probabilities == 1)).all()
    assert told(model, images, labels) == {"margin": 20}


def test_aim_breaks_what_the_closest_class_hides() -> None:
    """The closest wrong class can never win; a farther one can."""

    def logits(x: Tensor) -> Tensor:
        first, second = halves(x)
        # Class 1 rises with the first half, but stays below 0; class 2 needs the second half, and
        # loses more by the first than class 1 gains.
        return torch.stack(
            [0 * first, -0.01 + 0.009 * torch.tanh(20 * first), 0.5 * second - 0.03 - first], 1
        )

    model, images = Function(logits), images_near_grey(20)
    labels = torch.zeros(20, dtype=torch.long)
    assert (model(images).argmax(1) == 0).all()
    broken = told(model, images, labels)
    assert broken["margin"] == 0
    assert broken["aim"] == 20


def test_pull_breaks_what_the_classifier_masks() -> None:
    """A head that saturates hides the way; the prototypes in feature space still show it."""

    class Halves(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.channels = {"fc": 2}

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"fc": torch.stack(halves(images), 1)}

    class Stairs(nn.Module):
        """Two logits that say which feature is larger, and nothing of by how much."""

        def forward(self, features: Tensor) -> Tensor:
            gap = features[:, 0] - features[:, 1] + 0.05
            return torch.stack([gap.sign(), -gap.sign()], 1) + 0 * features

    network = PrototypeNetwork(Halves(), HeadConfig("softmax", 2, ("fc",)), [0.0], [1.0])
    network.classifier = Stairs()  # type: ignore[assignment]
    network.prototypes["fc"].data.copy_(torch.tensor([[[0.1, -0.1]], [[-0.1, 0.1]]]))
    model = PrototypeAdapter(network)
    images = images_near_grey(6)
    labels = model(images).argmax(1)
    model.class_distances = lambda: None  # type: ignore[method-assign]
    broken = told(model, images, labels)
    assert broken["margin"] == broken["aim"] == 0
    assert broken["pull"] == 6 - broken["square"] >= 3
    assert "more steps" not in broken


def test_a_model_without_gradients_is_told_and_broken() -> None:
    """Rounded inputs: no stage has a gradient, AutoAttack's Square needs none."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(64, generator=generator)

    def logits(x: Tensor) -> Tensor:
        score = ((x * 20).round() / 20 - 0.5).flatten(1) @ weight
        return torch.stack([score + 0.5, -score - 0.5], 1)

    model, images = Function(logits), images_near_grey(10)
    labels = model(images).argmax(1)
    result = adaptive_told(model, images, labels, threat_of("Linf", 0.15))
    assert (margins(model, result.images, labels) > 0).all()
    assert any("have no gradient" in warning for warning in result.warnings)


def test_a_random_model_is_told() -> None:
    generator = torch.Generator().manual_seed(4)

    def logits(x: Tensor) -> Tensor:
        noise = 0.02 * torch.randn(len(x), generator=generator)
        return torch.stack([halves(x)[0] + 0.3 + noise, halves(x)[1] - 0.3 - noise], 1)

    model, images = Function(logits), images_near_grey(4)
    result = adaptive_told(model, images, torch.zeros(4, dtype=torch.long), threat_of("Linf", 0.05))
    assert any("outputs change" in warning for warning in result.warnings)


# Bookkeeping


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5)).eval()


def test_the_budget_is_kept_and_passes_are_counted_one_by_one() -> None:
    network, images = small_network(), images_near_grey(40)
    seen = {"forward": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["forward"] += len(inputs[0])

    network.register_forward_pre_hook(count)
    with torch.no_grad():
        labels = network(images).argmax(1)
    seen["forward"] = 0
    for budget in (100, 400):
        model = Counted(Adapter(network, 5), len(images))
        found = adaptive(model, images, labels, threat_of("Linf", 0.01), passes_per_sample=budget)
        alive = margins(network, found, labels) <= 0
        used = model.forward_passes + BACKWARD * model.backward_passes
        assert alive.sum() >= 10
        assert used[alive].mean() <= budget + 45  # the budget, and the queries on a few of them
        assert used[alive].mean() > budget / 2
        assert int(model.forward_passes.sum()) == seen["forward"] - len(images)
        seen["forward"] = 0


def test_the_same_seed_gives_the_same_images() -> None:
    network, images = small_network(), images_near_grey(30)
    labels = network(images).argmax(1)
    threat, rows = threat_of("Linf", 0.005), torch.arange(30)
    first, second = (adaptive(network, images, labels, threat, seed=1) for _ in range(2))
    assert torch.equal(first, second)
    model = as_counted(network, images)
    starts = [Cascade(model, images, labels, threat, seed, 100).anywhere(rows) for seed in (1, 2)]
    assert not torch.equal(*starts)


def test_rough_gradients_never_decide() -> None:
    """A rough form that sees success everywhere: nothing counts but the model's own word."""
    network, images = small_network(), images_near_grey(12)
    with torch.no_grad():
        labels = network(images).argmax(1)
    liar = Adapter(Function(lambda x: -network(x)), 5)
    model = Counted(Adapter(network, 5), len(images), fast=liar)
    search = Search(model, images, labels, threat_of("Linf", 0.001))
    climb = Objective(lambda seen: logit_margin(seen.logits, seen.labels))
    search.ascend(search.alive(), images, climb, cosine(0.001, 3))
    honest = margins(network, search.best, labels) > 0
    assert torch.equal(search.broken, honest)
    assert not search.broken.all()


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_few_and_many_classes(classes: int) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn((classes, 64), generator=generator)
    model, images = Function(lambda x: (x.flatten(1) - 0.5) @ weight.T), images_near_grey(20)
    labels = model(images).argmax(1)
    found = adaptive(model, images, labels, threat_of("Linf", 0.2))
    assert (margins(model, found, labels) > 0).all()


def test_step_sizes_fall_from_twice_the_radius() -> None:
    schedule = cosine(0.1, 10)
    assert schedule[0].size == pytest.approx(0.2)
    assert all(second.size < first.size for first, second in pairwise(schedule))
    assert schedule[-1].size > 0
    assert {step.radius for step in schedule} == {0.1}


def test_shrinking_balls_end_in_the_smallest() -> None:
    schedule = shrinking(0.1, 30)
    assert len(schedule) == 30
    radii = [step.radius for step in schedule]
    assert radii == pytest.approx([0.6] * 9 + [0.2] * 10 + [0.1] * 11)


def test_only_images_in_the_ball_break_a_sample() -> None:
    """In the larger balls of a shrinking schedule all samples are adversarial; in ε none can be."""
    weight = torch.linspace(-1, 1, 64)
    model = Function(lambda x: torch.stack([halves(x)[0] + 1, (x.flatten(1) - 0.5) @ weight], 1))
    images = images_near_grey(10)
    labels = model(images).argmax(1)
    found = adaptive(model, images, labels, threat_of("L2", 0.1))
    assert norms(found - images, "L2").max() <= 0.1 + 1e-6
    assert (margins(model, found, labels) <= 0).all()
