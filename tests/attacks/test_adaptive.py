"""The adaptive cascade: against known smallest perturbations, and what only one stage breaks."""

import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks.adaptive import adaptive, adaptive_result
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.code import code_of_module, what_runs
from robusteval.attacks.counting import BACKWARD, Counted, as_counted
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.results import AttackResult, Stage, Warned, said
from robusteval.attacks.search import MARGIN, Search, cosine
from robusteval.attacks.steps import norms
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.backbones import Backbone
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.types import Norm
from tests.helpers.known import (
    Function,
    Known,
    Misleading,
    images_near_grey,
    in_threat,
    linear,
    margins,
    nearest_prototypes,
    pixel_prototypes,
    small_network,
    threat_of,
)

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


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("per_class", [1, 3])
def test_nearest_prototypes_break_at_the_certified_distance(norm: Norm, per_class: int) -> None:
    """By quadratic and linear programs, where several prototypes may hold a sample."""
    broken_at_the_median(nearest_prototypes(norm, per_class))


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


# Each stage earns its place: what only it breaks, or only it for so few passes


def told(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float = 0.1,
    passes_per_sample: int = 240,
    without: str = "",
) -> dict[str, int]:
    """What each stage broke, all but the one to do ``without``.

    Cutting planes break at once what shows other stages' worth here, on models as simple as these.
    """
    counted = as_counted(model, images)
    cascade = Cascade(counted, images, labels, threat_of("Linf", eps), 0, passes_per_sample)
    cascade.left_out = frozenset({without, "pieces"})
    return broken_by_stage(cascade.run().stages)


def broken_by_stage(stages: list[Stage]) -> dict[str, int]:
    """What each stage broke, from what ``adaptive`` tells; AutoAttack's members are part of it."""
    return {stage.name: stage.broke for stage in stages if "'s " not in stage.name}


def kinds(result: AttackResult) -> list[str]:
    return [warned.kind for warned in result.warned]


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
    # Its worth is in passes: for so few, no other gradients get there.
    assert told(model, images, labels, passes_per_sample=12) == {"margin": 20}
    others = told(model, images, labels, passes_per_sample=12, without="margin")
    assert others.pop("square") > 0  # queries, which come on top
    assert sum(others.values()) == 0


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
    others = told(model, images, labels, without="aim")
    assert others["flip"] == others["polish"] == 0  # random queries, many of them, find the way


def lifted_blocks(eps: float, side: int = 2, needed: int = 10) -> Function:
    """Class 1 needs ten of sixteen 2 × 2 blocks light or dark, as on a chessboard, by nearly ε.

    Short of that the slope leads away, and stripes lift half of the blocks at most.
    """
    sign = torch.ones(8 // side, 8 // side)
    sign[::2, ::2] = sign[1::2, 1::2] = -1

    def logits(x: Tensor) -> Tensor:
        blocks = nn.functional.avg_pool2d(x - 0.5, side)[:, 0] * sign
        lifted = torch.relu(blocks - 0.7 * eps).flatten(1).sum(1) / (0.3 * eps)
        wrong = lifted - needed + 1 - 0.1 * blocks.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(wrong), wrong], 1)

    return Function(logits)


def test_flip_breaks_what_has_no_slope_until_it_is_nearly_there() -> None:
    images = images_near_grey(8)
    labels = torch.zeros(8, dtype=torch.long)
    broken = told(lifted_blocks(0.1), images, labels, passes_per_sample=1000)
    assert broken["margin"] == 0
    assert broken["flip"] >= 6
    assert broken.get("aim", 0) == broken.get("polish", 0) == 0
    assert sum(broken.values()) == 8
    others = told(lifted_blocks(0.1), images, labels, passes_per_sample=1000, without="flip")
    assert sum(others.values()) <= 1


@pytest.mark.parametrize(("side", "needed", "count"), [(2, 10, 40), (2, 11, 3), (1, 57, 8)])
def test_what_random_search_finds_alone_is_masked(side: int, needed: int, count: int) -> None:
    """It is told, and more of the search leaves fewer than AutoAttack, whose Square begins anew."""
    model, images = lifted_blocks(0.1, side, needed), images_near_grey(count)
    labels, threat = torch.zeros(count, dtype=torch.long), threat_of("Linf", 0.1)
    theirs = autoattack(model, images, labels, threat, seed=0).images
    for seed in (0, 1):
        found = adaptive_result(model, images, labels, threat, seed=seed)
        assert kinds(found)[0] == "searched"
        left = int((margins(model, found.images, labels) <= 0).sum())
        assert left <= min(int((margins(model, theirs, labels) <= 0).sum()), 2)


def test_polish_goes_on_with_random_search_where_that_paid() -> None:
    """On those that ``flip``, which takes the eight nearest, had no time for."""
    model, images = lifted_blocks(0.1, side=1, needed=57), images_near_grey(16)
    labels = torch.zeros(16, dtype=torch.long)
    broken = told(model, images, labels, passes_per_sample=2000, without="aim")
    assert broken["margin"] == 0
    assert 1 <= broken["flip"] <= 8
    assert broken["flip"] + broken["polish"] == 16


def stairs(prototypes: list[list[list[float]]]) -> PrototypeAdapter:
    """Two features, and a head that says which is larger, and nothing of by how much."""

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

    head = Head(layers=["fc"], prototypes_per_class=len(prototypes[0]))
    network = PrototypeNetwork(Halves(), head, 2, [0.0], [1.0])
    network.classifier = Stairs()  # type: ignore[assignment]
    network.prototypes["fc"].data.copy_(torch.tensor(prototypes))
    model = PrototypeAdapter(network)
    model.class_distances = lambda: None  # type: ignore[method-assign]
    return model


def test_pull_breaks_what_the_classifier_masks() -> None:
    """A head that saturates hides the way; the prototypes in feature space still show it."""
    model, images = stairs([[[0.1, -0.1]], [[-0.1, 0.1]]]), images_near_grey(6)
    labels = model(images).argmax(1)
    broken = told(model, images, labels, without="through")
    assert broken["margin"] == broken["aim"] == 0
    assert broken["pull"] == 6 - broken["square"] >= 3
    assert "more steps" not in broken
    assert told(model, images, labels) == {"margin": 6}  # straight through it from the first step


def test_pull_goes_past_a_decoy() -> None:
    """A wrong prototype that is nearer, but along the stairs, leads nowhere."""
    own, decoy, way = [0.1, -0.1], [0.2, 0.0], [-0.3, 0.3]
    model = stairs([[own, own], [decoy, way]])
    images = images_near_grey(6)
    labels = model(images).argmax(1)
    broken = told(model, images, labels, without="through")
    assert broken["margin"] == broken["aim"] == 0
    assert broken["pull"] == 6 - broken["square"] >= 3


def test_a_model_without_gradients_is_told_and_broken() -> None:
    """Rounded inputs: gradients that pass straight through lead from the first step."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(64, generator=generator)

    def logits(x: Tensor) -> Tensor:
        score = ((x * 20).round() / 20 - 0.5).flatten(1) @ weight
        return torch.stack([score + 0.5, -score - 0.5], 1)

    model, images = Function(logits), images_near_grey(10)
    labels = model(images).argmax(1)
    result = adaptive_result(model, images, labels, threat_of("Linf", 0.15))
    assert (margins(model, result.images, labels) > 0).all()
    assert "dead" in kinds(result)
    assert broken_by_stage(result.stages) == {"margin": 10}


def noisy(scale: float, gap: float) -> Function:
    """Two classes a gap apart at grey, each pass with noise of its own."""
    generator = torch.Generator().manual_seed(4)

    def logits(x: Tensor) -> Tensor:
        noise = scale * torch.randn(len(x), generator=generator)
        first, second = halves(x)
        return torch.stack([first + gap / 2 + noise, second - gap / 2 - noise], 1)

    return Function(logits)


def test_a_random_model_is_told_and_attacked_by_all_means() -> None:
    model, images = noisy(0.02, 0.6), images_near_grey(4)
    result = adaptive_result(
        model, images, torch.zeros(4, dtype=torch.long), threat_of("Linf", 0.05)
    )
    assert result.warned[0] == Warned("random", stages=("more steps", "AutoAttack"))
    assert said(result.warned[1]).startswith("adaptive: 4 to 4 of 4 samples, 4.0 on average")
    stages = [stage.name for stage in result.stages]
    assert "AutoAttack's apgd-ce" in stages
    assert stages[:5] == ["margin", "flip", "aim", "polish", "square"]
    assert "square" not in stages[5:]  # AutoAttack's "rand" has none


def test_one_lucky_pass_breaks_no_random_model() -> None:
    """At ε the way is far enough that nearly every pass is fooled; a lucky pass needs none."""
    model, images = noisy(0.1, 0.2), images_near_grey(40)
    labels, threat = torch.zeros(40, dtype=torch.long), threat_of("Linf", 0.3)
    found = adaptive_result(model, images, labels, threat)
    fooled = torch.stack([margins(model, found.images, labels) > 0 for _ in range(20)])
    assert fooled.double().mean() > 0.9
    assert found.warned[0] == Warned("random")  # nothing more was needed
    assert kinds(found) == ["random", "luck"]


def test_shattered_gradients_are_told_and_smoothed_over() -> None:
    """A ripple, too small to matter and too steep to see past, over a linear model."""
    known = linear("Linf", 3)
    rippled = Function(lambda x: known.model(x + 0.002 * torch.sin(3000 * x)))
    radius = 1.2 * float(known.smallest.max())
    result = adaptive_result(rippled, known.images, known.labels, threat_of("Linf", radius))
    (warned,) = result.warned
    assert warned.kind == "turning"
    assert -1 <= warned.number < 0.6
    assert (margins(rippled, result.images, known.labels) > 0).all()
    assert result.stages[-1].name == "more steps"  # the last of them, and not a few
    assert result.stages[-1].of > 10


@pytest.mark.parametrize(
    ("norm", "facts_by", "stage"),
    [
        ("Linf", "searched", "more search"),
        ("L2", "queried", "AutoAttack"),
    ],
)
def test_gradients_that_lie_are_told(norm: Norm, facts_by: str, stage: str) -> None:
    """Gradients that point the wrong way are neither zero nor shattered."""
    known = linear(norm, 3)
    model = Function(lambda x: known.model(Misleading.apply(x)))
    threat = threat_of(norm, (2 if norm == "Linf" else 6) * float(known.smallest.max()))
    result = adaptive_result(model, known.images, known.labels, threat)
    assert facts_by in kinds(result)
    assert broken_by_stage(result.stages)[stage] > 5
    assert (margins(model, result.images, known.labels) > 0).double().mean() > 0.9


def test_without_queries_gradients_that_lie_are_believed_in_l2() -> None:
    """No other stage notices, and random starts are all that breaks some."""
    known = linear("L2", 3)
    model = as_counted(Function(lambda x: known.model(Misleading.apply(x))), known.images)
    threat = threat_of("L2", 2 * float(known.smallest.max()))
    for without in ("square", ""):
        cascade = Cascade(model, known.images, known.labels, threat, seed=0, passes_per_sample=400)
        cascade.left_out = frozenset({without})
        result = cascade.run()
        left = margins(model, result.images, known.labels) <= 0
        assert bool(result.warned) is (without == "")
        if without:
            assert left.double().mean() > 0.6
        else:
            assert not left.any()


def decoy_that_only_larger_balls_outgrow(eps: float) -> tuple[Function, Tensor]:
    """Within ε the slope is towards a decoy that never breaks anything and saturates at 1.5 ε; the
    other direction is all but flat up to 0.3 ε, and breaks at 0.6 ε.  Four of 24 images are out of
    reach."""
    generator = torch.Generator().manual_seed(0)
    decoy, way = torch.linalg.qr(torch.randn((63, 2), generator=generator))[0].T

    def logits(images: Tensor) -> Tensor:
        first, rest = images.flatten(1).tensor_split([1], dim=1)
        towards, along = (rest - 0.5) @ decoy, (rest - 0.5) @ way
        reached = 0.15 * eps * torch.tanh(towards / (1.5 * eps))
        reached = reached + 0.01 * along + (along - 0.3 * eps).relu()
        margin = reached - 0.3 * eps - 9.0 * (first[:, 0] > 0.5)
        return torch.stack([-margin, margin], 1)

    images = torch.full((24, 1, 8, 8), 0.5)
    images[:, 0, 0, 0] = 0
    images[:4, 0, 0, 0] = 1
    return Function(logits), images


def test_what_only_larger_balls_lead_to_is_masked() -> None:
    """Ascents that never leave the ball find nothing, as PGD-L2 would."""
    eps = 0.4
    model, images = decoy_that_only_larger_balls_outgrow(eps)
    labels, threat = torch.zeros(24, dtype=torch.long), threat_of("L2", eps)
    inside = Search(as_counted(model, images), images, labels, threat)
    inside.ascend(inside.alive(), images, MARGIN, cosine(eps, 40))
    assert not inside.broken.any()
    result = adaptive_result(model, images, labels, threat)
    assert (margins(model, result.images, labels) > 0).tolist() == 4 * [False] + 20 * [True]
    (warned,) = result.warned
    assert warned == Warned("outdone", 0.83, ("through", "more steps", "inward", "AutoAttack"))
    assert said(warned) == (
        "adaptive: 83 % of samples break only by ascents through larger balls; "
        "went on with through, more steps, inward, AutoAttack"
    )


def test_what_both_kinds_of_ascent_break_is_not_masked() -> None:
    known = linear("L2", 3)
    threat = threat_of("L2", 1.2 * float(known.smallest.median()))
    result = adaptive_result(known.model, known.images, known.labels, threat)
    assert result.stages[0].name == "margin"
    assert not result.warned


def test_a_budget_for_nothing_says_nothing_of_masking() -> None:
    """A few queries break what a single step could not: no reason to doubt gradients."""
    known = linear("Linf", 3)
    threat = threat_of("Linf", 1.1 * float(known.smallest.max()))
    images = 0.5 + 0 * known.images
    labels = known.model(images).argmax(1)
    for budget in (3, 30):
        found = adaptive_result(known.model, images, labels, threat, passes_per_sample=budget)
        assert not found.warned


@pytest.mark.parametrize(("budget", "doubted"), [(60, False), (115, False), (116, True)])
def test_queries_tell_of_masking_where_gradients_had_more_passes(
    budget: int, doubted: bool
) -> None:
    """Two for each query, after the first stage; here only queries break anything."""
    known = linear("Linf", 3)
    threat = threat_of("Linf", 1.1 * float(known.smallest.max()))
    counted = as_counted(known.model, known.images)
    cascade = Cascade(counted, known.images, known.labels, threat, 0, budget)
    cascade.left_out = frozenset({"margin", "pieces", "flip", "aim", "polish"})
    result = cascade.run()
    assert result.stages[0].name == "square"
    assert result.stages[0].broke > 0
    assert ("queried" in kinds(result)) == doubted


def far_class_among_near_ones() -> tuple[PrototypeAdapter, Tensor, float]:
    """Ten prototypes close to the own one, on its far side, and one across that is in reach.

    The ten have the larger logits, and none can win within ε.
    """
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(0, 2, (64,), generator=generator) * 2.0 - 1
    across = sign * torch.tensor([1.0, -1.0]).repeat(32)  # orthogonal to it
    near = [-0.005 * sign * (1 + 0.02 * k) for k in range(10)]
    prototypes = 0.5 + torch.stack([torch.zeros(64), *near, 0.06 * across])

    noise = 0.002 * torch.randn((12, 64), generator=generator)
    images = (0.5 + 0.08 * sign + noise).view(12, 1, 8, 8)
    return pixel_prototypes(prototypes[:, None]), images, 0.04


def test_ranks_by_distance_find_the_class_that_logits_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more classes than are tried the one in reach is by its logit the last."""
    model, images, eps = far_class_among_near_ones()
    labels = torch.zeros(12, dtype=torch.long)
    assert (model(images).argmax(1) == 0).all()
    broken = told(model, images, labels, eps)
    assert broken["margin"] == 0
    assert broken["aim"] == 12
    monkeypatch.setattr(PrototypeAdapter, "class_distances", lambda _: None)
    assert told(model, images, labels, eps)["aim"] == 0


def test_more_steps_break_what_only_dearer_stages_would() -> None:
    """Along gradients averaged over a ripple; without them it takes search or AutoAttack."""
    known = linear("Linf", 3)
    rippled = Function(lambda x: known.model(x + 0.002 * torch.sin(3000 * x)))
    radius = 1.2 * float(known.smallest.max())
    whole = told(rippled, known.images, known.labels, radius)
    others = told(rippled, known.images, known.labels, radius, without="more steps")
    assert whole["more steps"] > 10
    assert whole.get("AutoAttack", 0) == 0
    assert others["more search"] + others.get("AutoAttack", 0) > 10


# Bookkeeping


def test_what_rough_gradients_stall_at_is_polished_by_the_models_own() -> None:
    """A fast form that gives no gradient: only the nearest, eight of ten here, move at all.

    A tenth of the budget is kept for them.
    """
    known = linear("Linf", 3)
    rows = known.smallest.argsort()[:10]
    images, labels = known.images[rows], known.labels[rows]
    flat = Adapter(Function(lambda x: known.model(x.detach()) + 0 * x.sum()), 3)
    counted = Counted(Adapter(known.model, 3), len(rows), fast=flat)
    threat = threat_of("Linf", 1.05 * float(known.smallest[rows].max()))
    cascade = Cascade(counted, images, labels, threat, seed=0, passes_per_sample=1000)
    cascade.left_out = frozenset({"pieces", "square", "flip"})
    result = cascade.run()
    assert broken_by_stage(result.stages)["polish"] == 8
    assert (margins(known.model, result.images, labels) > 0).sum() >= 8


def test_the_budget_is_kept_and_passes_are_counted_one_by_one() -> None:
    network, images = small_network(), images_near_grey(40)
    seen = {"forward": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["forward"] += len(inputs[0])

    network.register_forward_pre_hook(count)
    with torch.no_grad():
        labels = network(images).argmax(1)
    seen["forward"] = 0
    for budget in (30, 100, 400):
        model = Counted(Adapter(network, 5), len(images))
        found = adaptive(model, images, labels, threat_of("Linf", 0.01), passes_per_sample=budget)
        alive = margins(network, found, labels) <= 0
        used = model.forward_passes + BACKWARD * model.backward_passes
        assert alive.sum() >= 10
        assert used[alive].mean() <= budget + 45  # the budget, and the queries on a few of them
        assert used[alive].mean() > budget / 2
        assert int(model.forward_passes.sum()) == seen["forward"] - len(images)
        seen["forward"] = 0


def test_what_was_spent_before_is_no_reason_to_stop() -> None:
    """Not on other samples, where a batch is halved, nor on the same, where it is tried again."""
    network, images = small_network(), images_near_grey(40)
    labels, threat = network(images).argmax(1), threat_of("Linf", 0.01)
    first, second = torch.arange(20), torch.arange(20, 40)
    alone = adaptive_result(network, images[second], labels[second], threat)
    assert [stage.name for stage in alone.stages[:3]] == ["margin", "pieces", "flip"]
    counted = Counted(Adapter(network, 5), len(images))
    for rows in (first, second, second):
        with counted.attending(rows):
            found = adaptive_result(counted, images[rows], labels[rows], threat)
    assert found.stages == alone.stages
    assert torch.equal(found.images, alone.images)
    tallied = adaptive_result(Counted(Adapter(network, 5)), images[second], labels[second], threat)
    assert tallied.stages[:3] == alone.stages[:3]


@pytest.mark.parametrize(
    ("classes", "budget", "most"), [(10, 200, 250), (10, 400, 500), (2, 400, 240)]
)
def test_ascents_in_vain_come_to_an_end(classes: int, budget: int, most: int) -> None:
    """On a model that nothing breaks, before the budget is spent."""

    def logits(x: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(x), 1), 0.1 * x.flatten(1)[:, : classes - 1]], 1)

    model, images = Function(logits), images_near_grey(128)
    counted, labels = as_counted(model, images), torch.zeros(128, dtype=torch.long)
    cascade = Cascade(counted, images, labels, threat_of("Linf", 0.01), 0, budget)
    cascade.run()
    most_more = 39 if classes > 2 else 128  # the share that a round begins with, or all
    assert most <= cascade.vain < most + most_more
    assert counted.passes(128).mean() < budget


def test_the_digest_tells_code_from_words() -> None:
    """A changed constant is another attack; a changed docstring or comment is not."""
    plain = what_runs("def f():\n    return 1\n")
    assert what_runs('"""New."""\n\n\ndef f():\n    """Told."""\n    return 1  # why\n') == plain
    assert what_runs("def f():\n    return 2\n") != plain
    assert len(code_of_module("robusteval.attacks.adaptive")) == 16


def test_the_same_seed_gives_the_same_images() -> None:
    network, images = small_network(), images_near_grey(30)
    labels = network(images).argmax(1)
    threat, rows = threat_of("Linf", 0.005), torch.arange(30)
    first, second = (adaptive(network, images, labels, threat, seed=1) for _ in range(2))
    assert torch.equal(first, second)
    model = as_counted(network, images)
    starts = [Cascade(model, images, labels, threat, seed, 100).anywhere(rows) for seed in (1, 2)]
    assert not torch.equal(*starts)


def test_only_images_in_the_ball_break_a_sample() -> None:
    """In the larger balls of a shrinking schedule all samples are adversarial; in ε none can be."""
    weight = torch.linspace(-1, 1, 64)
    model = Function(lambda x: torch.stack([halves(x)[0] + 1, (x.flatten(1) - 0.5) @ weight], 1))
    images = images_near_grey(10)
    labels = model(images).argmax(1)
    found = adaptive(model, images, labels, threat_of("L2", 0.1))
    assert norms(found - images, "L2").max() <= 0.1 + 1e-6
    assert (margins(model, found, labels) <= 0).all()


def test_masking_is_said_aloud() -> None:
    """By a warning, since images alone tell nothing of it."""
    model, images = small_network(), images_near_grey(12)
    masked = Function(lambda x: model((64 * x).round() / 64))
    labels = masked(images).argmax(1)
    with pytest.warns(UserWarning, match="have no gradient; went on with"):
        adaptive(masked, images, labels, threat_of("Linf", 0.02), passes_per_sample=30)


def test_small_gradients_are_not_taken_for_shattered_ones() -> None:
    """Steps are signs: a model's scale changes nothing, and is no reason to go on."""
    known = linear("Linf", 3)
    threat = threat_of("Linf", float(known.smallest.median()))
    results = []
    for scale in (1.0, 1e-12):
        model = Function(lambda x, scale=scale: scale * known.model(x))
        results.append(adaptive_result(model, known.images, known.labels, threat))
    assert results[1].warned == []
    broken = [margins(known.model, r.images, known.labels) > 0 for r in results]
    assert torch.equal(*broken)


def test_luck_does_not_break_a_random_model() -> None:
    """Noise that fools one mean of eight passes in some hundreds is no adversarial image."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.tensor([1.2, 0.0])
    model = Function(lambda x: clean + torch.randn((len(x), 2), generator=generator))
    search = Search(
        as_counted(model, images_near_grey(8)),
        images_near_grey(8),
        torch.zeros(8, dtype=torch.long),
        threat_of("Linf", 0.1),
    )
    search.votes = 8
    rows = search.alive()
    for _ in range(200):
        search.judge(rows, search.images)
    assert not search.broken.any()


@pytest.mark.parametrize(("gap", "breaks"), [(-0.02, False), (0.3, True)])
def test_a_random_models_success_is_confirmed_by_fresh_passes(gap: float, breaks: bool) -> None:
    """One of many tries has a lucky mean of 32 passes; noise has a spread of 0.4 around the gap."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.tensor([0.0, gap])
    model = Function(lambda x: clean + 0.3 * torch.randn((len(x), 2), generator=generator))
    images, labels = images_near_grey(4), torch.zeros(4, dtype=torch.long)
    search = Search(as_counted(model, images), images, labels, threat_of("Linf", 0.1))
    search.votes = 8
    for _ in range(8):
        search.judge(search.alive(), images[search.alive()])
    assert search.broken.all() if breaks else not search.broken.any()
