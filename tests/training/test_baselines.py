"""What the papers compare with: losses over pairs as PCL prints them, deep softmax, TRADES,
input-gradient regularisation; and trainings on a part of the data."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import EntryError, TrainingError
from robusteval.models.backbones import BACKBONES
from robusteval.models.entry import read_entry
from robusteval.models.entry_tables import Adversarial, Training
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.training.adversarial import craft
from robusteval.training.loop import Trainer, accuracy_of
from robusteval.training.pair_losses import contrastive, pair_loss
from robusteval.training.recipe import RECIPES, Recipe
from robusteval.training.regularised import divergence
from robusteval.training.schedule import schedule_factor
from robusteval.training.train import train
from tests.helpers.entries import TRAINING, write_entry

PGD = Adversarial(attack="pgd", eps=("0.1", "0.1"), steps=2, step_size=0.5)


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    return load_dataset("digits", "train").balanced_subset(500).split_off(100)


def network_of(*layers: str, reading: str = "softmax") -> PrototypeNetwork:
    torch.manual_seed(0)
    backbone = BACKBONES.get("resnet_small")(1, widths=[8, 12], blocks=[1, 1], stem=8, embedding=16)
    head = Head(reading=reading, layers=list(layers))  # type: ignore[arg-type]
    return PrototypeNetwork(backbone, head, 10, [0.305], [0.376])


def settings_of(recipe: str, adversarial: Adversarial | None = None, **options: Any) -> Training:
    shape: dict[str, Any] = {"lr": 0.2, "batch_size": 20, "validation": 100, "epochs": 3}
    return Training(recipe=recipe, options=options, adversarial=adversarial, **shape)


def recipe_of(network: PrototypeNetwork, name: str, *given: Any, **options: Any) -> Recipe:
    return RECIPES.get(name)(network, settings_of(name, *given, **options))


# Losses over pairs, PCL eqs. 14 and 15


def test_contrastive_as_printed_by_hand() -> None:
    """Distances 5 (one class), 2 and √13 (two): ½·25, ½·(4 − 2)², ½·(4 − √13)², three pairs."""
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    found = contrastive(features, torch.tensor([1, 1, 0]), 4.0)
    expected = (25 + 2**2 + (4 - math.sqrt(13)) ** 2) / 2 / 3
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_triplet_as_printed_by_hand() -> None:
    """The hardest of each anchor, on squared distances of features as they are, above zero only."""
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    labels = torch.tensor([0, 0, 1, 1])
    squared = torch.cdist(features, features).square()
    gaps = [
        2 + squared[a, p] - squared[a, n]
        for a, p, n in [(0, 1, 2), (1, 0, 2), (2, 3, 0), (3, 2, 0)]
    ]
    positive = [float(gap) for gap in gaps if gap > 0]
    found = pair_loss("triplet", 2.0, "paper")(features, labels)
    assert float(found) == pytest.approx(sum(positive) / len(positive), rel=1e-5)


def test_contrastives_gradient_against_finite_differences() -> None:
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 2, 1])
    assert torch.autograd.gradcheck(lambda f: contrastive(f, labels, 2.0), features)
    same = torch.ones(4, 3, requires_grad=True)  # distance zero, where a root has no slope
    contrastive(same, torch.tensor([0, 1, 0, 1]), 2.0).backward()
    assert torch.isfinite(same.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "n_pair", "form": "paper"}, "form"),
        ({"metric": "contrastive", "form": "printed"}, "library, paper"),
        ({"metric": "softmax", "ce_weight": 0.0}, "nearest_prototype"),
        ({"metric": "contrastive", "ce_weight": 0.0}, "with ce_weight = 0"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        recipe_of(network_of("fc"), "auxiliary", **options)


def test_pairs_alone_train_a_model_that_its_class_means_read(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """PCL's Table 10: no cross-entropy, no classifier."""
    network = network_of("fc", reading="nearest_prototype")
    options = {"metric": "contrastive", "form": "paper", "ce_weight": 0.0, "weight": 1.0}
    recipe = recipe_of(network, "auxiliary", **options)
    list(Trainer(network, recipe, *parts, recipe.settings).fit(tmp_path / "c.safetensors"))
    assert accuracy_of(network, parts[1]) > 0.7


def test_deep_softmax_is_a_cross_entropy_at_each_layer(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    network = network_of("stage1", "pool")
    recipe = recipe_of(network, "auxiliary", metric="softmax", weight=1.0)
    layers, labels = network.activations(parts[0].images()), parts[0].labels
    found, logits = recipe.loss(network, layers, labels, 0)
    expected = F.cross_entropy(logits, labels)
    for name, features in (("stage1", layers["stage1"].mean((2, 3))), ("pool", layers["pool"])):
        expected = expected + F.cross_entropy(recipe.classifiers[name](features), labels)  # type: ignore[index,operator]
    torch.testing.assert_close(found, expected)
    begun = recipe.classifiers["pool"].weight.detach().clone()  # type: ignore[index,union-attr]
    (*_, line) = Trainer(network, recipe, *parts, recipe.settings).fit(tmp_path / "c.safetensors")
    assert line.validation_accuracy > 0.5
    assert not torch.equal(begun, recipe.classifiers["pool"].weight)  # type: ignore[index,union-attr,arg-type]


# TRADES


def test_trades_by_hand() -> None:
    """Two images, two classes: cross-entropy of the clean ones, β times KL to the crafted ones."""
    network = network_of()
    recipe = recipe_of(network, "trades", PGD, beta=2.0)
    p, q = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.6, 0.4], [0.25, 0.75]])
    assert float(divergence(p.log() + 3, q.log())) == pytest.approx(
        float((p * (p / q).log()).sum(1).mean()), rel=1e-5
    )
    network.classifier = None
    logits = torch.cat([p, q]).log()
    network.logits = lambda layers: logits  # type: ignore[method-assign]
    loss, told = recipe.loss(network, {}, torch.tensor([0, 1, 0, 1]), 0)
    by_hand = -(math.log(0.9) + math.log(0.5)) / 2 + 2 * float((p * (p / q).log()).sum(1).mean())
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)
    assert told is logits


def test_trades_crafts_images_whose_answer_changes(parts: tuple[Dataset, Dataset]) -> None:
    """Against the answer, not the label: from wrong labels the same images come."""
    network = network_of()
    recipe = recipe_of(network, "trades", PGD)
    images, labels = parts[0].images(slice(0, 20)), parts[0].labels[:20]
    crafted = [
        craft(network, recipe, images, y, PGD, 0, torch.Generator().manual_seed(1))
        for y in (labels, (labels + 1) % 10)
    ]
    assert torch.equal(*crafted)
    assert (crafted[0] - images).abs().max() <= 0.1 + 1e-6
    noise = (images + 0.1 * torch.rand_like(images).mul(2).sub(1)).clamp(0, 1)
    network.eval()
    clean = network(images)
    assert divergence(clean, network(crafted[0])) > 2 * divergence(clean, network(noise))


@pytest.mark.parametrize(
    "chosen",
    [
        None,
        Adversarial(attack="free", eps=("0.1", "0.1")),
        Adversarial(attack="pgd", eps=("0.1", "0.1"), with_clean=False),
        Adversarial(attack="fgsm", eps=("0.1", "0.1")),  # from the image itself KL has no slope
    ],
)
def test_trades_needs_clean_images_beside_crafted_ones(chosen: Adversarial | None) -> None:
    with pytest.raises(TrainingError, match="TRADES needs"):
        recipe_of(network_of(), "trades", chosen)


# Input gradients


def test_the_penalty_is_the_squared_slope_at_each_image() -> None:
    """For a linear classifier the slope of cross-entropy is Σ_k (p_k − y_k) w_k."""
    torch.manual_seed(0)
    recipe = recipe_of(network_of(), "input_gradient", weight=3.0)
    weights, images = torch.randn(10, 4), torch.rand(6, 1, 2, 2, requires_grad=True)
    labels = torch.arange(6)
    logits = images.flatten(1) @ weights.T
    found = recipe.penalty(F.cross_entropy(logits, labels), images)
    slopes = (logits.softmax(1) - F.one_hot(labels, 10)) @ weights
    torch.testing.assert_close(found, 3 * slopes.square().sum(1).mean())


def test_the_penalty_flattens_the_loss(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    def slope(weight: float) -> float:
        network = network_of()
        recipe = recipe_of(network, "input_gradient", weight=weight)
        trainer = Trainer(network, recipe, *parts, recipe.settings)
        list(trainer.fit(tmp_path / f"{weight}.safetensors"))
        assert accuracy_of(network, parts[1]) > 0.6
        images = parts[1].images().requires_grad_()
        loss = F.cross_entropy(network.eval()(images), parts[1].labels, reduction="sum")
        found: Tensor = torch.autograd.grad(loss, images)[0]
        return float(found.square().flatten(1).sum(1).mean())

    assert slope(0.03) < 0.5 * slope(0.0)


@pytest.mark.parametrize("recipe", ["trades", "input_gradient"])
def test_they_train_adversarially(
    recipe: str, parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    network = network_of()
    gentle = {"weight": 0.01} if recipe == "input_gradient" else {"beta": 1.0}
    method = recipe_of(network, recipe, PGD, **gentle)
    (*_, line) = Trainer(network, method, *parts, method.settings).fit(tmp_path / "c.safetensors")
    assert line.validation_accuracy > 0.5
    assert line.validation_robust is not None


# A part of the training data, and the lowest rate


@pytest.mark.parametrize(("line", "count"), [("samples = 120", 120), ("share = 0.1", 134)])
def test_a_part_of_the_data_is_balanced_seeded_and_recorded(
    line: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Dataset] = []
    fit = Trainer.fit
    monkeypatch.setattr(
        Trainer, "fit", lambda self, path: seen.append(self.training) or fit(self, path)
    )
    extra = TRAINING.format(recipe="ce", epochs=1, warmup=0)
    for seed in (0, 0, 1):
        path = write_entry(tmp_path, extra=f"{extra}{line}\nseed = {seed}\n")
        trained = train(read_entry(path), work_dir=tmp_path / f"w{len(seen)}")
        assert trained.samples == count
        assert read_entry(path).trained == trained
        (tmp_path / "tiny.safetensors").unlink()
    per_class = torch.bincount(seen[0].labels)
    assert (len(seen[0]), int(per_class.max() - per_class.min())) == (count, min(count % 10, 1))
    assert seen[0].digest == seen[1].digest != seen[2].digest


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("samples = 1338", TrainingError, "1338 of 1337 images beside the validation part"),
        ("samples = 10\nshare = 0.5", EntryError, "give one of them"),
        ("share = 1.5", EntryError, "must be 1"),
        ("samples = 1", EntryError, "2 or more"),
        ("lowest_lr = 0.5", EntryError, "at most lr"),
        ('lowest_lr = 0.001\nschedule = "steps"', EntryError, "goes with one_cycle and cyclic"),
    ],
)
def test_parts_and_rates_that_cannot_be_are_refused(
    line: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    extra = TRAINING.format(recipe="ce", epochs=1, warmup=0)
    path = write_entry(tmp_path, extra=f"{extra}{line}\n")
    with pytest.raises(error, match=said):
        train(read_entry(path), work_dir=tmp_path / "w")


def test_the_lowest_rate_is_where_a_schedule_begins_and_ends() -> None:
    """MPAT's DAWNBench setting: from 0.001 to 0.2 and back."""
    told = {"lr": 0.2, "lowest_lr": 0.001, "schedule": "cyclic", "epochs": 15}
    settings = Training(recipe="ce", validation=1, **told)  # type: ignore[arg-type]
    rates = [0.2 * schedule_factor(settings, 15 * share, share) for share in (0, 0.5, 1)]
    assert rates == pytest.approx([0.001, 0.2, 0.001])


def test_younger_settings_leave_older_checkpoints_theirs() -> None:
    plain = settings_of("ce")
    assert "share" not in plain.identity
    assert "lowest_lr" not in plain.identity
    assert '"samples":20' in plain.model_copy(update={"samples": 20}).identity
