"""Deep repulsive prototypes: where they are, and what training does with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import TrainingError
from robusteval.models.backbones import BACKBONES
from robusteval.models.entry_tables import Training
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.training import train  # noqa: F401 - registers the recipes
from robusteval.training.drp import least_apart, repulsive_prototypes
from robusteval.training.loop import Trainer, accuracy_of
from robusteval.training.recipe import RECIPES, Recipe

LITERAL = {"similarity": "distance"}
AUTHORS = {
    "metric": "linf",
    "bound": "none",
    "start": "uniform",
    "prototype_momentum": 0.9,
    "fit": "mean_distance",
}


def network_of(similarity: str, dim: int = 20) -> PrototypeNetwork:
    torch.manual_seed(0)
    backbone = BACKBONES.get("cnn6")(1, widths=[8, 16, 16], hidden=[32, dim], kernel_size=3)
    head = Head(reading="nearest_prototype", layers=["fc2"], similarity=similarity)  # type: ignore[arg-type]
    return PrototypeNetwork(backbone, head, 10, [0.305], [0.376])


def recipe_of(
    network: PrototypeNetwork, epochs: int = 1, lr: float = 0.03, **options: Any
) -> Recipe:
    shape: dict[str, Any] = {"batch_size": 64, "validation": 200, "epochs": epochs, "lr": lr}
    return RECIPES.get("drp")(network, Training(recipe="drp", options=options, **shape))


def loss_of(recipe: Recipe, network: PrototypeNetwork, features: Tensor, labels: Tensor) -> float:
    return float(recipe.loss(network, {"fc2": features}, labels, 0)[0])


def apart(centres: Tensor, order: float) -> Tensor:
    first, second = torch.triu_indices(len(centres), len(centres), 1)
    return (centres[first] - centres[second]).norm(p=order, dim=1)


# Eq. 5


@pytest.mark.parametrize(("metric", "order"), [("l2", 2.0), ("linf", torch.inf)])
def test_the_authors_descent_is_torchs_sgd(metric: str, order: float) -> None:
    """Uniform start, momentum, no ball: step by step as their optimiser does it."""
    found = repulsive_prototypes(
        4, 8, metric, None, 30, 0.01, seed=3, start="uniform", momentum=0.9
    )
    generator = torch.Generator().manual_seed(3)
    centres = (
        2 * torch.rand((4, 8), generator=generator, dtype=torch.float64) - 1
    ).requires_grad_()
    optimizer = torch.optim.SGD([centres], lr=0.01, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        (-apart(centres, order).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(found, centres.detach().float())


def test_without_a_ball_two_prototypes_part_without_end() -> None:
    """The gradient of a distance has length 1, so two centres part by 2 μ a step."""
    after = [
        least_apart(repulsive_prototypes(2, 4, "l2", None, steps, 0.01, seed=0), "l2")
        for steps in (0, 100, 1000)
    ]
    assert after[1] - after[0] == pytest.approx(2.0, abs=1e-5)
    assert after[2] - after[0] == pytest.approx(20.0, abs=1e-4)


def test_the_smallest_distance_by_hand() -> None:
    centres = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    assert least_apart(centres, "l2") == pytest.approx(10**0.5)
    assert least_apart(centres, "linf") == 3.0


# Eq. 6


def test_eq_6_as_printed_by_hand() -> None:
    """(1 − d)² is zero on the unit sphere around a prototype, and 1 at the prototype itself."""
    network = network_of("l2")
    recipe = recipe_of(network, **LITERAL)
    own, labels = network.prototypes["fc2"][:, 0].detach(), torch.arange(10)
    away = torch.zeros(10, 20)
    away[:, 3] = 1.0
    assert loss_of(recipe, network, own + away, labels) == pytest.approx(0, abs=1e-9)
    assert loss_of(recipe, network, own, labels) == 1.0
    assert loss_of(recipe, network, own + 3 * away, labels) == pytest.approx(4.0, rel=1e-5)
    logits = recipe.loss(network, {"fc2": own + away}, labels, 0)[1]
    assert torch.equal(logits.argmax(1), labels)  # where prototypes are more than 2 apart


def test_the_authors_mean_distance_by_hand() -> None:
    network = network_of("linf")
    recipe = recipe_of(network, **AUTHORS)
    own = network.prototypes["fc2"][:2, 0].detach()
    away = torch.zeros(2, 20)
    away[0, 0], away[0, 1], away[1, 5] = 0.5, -0.25, 2.0
    assert loss_of(recipe, network, own + away, torch.arange(2)) == pytest.approx(1.25, rel=1e-5)


@pytest.mark.parametrize(
    ("similarity", "options"),
    [("l2", LITERAL), ("sql2", {**LITERAL, "bound": "none"}), ("linf", AUTHORS)],
)
def test_gradients_against_finite_differences(similarity: str, options: dict[str, Any]) -> None:
    network = network_of(similarity).double()
    recipe, labels = recipe_of(network, **options), torch.tensor([1, 4, 4])
    features = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda f: recipe.loss(network, {"fc2": f}, labels, 0)[0], features
    )


@pytest.mark.parametrize("options", [{"radius": 1.0}, {"bound": "none", "prototype_steps": 0}])
def test_eq_6_as_printed_needs_prototypes_more_than_2_apart(options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="apart, and eq"):
        recipe_of(network_of("l2"), **LITERAL, **options)
    recipe_of(network_of("l2"), **options)  # cosine doesn't mind


@pytest.mark.parametrize(
    ("similarity", "options", "said"),
    [
        ("cosine", LITERAL, 'head.similarity = "l2", not "cosine"'),
        ("l2", AUTHORS, 'head.similarity = "linf"'),
        ("l2", {"prototype_momentum": 1.0}, "below 1"),
        ("l2", {"similarity": "linear", "bound": "none"}, 'bound = "ball"'),
        ("l2", {"bound": "box"}, "ball, none"),
        ("l2", {"start": "zeros"}, "normal, uniform"),
        ("l2", {"fit": "eq5"}, "eq6, mean_distance"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    similarity: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        recipe_of(network_of(similarity), **options)


@pytest.mark.parametrize(
    ("similarity", "options", "pace"),
    [
        ("l2", LITERAL, (0.1, 6)),
        ("l2", {**LITERAL, "bound": "none"}, (0.1, 6)),
        ("linf", AUTHORS, (0.3, 14)),
    ],
)
def test_they_learn(
    similarity: str, options: dict[str, Any], pace: tuple[float, int], tmp_path: Path
) -> None:
    data = load_dataset("digits", "train").balanced_subset(700)
    parts: tuple[Dataset, Dataset] = data.split_off(200)
    torch.manual_seed(0)
    backbone = BACKBONES.get("resnet_small")(
        1, stem=12, widths=[12, 24], blocks=[1, 1], embedding=20
    )
    head = Head(reading="nearest_prototype", layers=["fc"], similarity=similarity)  # type: ignore[arg-type]
    network = PrototypeNetwork(backbone, head, 10, [0.305], [0.376])
    recipe = recipe_of(network, lr=pace[0], epochs=pace[1], **options)
    list(Trainer(network, recipe, *parts, recipe.settings).fit(tmp_path / "c.safetensors"))
    assert accuracy_of(network, parts[1]) > 0.8
