"""The papers' recipes: each trains a small network, and holds what its paper says of it."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import TrainingError
from robusteval.models.adapter import PrototypeAdapter
from robusteval.models.backbones import BACKBONES
from robusteval.models.entry_tables import Adversarial, Training
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.training import train  # noqa: F401 - registers the recipes
from robusteval.training.adversarial import FreeSteps, chosen_by, craft
from robusteval.training.drp import repulsive_prototypes
from robusteval.training.loop import Trainer, accuracy_of
from robusteval.training.mpat import merge_prototypes
from robusteval.training.prototype_losses import repulsion
from robusteval.training.recipe import RECIPES, class_means

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    return load_dataset("digits", "train").split_off(200)


def network_for(reading: str, layers: tuple[str, ...], **head: Any) -> PrototypeNetwork:
    torch.manual_seed(0)
    backbone = BACKBONES.get("cnn6")(1, widths=[8, 16, 32], hidden=[32, 16], kernel_size=3)
    return PrototypeNetwork(
        backbone, Head(reading=reading, layers=list(layers), **head), 10, [0.305], [0.376]
    )


def settings_for(recipe: str, epochs: int = 4, **fields: Any) -> Training:
    base: dict[str, Any] = {"lr": 0.03, "batch_size": 64, "validation": 200}
    return Training(recipe=recipe, epochs=epochs, **{**base, **fields})


NEAREST = {"reading": "nearest_prototype", "layers": ("fc2",)}
SOFTMAX = {"reading": "softmax", "layers": ("fc2",)}
DEEP = {"reading": "softmax", "layers": ("conv3", "fc1", "fc2")}
# Recipe, network, options.
METHODS: dict[str, tuple[str, Mapping[str, Any], dict[str, Any]]] = {
    "scpl": ("scpl", {**NEAREST, "similarity": "l2", "prototypes_per_class": 2}, {}),
    "scpl, trained by l1": ("scpl", {**NEAREST, "similarity": "l2"}, {"similarity": "l1"}),
    "scpl, trained by dot": ("scpl", {**NEAREST, "similarity": "dot"}, {"similarity": "dot"}),
    "drp": ("drp", {**NEAREST, "branch_dims": {"fc2": 40}, "similarity": "cosine"}, {}),
    "drp in L∞": (
        "drp",
        {**NEAREST, "branch_dims": {"fc2": 40}, "similarity": "cosine"},
        {"metric": "linf"},
    ),
    "drp, linear": (
        "drp",
        {**NEAREST, "branch_dims": {"fc2": 40}, "similarity": "l2"},
        {"similarity": "linear", "radius": 2.0},
    ),
    "mpat": ("mpat", {**SOFTMAX, "prototypes_per_class": 3}, {}),
    "gcpl": ("gcpl", {**NEAREST, "branch_dims": {"fc2": 32}}, {}),
    "dce": ("gcpl", {**NEAREST, "branch_dims": {"fc2": 32}}, {"encoding_weight": 0.0}),
    "atl": ("auxiliary", SOFTMAX, {"metric": "triplet", "norm_weight": 0.001}),
    "anl": ("auxiliary", SOFTMAX, {"metric": "n_pair", "norm_weight": 0.001}),
    "centre": ("auxiliary", DEEP, {"metric": "centre", "weight": 0.01}),
    "contrastive": ("auxiliary", DEEP, {"metric": "contrastive"}),
    "triplet": ("auxiliary", DEEP, {"metric": "triplet"}),
    "proxy_nca": ("auxiliary", SOFTMAX, {"metric": "proxy_nca"}),
    "proxy_anchor": ("auxiliary", SOFTMAX, {"metric": "proxy_anchor"}),
}


# Learning rate and epochs, where they are not 0.03 and 6.
PACE = {"anl": (0.01, 6), "drp in L∞": (0.03, 14), "drp, linear": (0.1, 20)}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name: str, parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    recipe_name, head, options = METHODS[name]
    network = network_for(**head)  # type: ignore[arg-type]
    lr, epochs = PACE.get(name, (0.03, 6))
    settings = settings_for(recipe_name, epochs=epochs, options=options, lr=lr)
    recipe = RECIPES.get(recipe_name)(network, settings)
    lines = list(Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"))
    assert lines[-1].loss < lines[0].loss
    assert accuracy_of(network, parts[1]) > 0.75, [line.validation_accuracy for line in lines]


@pytest.mark.parametrize(
    ("recipe", "head", "options", "said"),
    [
        ("scpl", SOFTMAX, {}, "nearest_prototype"),
        ("gcpl", SOFTMAX, {}, "nearest_prototype"),
        ("drp", SOFTMAX, {}, "nearest_prototype"),
        ("drp", {**NEAREST, "prototypes_per_class": 2}, {}, "one prototype"),
        ("drp", NEAREST, {}, "multiple|divide"),
        ("drp", NEAREST, {"metric": "l1"}, "metric"),
        ("drp", NEAREST, {"similarity": "dot"}, "similarity"),
        ("mpat", NEAREST, {}, "softmax"),
        ("auxiliary", NEAREST, {}, "softmax"),
        ("auxiliary", SOFTMAX, {"metric": "triplets"}, "triplet"),
        ("auxiliary", SOFTMAX, {"anchors": "adversarial"}, "TLA"),
        ("auxiliary", {**SOFTMAX, "prototypes_per_class": 3}, {"metric": "centre"}, "one proto"),
        ("scpl", NEAREST, {"similarity": "euclid"}, "similarity = 'euclid': it takes one of l2"),
        ("pcl", DEEP, {"weighting": "papr"}, "bounded, paper"),
        ("pcl", DEEP, {"centres": "classmeans"}, "normal, class_means"),
        ("pcl", DEEP, {"tau": "much"}, "tau = 'much': it takes a number from 0 up"),
        ("pcl", DEEP, {"tau": -1.0}, "from 0 up"),
        ("pcl", DEEP, {"tau": True}, "from 0 up"),
        ("drp", NEAREST, {"radius": 0.0}, "a number above 0"),
        ("mpat", SOFTMAX, {"gamma": 0.0}, "a number above 0"),
        ("auxiliary", SOFTMAX, {"wieght": 1.0}, "weight"),
        ("ce", SOFTMAX, {"tau": 1.0}, "none"),
    ],
)
def test_what_a_recipe_cannot_train_is_refused(
    recipe: str, head: Mapping[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        RECIPES.get(recipe)(network_for(**head), settings_for(recipe, options=options))


# DRP


@pytest.mark.parametrize("metric", ["l2", "linf"])
def test_repulsive_prototypes_are_far_apart_and_in_their_ball(metric: str) -> None:
    order = 2.0 if metric == "l2" else torch.inf
    first, second = torch.triu_indices(10, 10, 1)

    def apart(steps: int) -> torch.Tensor:
        centres = repulsive_prototypes(10, 50, metric, 8.0, steps, 0.01, seed=0)
        assert centres.norm(p=order, dim=1).max() <= 8 + 1e-4
        return (centres[first] - centres[second]).norm(p=order, dim=1)

    assert apart(400).mean() > apart(0).mean()
    if metric == "l2":  # a regular simplex on the sphere: every pair √(2·10/9)·ε apart
        torch.testing.assert_close(
            apart(2000), torch.full((45,), 8 * (20 / 9) ** 0.5), rtol=0.01, atol=0
        )


def test_drps_prototypes_are_frozen(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    network = network_for(**NEAREST, branch_dims={"fc2": 40}, similarity="cosine")  # type: ignore[arg-type]
    settings = settings_for("drp", epochs=1)
    recipe = RECIPES.get("drp")(network, settings)
    before = network.prototypes["fc2"].clone()
    list(Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"))
    assert torch.equal(network.prototypes["fc2"], before)


def test_repulsion_by_hand_and_its_slope() -> None:
    """Three points: sides 3, 4 and 5 in L2, and 3, 4, 4 in L∞ (eq. 5)."""
    centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    assert repulsion(centres, "l2") == pytest.approx(-12)
    assert repulsion(centres, "linf") == pytest.approx(-11)
    points = torch.randn((4, 6), dtype=torch.float64, requires_grad=True)
    for metric in ("l2", "linf"):
        assert torch.autograd.gradcheck(lambda c, m=metric: repulsion(c, m), points)  # type: ignore[misc]


# Prototypes and proxies of which only the direction counts


@pytest.mark.parametrize("name", ["mpat", "proxy_nca", "proxy_anchor"])
def test_prototypes_turn_towards_their_class(
    name: str, parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """At unit length, and far from where they began; random ones don't classify, these do."""
    recipe_name, head, options = METHODS[name]
    network = network_for(**{**head, "similarity": "cosine"})  # type: ignore[arg-type]
    settings = settings_for(recipe_name, epochs=8, options=options)
    recipe = RECIPES.get(recipe_name)(network, settings)
    before = network.prototypes["fc2"].detach().clone()
    torch.testing.assert_close(before.norm(dim=2), torch.ones(before.shape[:2]))
    list(Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"))
    after = network.prototypes["fc2"].detach()
    torch.testing.assert_close(after.norm(dim=2), torch.ones(after.shape[:2]))
    assert torch.rad2deg((before * after).sum(2).clamp(-1, 1).acos()).mean() > 20
    nearest = PrototypeAdapter(network.eval()).distances(parts[1].images()).amin(2).argmin(1)
    assert (nearest == parts[1].labels).double().mean() > 0.75


def distinct_prototypes(prototypes: Tensor) -> list[int]:
    """How many different prototypes each class has."""
    return [len(torch.unique(own, dim=0)) for own in prototypes]


def test_prototypes_merge_at_the_default_settings(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    network = network_for(**{**SOFTMAX, "prototypes_per_class": 5})  # type: ignore[arg-type]
    settings = settings_for("mpat", epochs=20)
    recipe = RECIPES.get("mpat")(network, settings)
    list(Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"))
    assert sum(distinct_prototypes(network.prototypes["fc2"])) < 45


def test_distances_of_a_cosine_head_are_between_unit_vectors() -> None:
    network = network_for(**{**SOFTMAX, "similarity": "cosine"}).eval()  # type: ignore[arg-type]
    model, images = PrototypeAdapter(network), torch.rand((5, 1, 8, 8))
    features = F.normalize(model.embed(images), dim=1)
    expected = torch.cdist(features, F.normalize(network.prototypes["fc2"][:, 0], dim=1)).square()
    squared = model.logits_and_distances(images)[1]["fc2"][:, :, 0]
    torch.testing.assert_close(squared, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.distances(images)[:, :, 0], expected / 2, atol=1e-5, rtol=1e-4)


# Triplets


@pytest.mark.parametrize("metric", ["n_pair", "contrastive", "triplet", "centre"])
def test_any_metric_trains_on_clean_and_crafted_images(
    metric: str, parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    chosen = adversarial("fast", step_size=1.0)  # with_clean is the default
    settings = settings_for("auxiliary", epochs=1, options={"metric": metric}, adversarial=chosen)
    network = network_for(**SOFTMAX)  # type: ignore[arg-type]
    recipe, expected = RECIPES.get("auxiliary")(network, settings), []
    loss_of, data = recipe.loss, parts[0].balanced_subset(200)

    def spied(
        network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        if network.training:  # not while images are crafted
            features = network.supervised_features(layers)["fc2"].detach()
            first, second = labels.chunk(2)
            assert torch.equal(first, second)
            assert not torch.equal(*features.chunk(2))
            draws = torch.get_rng_state()
            metric_loss = by_hand(metric, features, labels, network.prototypes["fc2"][:, 0])
            torch.set_rng_state(draws)
            plain = F.cross_entropy(network.logits(layers), labels)
            expected.append(((plain + 0.1 * metric_loss).item(), len(labels)))
        return loss_of(network, layers, labels, epoch)

    recipe.loss = spied  # type: ignore[method-assign]
    (line,) = Trainer(network, recipe, data, parts[1], settings).fit(tmp_path / "c.safetensors")
    assert [count for _, count in expected] == [128, 128, 128, 16]  # clean and crafted ones
    mean = sum(loss * count for loss, count in expected) / 400
    assert line.loss == pytest.approx(mean, rel=1e-4)


def by_hand(metric: str, features: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The metric's loss by its definition, over all pairs of a batch."""
    if metric == "centre":
        return 0.5 * (features - centres.detach()[labels]).square().sum(1).mean()
    if metric == "n_pair":  # of each class the first two, in an order that is drawn
        order = torch.randperm(len(labels))
        features, labels = features[order], labels[order]
        pairs = [torch.nonzero(labels == k)[:2, 0] for k in labels.unique()]
        first, second = torch.stack([pair for pair in pairs if len(pair) == 2]).T
        products = features[first] @ features[second].T
        return F.cross_entropy(products, torch.arange(len(first)))
    unit = F.normalize(features, dim=1)
    same = labels[:, None] == labels[None]
    if metric == "triplet":
        cosines, itself = unit @ unit.T, torch.eye(len(labels)).bool()
        hardest = cosines.masked_fill(~same | itself, 2).amin(1)
        gaps = cosines.masked_fill(same, -2).amax(1) - hardest + 0.2
        gaps = gaps[(hardest < 2) & (gaps > 0)]
        return gaps.mean() if len(gaps) else gaps.sum()
    apart = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    near, far = apart[same & ~torch.eye(len(labels)).bool()], (1 - apart[~same]).clamp_min(0)
    return near[near > 0].mean() + (far[far > 0].mean() if (far > 0).any() else 0)


def pair_loss_of(metric: str, features: Tensor, labels: Tensor, **options: Any) -> float:
    """As a recipe of that metric has it."""
    settings = settings_for("auxiliary", options={"metric": metric, **options})
    recipe = RECIPES.get("auxiliary")(network_for(**SOFTMAX), settings)  # type: ignore[arg-type]
    return float(recipe._metric(features, labels, torch.empty(0)))  # type: ignore[operator]


def test_n_pair_is_on_dot_products() -> None:
    """Sohn 2016, eq. 6, two classes of two samples each: lengths count."""
    features = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 4.0]])
    found = pair_loss_of("n_pair", features, torch.tensor([0, 0, 1, 1]))
    first, second = math.log(1 + math.exp(0 - 6)), math.log(1 + math.exp(0 - 4))
    assert found == pytest.approx((first + second) / 2, rel=1e-4)


def test_contrastive_is_on_unit_vectors() -> None:
    """Pairs of a class are drawn together, others apart to five margins; zeros don't count."""
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    found = pair_loss_of("contrastive", features, torch.tensor([0, 0, 1]), margin=0.2)
    positive = math.sqrt(2)
    gaps = [math.sqrt(2 - 2 * cosine) for cosine in (0.6, 0.8)]
    negative = sum(max(1 - gap, 0) for gap in gaps) / sum(gap < 1 for gap in gaps)
    assert found == pytest.approx(positive + negative, rel=1e-4)


def test_triplet_takes_the_hardest_on_cosines() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    found = pair_loss_of("triplet", features, torch.tensor([0, 0, 1]), margin=0.3)
    violations = [0.6 - 0 + 0.3, 0.8 - 0 + 0.3]  # the third has no other of its class
    assert found == pytest.approx(sum(violations) / 2, rel=1e-4)


def test_centres_come_to_their_classes(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """However little the loss weighs: nearer to their own class's mean than to any other's."""
    options = {"metric": "centre", "weight": 0.001, "prototype_lr": 0.5}
    network = network_for(**SOFTMAX)  # type: ignore[arg-type]
    settings = settings_for("auxiliary", epochs=6, options=options)
    recipe = RECIPES.get("auxiliary")(network, settings)
    list(Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"))
    means = class_means(network, parts[0])["fc2"]
    apart = torch.cdist(network.prototypes["fc2"][:, 0], means)
    assert (apart.argmin(1) == torch.arange(10)).all()
    assert apart.diag().mean() < 0.3 * torch.cdist(means, means).sum() / 90


def test_tla_anchors_are_the_adversarial_half() -> None:
    """By hand: each anchor's hardest clean positive and negative, on cosines."""
    options = {"metric": "triplet", "anchors": "adversarial", "margin": 0.3}
    settings = settings_for("auxiliary", options=options, adversarial=adversarial("fast"))
    recipe = RECIPES.get("auxiliary")(network_for(**SOFTMAX), settings)  # type: ignore[arg-type]
    features, labels = torch.randn((12, 8)), torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2)
    clean, anchors = F.normalize(features[:6], dim=1), F.normalize(features[6:], dim=1)
    cosines, same = anchors @ clean.T, labels[6:, None] == labels[None, :6]
    hardest = cosines.masked_fill(~same, 2).amin(1), cosines.masked_fill(same, -2).amax(1)
    violations = (hardest[1] - hardest[0] + 0.3).clamp_min(0)
    expected = violations[violations > 0].mean()
    found = recipe._metric(features, labels, torch.empty(0))  # type: ignore[operator]
    torch.testing.assert_close(found, expected)
    whole = settings_for("auxiliary", options={"metric": "triplet", "margin": 0.3})
    batch = RECIPES.get("auxiliary")(network_for(**SOFTMAX), whole)  # type: ignore[arg-type]
    assert not torch.allclose(batch._metric(features, labels, torch.empty(0)), expected)  # type: ignore[operator]


# MPAT


def test_merging_by_hand() -> None:
    """Two of three lie within the distance; of the other class, a chain of three does."""

    def at(degrees: float, length: float = 1.0) -> list[float]:
        angle = torch.deg2rad(torch.tensor(degrees))
        return [length * float(angle.cos()), length * float(angle.sin())]

    prototypes = torch.tensor([[at(0), at(4), at(90)], [at(0), at(5), at(10)]])
    merged = merge_prototypes(prototypes, 0.1)  # 0.1 is 5.7 degrees on the unit circle
    assert distinct_prototypes(merged) == [2, 1]
    torch.testing.assert_close(merged[0, 0], (prototypes[0, 0] + prototypes[0, 1]) / 2)
    assert torch.equal(merged[0, 0], merged[0, 1])
    assert torch.equal(merged[0, 2], prototypes[0, 2])
    torch.testing.assert_close(merged[1, 2], prototypes[1].mean(0))
    assert torch.equal(merge_prototypes(prototypes, 0.0), prototypes)


def test_merged_prototypes_stay_merged(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    network = network_for(**SOFTMAX, prototypes_per_class=4)  # type: ignore[arg-type]
    options = {"merge_distance": 1.2, "merge_from": 0}
    settings = settings_for("mpat", epochs=3, options=options)
    recipe = RECIPES.get("mpat")(network, settings)
    counts = []
    for _ in Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"):
        counts.append(sum(distinct_prototypes(network.prototypes["fc2"])))
    assert counts[0] < 40
    assert all(later <= earlier for earlier, later in pairwise(counts))


def test_merged_prototypes_move_as_one(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """At the default distance: whatever drives them apart, their mean is what a step leaves."""
    network = network_for(**SOFTMAX, prototypes_per_class=4)  # type: ignore[arg-type]
    settings = settings_for("mpat", epochs=2, options={"merge_from": 0, "prototype_lr": 1.0})
    recipe = RECIPES.get("mpat")(network, settings)
    prototypes = network.prototypes["fc2"]
    with torch.no_grad():
        prototypes[:, 1] = prototypes[:, 0]
    recipe.start_epoch(network, parts[0], 0)
    with torch.no_grad():
        prototypes[:, 0] += torch.randn_like(prototypes[:, 0])
        before = prototypes.clone()
    recipe.after_step(network)
    mean = F.normalize((before[:, 0] + before[:, 1]) / 2, dim=1)
    torch.testing.assert_close(prototypes[:, 0].detach(), mean)
    assert torch.equal(prototypes[:, 0], prototypes[:, 1])
    torch.testing.assert_close(prototypes[:, 2].detach(), F.normalize(before[:, 2], dim=1))
    for _ in Trainer(network, recipe, *parts, settings).fit(tmp_path / "c.safetensors"):
        assert torch.equal(prototypes[:, 0], prototypes[:, 1])


# Adversarial training


def adversarial(attack: str, **fields: Any) -> Adversarial:
    return Adversarial(attack=attack, eps=("0.1", "0.1"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attack", "fields"),
    [
        ("fgsm", {}),
        ("pgd", {"steps": 3, "step_size": 0.5, "with_clean": False}),
        ("fast", {"step_size": 0.5}),
        ("free", {"step_size": 0.5, "replays": 4}),
    ],
)
def test_adversarial_training_keeps_more_under_pgd(
    attack: str,
    fields: dict[str, Any],
    parts: tuple[Dataset, Dataset],
    undefended_share: float,
    tmp_path: Path,
) -> None:
    chosen = adversarial(attack, **fields)
    settings = settings_for("ce", epochs=3 if attack == "free" else 7, adversarial=chosen)
    hardened = trained(settings, parts, tmp_path)
    assert robust_share(hardened, parts[1]) > undefended_share + 0.05


@pytest.mark.parametrize(
    ("method", "attack"),
    [
        ("scpl", "pgd"),
        ("drp", "fast"),
        ("mpat", "free"),
        ("gcpl", "free"),
        ("drp", "free"),
    ],
)
def test_adversarial_training_goes_around_any_method(
    method: str, attack: str, parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Stopped after an epoch, each goes on to where it would have come, and learns."""
    recipe_name, head, options = METHODS[method]
    if method == "mpat":
        options = {"merge_distance": 1.0, "merge_from": 0}
    how = {"pgd": {"steps": 2}, "fast": {}, "free": {"replays": 2}}[attack]
    chosen = Adversarial(attack=attack, eps=("0.02", "0.05"), step_size=0.5, **how)  # type: ignore[arg-type]
    settings = settings_for(recipe_name, epochs=5, options=options, adversarial=chosen)
    data = parts[0].balanced_subset(600)

    def trainer() -> Trainer:
        network = network_for(**head)  # type: ignore[arg-type]
        recipe = RECIPES.get(recipe_name)(network, settings)
        return Trainer(network, recipe, data, parts[1], settings)

    whole, resumed = trainer(), trainer()
    lines = list(whole.fit(tmp_path / "whole"))
    next(trainer().fit(tmp_path / "stopped"))
    assert [line.loss for line in resumed.fit(tmp_path / "stopped")] == [
        line.loss for line in lines[1:]
    ]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert lines[-1].loss < lines[0].loss
    assert lines[-1].validation_accuracy > 0.3


@pytest.fixture(scope="module")
def undefended_share(
    parts: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> float:
    settings = settings_for("ce", epochs=7)
    return robust_share(trained(settings, parts, tmp_path_factory.mktemp("plain")), parts[1])


def trained(settings: Training, parts: tuple[Dataset, Dataset], folder: Path) -> PrototypeNetwork:
    network = network_for(**SOFTMAX)  # type: ignore[arg-type]
    recipe = RECIPES.get(settings.recipe)(network, settings)
    list(Trainer(network, recipe, *parts, settings).fit(folder / "checkpoint.safetensors"))
    return network


def robust_share(network: PrototypeNetwork, data: Dataset) -> float:
    """Accuracy under ten steps of PGD at 0.1."""
    recipe = RECIPES.get("ce")(network, settings_for("ce"))
    generator = torch.Generator().manual_seed(0)
    images, labels = data.images(), data.labels
    against = chosen_by(settings_for("ce", adversarial=adversarial("fast")))
    assert against is not None
    moved = craft(network, recipe, images, labels, against, 0, generator)
    assert (moved - images).abs().max() <= 0.1 + 1e-6
    network.eval()
    return float((network(moved).argmax(1) == labels).double().mean())


def test_early_stopping_on_robustness(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    """Without adversarial training: the epoch is the one that keeps most under PGD at that ε."""
    network = network_for(**NEAREST)  # type: ignore[arg-type]
    settings = settings_for("gcpl", epochs=5, stopping_eps="0.05", lr=0.01)
    recipe = RECIPES.get("gcpl")(network, settings)
    trainer = Trainer(network, recipe, *parts, settings)
    lines = list(trainer.fit(tmp_path / "checkpoint.safetensors"))
    kept = [line.validation_robust or 0.0 for line in lines]
    assert trainer.state.best_score == max(kept) > 0
    assert max(kept) < max(line.validation_accuracy for line in lines)
    with pytest.raises(ValueError, match="is not a number"):
        settings_for("gcpl", stopping_eps="much")


def test_fast_is_one_step_from_a_random_start(parts: tuple[Dataset, Dataset]) -> None:
    network = network_for(**SOFTMAX)  # type: ignore[arg-type]
    recipe = RECIPES.get("ce")(network, settings_for("ce"))
    images, labels = parts[1].images()[:8], parts[1].labels[:8]
    chosen = adversarial("fast", step_size=1.25)
    found = craft(network, recipe, images, labels, chosen, 0, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.rand((8, 1, 1, 1), generator=generator)  # ε, which is fixed here
    noise = 0.1 * (2 * torch.rand(images.shape, generator=generator) - 1)
    start = (images + noise).clamp(0, 1).requires_grad_()
    network.eval()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(start), labels), start)
    stepped = start.detach() + 0.125 * gradient.sign()
    expected = torch.minimum(torch.maximum(stepped, images - 0.1), images + 0.1).clamp(0, 1)
    torch.testing.assert_close(found, expected)


def test_free_goes_on_from_where_it_was() -> None:
    """The perturbation is kept from replay to replay and from batch to batch, inside ε."""
    free = FreeSteps(adversarial("free", replays=3, step_size=0.5))
    images, seen = torch.full((2, 1, 2, 2), 0.5), []

    def update(moved: torch.Tensor) -> tuple[float, int]:
        seen.append(moved.detach().clone())
        moved.sum().backward()
        return 0.0, 0

    for _ in range(2):
        told = free.replay(images, torch.Generator().manual_seed(0), update)
    assert len(told) == 3
    shifts = [float((s - 0.5).mean()) for s in seen]
    assert shifts == pytest.approx([0.0, 0.05, 0.1, 0.1, 0.1, 0.1])


def test_class_means(parts: tuple[Dataset, Dataset]) -> None:
    network = network_for(**SOFTMAX)  # type: ignore[arg-type]
    means = class_means(network, parts[1])["fc2"]
    with torch.no_grad():
        features = network.supervised_features(network.activations(parts[1].images()))["fc2"]
    for k in range(10):
        torch.testing.assert_close(means[k], features[parts[1].labels == k].mean(0))


@pytest.mark.parametrize(("name", "shape"), [("lenet", (1, 28, 28)), ("resnet18", (3, 32, 32))])
def test_the_papers_backbones(name: str, shape: tuple[int, ...]) -> None:
    options = {"width": 8} if name == "resnet18" else {}
    backbone = BACKBONES.get(name)(shape[0], **options)
    layers = backbone(torch.rand(2, *shape))
    assert {k: v.shape[1] for k, v in layers.items()} == backbone.channels
    if name == "resnet18":
        full = BACKBONES.get(name)(3)
        convolutions = [m for m in full.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 17  # and the last layer
        assert 11e6 < sum(p.numel() for p in full.parameters()) < 11.4e6


def test_n_pairs_are_of_clean_and_crafted_images_alike() -> None:
    """A class's first sample is its anchor: of a mixed batch that must not always be clean."""
    network = network_for(**SOFTMAX, prototypes_per_class=1)  # type: ignore[arg-type]
    settings = settings_for("auxiliary", epochs=1, options={"metric": "n_pair"})
    recipe = RECIPES.get("auxiliary")(network, settings)
    labels = torch.arange(10).repeat(2).repeat(2)  # clean, then crafted
    features = torch.randn(40, 8, requires_grad=True)
    felt = torch.zeros(40)
    for seed in range(20):
        torch.manual_seed(seed)
        (slope,) = torch.autograd.grad(
            recipe._metric(features, labels, torch.zeros(10, 8)), features
        )
        felt += slope.abs().sum(1)
    assert felt[:20].sum() > 0
    assert felt[20:].sum() > 0.5 * felt[:20].sum()
