"""How many prototypes a class has: from the start, and after merging."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import EntryError, TrainingError
from robusteval.listing import prototypes_left
from robusteval.models.backbones import BACKBONES
from robusteval.models.entry import read_entry
from robusteval.models.entry_tables import Training
from robusteval.models.head import Head
from robusteval.models.loading import build_network
from robusteval.models.network import PrototypeNetwork
from robusteval.models.registry import readable_entries
from robusteval.training import train  # noqa: F401 - registers the recipes
from robusteval.training.loop import Trainer
from robusteval.training.mpat import averaging, merge_prototypes
from robusteval.training.prototype_losses import soft_triple, soft_triple_regulariser
from robusteval.training.recipe import RECIPES
from robusteval.training.train import outcome_of
from tests.helpers.commands import cli
from tests.helpers.entries import write_entry

COUNTS = [1, 3, 2, 3, 1, 2, 3, 3, 2, 1]


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    return load_dataset("digits", "train").balanced_subset(260).split_off(60)


def network_of(per_class: int | list[int], reading: str = "softmax") -> PrototypeNetwork:
    torch.manual_seed(0)
    backbone = BACKBONES.get("cnn6")(1, widths=[4, 8, 8], hidden=[16, 8], kernel_size=3)
    head = Head(reading=reading, layers=["fc2"], prototypes_per_class=per_class)  # type: ignore[arg-type]
    return PrototypeNetwork(backbone, head, 10, [0.305], [0.376])


def settings_of(recipe: str, **options: Any) -> Training:
    shape: dict[str, Any] = {"lr": 0.02, "batch_size": 50, "validation": 60, "epochs": 2}
    return Training(recipe=recipe, options=options, **shape)


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def distinct(prototypes: Tensor) -> list[int]:
    return [len(torch.unique(own, dim=0)) for own in prototypes]


# Merging


def test_the_closest_merge_first_and_a_least_number_stays() -> None:
    """Gaps of 2, 3, 4 and 5 degrees: with a least number the widest of them are kept."""
    prototypes = torch.tensor([[at(0), at(2), at(5), at(9), at(14)]] * 2)
    for least in (1, 2, 3, 4, 5):
        merged = merge_prototypes(prototypes, 0.1, [least, 1])
        assert distinct(merged) == [least, 1]
        kept = 5 - least + 1  # so many were one chain from the left
        torch.testing.assert_close(merged[0, 0], prototypes[0, :kept].mean(0))
    assert distinct(merge_prototypes(prototypes, 0.06, [2, 1])) == [3, 3]  # 0.06 is 3.4 degrees


def test_equal_prototypes_are_one_whatever_must_stay() -> None:
    prototypes = torch.tensor([[at(0), at(0), at(4), at(8)]])
    assert distinct(merge_prototypes(prototypes, 0.2, [3])) == [3]
    assert distinct(merge_prototypes(prototypes, 0.2, [2])) == [2]


@pytest.mark.parametrize("least", [0, 1.5, 4, [1, 2], [0] * 10, "two", [4] * 10])
def test_a_least_number_that_cannot_be_is_refused(least: Any) -> None:
    with pytest.raises(TrainingError, match="merge_least"):
        RECIPES.get("mpat")(network_of(3), settings_of("mpat", merge_least=least))


def test_a_list_is_refused_where_one_number_is_wanted() -> None:
    with pytest.raises(TrainingError, match="tau = "):
        RECIPES.get("mpat")(network_of(3), settings_of("mpat", tau=[0.1, 0.2]))


def test_a_training_that_merges_all_leaves_what_must_stay(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    least = [2, 1, 3, 1, 2, 3, 1, 2, 3, 4]
    options = {"merge_distance": 3.0, "merge_from": 0, "merge_least": least}
    network, settings = network_of(4), settings_of("mpat", **options)
    recipe = RECIPES.get("mpat")(network, settings)
    trainer = Trainer(network, recipe, *parts, settings)
    list(trainer.fit(tmp_path / "c.safetensors"))
    assert distinct(network.prototypes["fc2"]) == least
    assert outcome_of(trainer, parts[1])[1].prototypes_left == least


def spread_at(degrees: list[list[float]], width: int = 16) -> Tensor:
    """Unit prototypes (K, M, width), each class's at these angles in a plane."""
    planes = torch.tensor([[at(angle) for angle in own] for own in degrees])
    return F.pad(planes, (0, width - 2))


def pulled(network: PrototypeNetwork, data: Dataset, **options: Any) -> Tensor:
    """How far τ pulls at each prototype (K, M): its gradient less that of a loss without τ."""
    found = []
    for tau in (0.2, 0.0):
        recipe = RECIPES.get("mpat")(network, settings_of("mpat", tau=tau, **options))
        loss, _ = recipe.loss(network, network.activations(data.images()), data.labels, 0)
        found += torch.autograd.grad(loss, network.prototypes["fc2"])
    return (found[0] - found[1]).norm(dim=2)


def test_the_regulariser_stops_where_merging_does(parts: tuple[Dataset, Dataset]) -> None:
    """In a class with three of its four apart by 0.1 (5.7 degrees), and one chain of two."""
    network = network_of(4)
    angles = [[0.0, 3.0, 30.0, 60.0]] * 9 + [[0.0, 3.0, 6.0, 60.0]]
    with torch.no_grad():
        network.prototypes["fc2"].copy_(spread_at(angles, network.prototypes["fc2"].shape[2]))
    least = [3, 2, 1, 4, 3, 3, 3, 3, 3, 2]
    pull = pulled(network, parts[1], merge_least=least, merge_from=0)
    assert [bool((own > 1e-6).any()) for own in pull] == [n < 3 for n in least[:9]] + [False]
    # τ is a mean over all classes, so the others feel no more of it than before.
    torch.testing.assert_close(pull[1], pulled(network, parts[1])[1])


def test_the_regulariser_stops_where_all_are_in_reach(parts: tuple[Dataset, Dataset]) -> None:
    """Of unit vectors all are within 2: the next merging leaves no more than must stay."""
    network = network_of(4)
    options: dict[str, Any] = {"merge_least": 3, "merge_distance": 2.0}
    assert (pulled(network, parts[1], merge_from=0, **options) < 1e-6).all()
    assert (pulled(network, parts[1], merge_from=1, **options) > 1e-4).all()


@pytest.mark.parametrize(
    "options",
    [
        {"merge_from": 0},
        {"merge_least": 3, "merge_from": 0, "merge_distance": 0.0},
        {"merge_least": 3, "merge_from": 1, "merge_distance": 2.0},
    ],
)
def test_the_regulariser_goes_on_where_nothing_stops_it(
    options: dict[str, Any], parts: tuple[Dataset, Dataset]
) -> None:
    """One may be left, or nothing merges, or nothing yet: eqs. 3 to 5 as printed."""
    network = network_of(4)
    with torch.no_grad():
        angles = [[0.0, 1.0, 2.0, 3.0]] * 10
        network.prototypes["fc2"].copy_(spread_at(angles, network.prototypes["fc2"].shape[2]))
    assert (pulled(network, parts[1], **options)[:, [0, 3]] > 1e-6).all()


def test_what_must_stay_is_not_pulled_together(
    parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """A strong τ, which leaves one or two of four where one may be left."""
    for least in (1, 3):
        options = {"tau": 20.0, "merge_from": 0, "merge_least": least, "prototype_lr": 1.0}
        network, settings = network_of(4), settings_of("mpat", **options)
        settings = settings.model_copy(update={"epochs": 6})
        trainer = Trainer(network, RECIPES.get("mpat")(network, settings), *parts, settings)
        list(trainer.fit(tmp_path / f"{least}.safetensors"))
        own = network.prototypes["fc2"].detach()
        if least == 1:
            assert max(distinct(own)) <= 2
        else:
            assert distinct(own) == [least] * 10
            assert min(float(torch.pdist(w.unique(dim=0)).min()) for w in own) > 0.02


# A number for each class


def test_losses_over_unequal_numbers_are_those_of_each_class_alone() -> None:
    """Eqs. 3 and 4 by hand, class by class, from lists of unequal length."""
    torch.manual_seed(1)
    counts, labels = [1, 3, 2], torch.tensor([0, 1, 2, 1])
    prototypes, features = torch.randn(3, 3, 5), torch.randn(4, 5)
    places = torch.arange(3) < torch.tensor(counts)[:, None]
    unit = [F.normalize(w[:n], dim=1) for w, n in zip(prototypes, counts, strict=True)]
    rows, spread = [], 0.0
    for x in F.normalize(features, dim=1):
        cosines = [own @ x for own in unit]
        rows.append(torch.stack([((c / 0.1).softmax(0) * c).sum() for c in cosines]))
    logits = torch.stack(rows) - 0.01 * F.one_hot(labels, 3)
    for own in unit:
        pairs = [(2 - 2 * a @ b + 1e-5).sqrt() for a, b in combinations(own, 2)]
        spread += float(sum(pairs)) / max(len(own) * (len(own) - 1), 1) / 3
    triple = soft_triple(features, labels, prototypes, 20.0, 0.1, 0.01, places)
    torch.testing.assert_close(triple, F.cross_entropy(20 * logits, labels))
    assert float(soft_triple_regulariser(prototypes, places)) == pytest.approx(spread, rel=1e-5)


@pytest.mark.parametrize("recipe", ["mpat", "scpl", "gcpl"])
def test_unequal_numbers_train_and_the_rest_stays_a_copy(
    recipe: str, parts: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    network = network_of(COUNTS, "softmax" if recipe == "mpat" else "nearest_prototype")
    begun = network.prototypes["fc2"].detach().clone()
    settings = settings_of(recipe)
    trainer = Trainer(network, RECIPES.get(recipe)(network, settings), *parts, settings)
    list(trainer.fit(tmp_path / "c.safetensors"))
    prototypes = network.prototypes["fc2"].detach()
    assert distinct(prototypes) == COUNTS
    for own, first, count in zip(prototypes, begun, COUNTS, strict=True):
        assert torch.equal(own[count:], own[count - 1].expand_as(own[count:]))
        assert not torch.equal(own[:count], first[:count])
    assert outcome_of(trainer, parts[1])[1].prototypes_left == COUNTS


@pytest.mark.parametrize("recipe", ["scpl", "gcpl", "mpat"])
def test_copies_get_no_gradient(recipe: str, parts: tuple[Dataset, Dataset]) -> None:
    network = network_of(COUNTS, "softmax" if recipe == "mpat" else "nearest_prototype")
    method = RECIPES.get(recipe)(network, settings_of(recipe))
    loss, _ = method.loss(network, network.activations(parts[0].images()), parts[0].labels, 0)
    (gradient,) = torch.autograd.grad(loss, network.prototypes["fc2"])
    places = network.own_places(gradient)
    assert not gradient[~places].any()
    assert gradient[places].any()


def test_a_mean_takes_copies_for_nothing() -> None:
    """Two merged prototypes and a copy of the second: their mean, not two thirds of it."""
    prototypes = torch.tensor([[[1.0], [1.0], [1.0]], [[5.0], [6.0], [7.0]]])
    places = torch.tensor([[True, True, False], [True, True, True]])
    weights = averaging(prototypes, places)
    moved = torch.tensor([[[0.0], [1.0], [1.0]], [[5.0], [6.0], [7.0]]])
    assert (weights @ moved)[0, :, 0].tolist() == [0.5, 0.5, 0.5]
    assert torch.equal((weights @ moved)[1], moved[1])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("prototypes_per_class = [1, 2]", "2 numbers for 10 classes"),
        ("prototypes_per_class = [0, 2]", "from 1 to"),
        ('prototypes_per_class = [1, 2]\npooling = "mean"', 'pooling = "max"'),
        ('prototypes_per_class = "two"', "whole number"),
    ],
)
def test_numbers_of_prototypes_that_cannot_be_are_refused(
    line: str, said: str, tmp_path: Path
) -> None:
    path = write_entry(tmp_path, extra=f'[head]\nlayers = ["fc2"]\n{line}\n')
    with pytest.raises(EntryError, match=said):
        build_network(read_entry(path))


# What is said of it


def test_the_zoo_says_how_many_prototypes_are_left() -> None:
    told = {
        entry.name: entry
        for entry in readable_entries()
        if entry.weights and entry.head.most_prototypes > 1
    }
    assert "mpat_mnist" in told
    for entry in told.values():
        left = prototypes_left(entry)[entry.head.layers[-1]]
        assert entry.trained is not None
        assert entry.trained.prototypes_left == left, entry.name
        assert "left after merging" in entry.description


def test_show_counts_what_is_left_in_the_weights() -> None:
    assert (
        "prototypes_left = {'fc2': [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}"
        in cli("show", "mpat_mnist").stdout
    )
    shown = json.loads(cli("show", "mpat_mnist", "--json").stdout)
    assert shown["head"]["prototypes_left"] == {"fc2": [1] * 10}
    assert "prototypes_left" not in cli("show", "ce_mnist").stdout
