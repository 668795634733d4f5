"""Ascent on a model's own training loss, against the papers' equations and finite differences."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval import api
from robusteval.attacks.counting import Counted
from robusteval.attacks.own_loss import own_loss, unit_l1
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError
from robusteval.models.adapter import Adapter
from robusteval.models.registry import find_entry
from robusteval.plan.plan import NO_LOSS
from robusteval.training.own_loss import open_model
from robusteval.types import ThreatModel
from tests.helpers.known import linear, threat_of
from tests.helpers.runs import attack_spec, suite_of

EPS = 0.1
LINF = ThreatModel("Linf", "0.1")  # type: ignore[arg-type]
Loss = Callable[[Adapter, Tensor, Tensor], Tensor]


def opened(name: str) -> Adapter:
    return open_model(find_entry(name))


def parts(model: Adapter, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, D), prototypes (K, M, D) and logits (B, K), of a network with one layer."""
    network = model.module
    layers = network.activations(images)
    ((name, features),) = network.supervised_features(layers).items()
    return features, network.prototypes[name], network.logits(layers)


def drp(model: Adapter, images: Tensor, labels: Tensor) -> Tensor:
    """Eq. 6 with the similarity (1 + cos) / 2."""
    features, prototypes, _ = parts(model, images)
    return (1 - (1 + F.cosine_similarity(features, prototypes[labels, 0])) / 2).square().sum()


def scpl(model: Adapter, images: Tensor, labels: Tensor) -> Tensor:
    """Eqs. 8 to 10, with λ = 0.1 and Euclidean distances."""
    features, prototypes, _ = parts(model, images)
    apart = (features[:, None, None] - prototypes).square().sum(3).sqrt()
    own = apart[torch.arange(len(labels)), labels].amin(1)
    return (F.cross_entropy(-apart.amin(2), labels, reduction="none") + 0.1 * own).sum()


def gcpl(model: Adapter, images: Tensor, labels: Tensor) -> Tensor:
    """−log Σ_m p_{y,m} + λ ‖f − m_y‖²."""
    options = find_entry("gcpl_digits").training.options
    features, prototypes, _ = parts(model, images)
    squared = (features[:, None, None] - prototypes).square().sum(3)
    shares = (-options.get("gamma", 0.1) * squared).flatten(1).softmax(1).view_as(squared)
    rows = torch.arange(len(labels))
    own = squared[rows, labels].amin(1)
    weight = options.get("encoding_weight", 1e-3)
    return (-shares[rows, labels].sum(1).log() + weight * own).sum()


def mpat(model: Adapter, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and eq. 3; eq. 4 knows no images."""
    features, prototypes, logits = parts(model, images)
    cosines = F.normalize(features, dim=1) @ F.normalize(prototypes, dim=2).flatten(0, 1).T
    cosines = cosines.view(len(images), *prototypes.shape[:2])
    similar = ((cosines / 0.1).softmax(2) * cosines).sum(2)
    similar = 20 * (similar - 0.01 * F.one_hot(labels, len(prototypes)))
    plain, triple = (F.cross_entropy(z, labels, reduction="none") for z in (logits, similar))
    return (plain + find_entry("mpat_digits").training.options["triple_weight"] * triple).sum()


PAPERS: dict[str, Loss] = {
    "drp_digits": drp,
    "scpl_digits": scpl,
    "gcpl_digits": gcpl,
    "mpat_digits": mpat,
}


def by_hand(
    model: Adapter,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    steps: int,
    size: float,
    decay: float,
) -> Tensor:
    """BIM and MIM as PCL's eqs. 17 to 19 have them."""
    points, added = images.clone(), torch.zeros_like(images)
    for _ in range(steps):
        leaf = points.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model, leaf, labels), leaf)
        if decay:
            added = decay * added + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
            gradient = added
        points = points + size * gradient.sign()
        points = points.clamp(images - EPS, images + EPS).clamp(0, 1)
    return points


@pytest.fixture(scope="module")
def few(digits: Dataset) -> tuple[Tensor, Tensor]:
    return digits.images(slice(0, 6)), digits.labels[:6]


@pytest.mark.parametrize("name", PAPERS)
def test_it_climbs_what_the_paper_descends(name: str, few: tuple[Tensor, Tensor]) -> None:
    model = opened(name)
    for decay in (0.0, 1.0):
        given = {"steps": 3, "step_size": 0.25, "momentum": decay, "start": False}
        found = own_loss(model, *few, LINF, **given)
        wanted = by_hand(model, PAPERS[name], *few, 3, EPS / 4, decay)
        same = (found - wanted).abs() < 1e-5  # a gradient of about zero has either sign
        assert same.float().mean() > 0.995
        assert (found - few[0]).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("name", PAPERS)
def test_its_gradient_is_that_of_finite_differences(name: str, few: tuple[Tensor, Tensor]) -> None:
    model = copy.deepcopy(opened(name)).double()
    images, labels = few[0][:2].double(), few[1][:2]
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Counted(model).training_loss(leaf, labels), leaf)
    steepest = gradient.flatten().abs().argsort(descending=True)[:4]
    for place in steepest.tolist():
        nudge = torch.zeros(images.numel(), dtype=torch.float64)
        nudge[place] = 1e-6
        with torch.no_grad():
            ends = [model.own_loss(images + s * nudge.view_as(images), labels) for s in (1, -1)]
        slope = float(ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx(float(gradient.flatten()[place]), rel=1e-3)


def test_it_follows_the_options_of_its_entry(few: tuple[Tensor, Tensor]) -> None:
    entry = find_entry("drp_digits")
    linear_fit = entry.training.model_copy(
        update={"options": {**entry.training.options, "similarity": "linear"}}
    )
    model = open_model(entry.model_copy(update={"training": linear_fit}))
    features, prototypes, _ = parts(model, few[0])
    apart = (features - prototypes[few[1], 0]).norm(dim=1)
    wanted = (apart / (2 * float(entry.training.options.get("radius", 8.0)))).square().mean()
    assert float(model.own_loss(*few)) == pytest.approx(float(wanted), rel=1e-5)


def test_opening_a_model_leaves_its_weights(few: tuple[Tensor, Tensor]) -> None:
    """Training would draw DRP's prototypes anew, and put MPAT's at unit length."""
    for name in ("drp_digits", "mpat_digits"):
        plain, known = (
            dict(open_model(e).named_parameters())
            for e in (find_entry(name).model_copy(update={"training": None}), find_entry(name))
        )
        assert all(torch.equal(value, known[key]) for key, value in plain.items())


def test_a_model_that_is_read_otherwise_has_no_own_loss() -> None:
    """MPAT's classifier is a part of its loss; nearest prototypes alone leave it out."""
    entry = find_entry("mpat_digits")
    head = entry.head.model_copy(update={"reading": "nearest_prototype"})
    assert opened("mpat_digits").own_loss is not None
    assert open_model(entry.model_copy(update={"head": head})).own_loss is None


def test_l2_stays_in_the_ball_and_climbs(few: tuple[Tensor, Tensor]) -> None:
    model, threat = opened("scpl_digits"), threat_of("L2", 0.5)
    found = own_loss(model, *few, threat, seed=3, steps=5)
    assert (found - few[0]).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5
    assert model.own_loss(found, few[1]) > model.own_loss(*few)
    assert not torch.equal(found, own_loss(model, *few, threat, seed=4, steps=5))


def test_it_counts_its_passes_and_refuses_what_it_cannot_do(few: tuple[Tensor, Tensor]) -> None:
    counted = Counted(opened("ce_digits"), len(few[0]))
    own_loss(counted, *few, LINF, steps=4)
    assert counted.forward_passes.tolist() == counted.backward_passes.tolist() == [4.0] * 6
    known = linear("Linf", 3)
    with pytest.raises(AttackError, match="own training loss is unknown"):
        own_loss(known.model, known.images, known.labels, LINF)
    assert opened("pcl_digits").own_loss is None  # its repulsion centres aren't stored
    assert opened("triplet_digits").own_loss is None  # it is of pairs
    for wrong in ({"momentum": 1.5}, {"step_size": 0}, {"steps": 0}, {"start": 1}):
        with pytest.raises(AttackError, match=f"own_loss: {next(iter(wrong))} = "):
            own_loss(known.model, known.images, known.labels, LINF, **wrong)


def test_a_run_has_it_where_the_loss_is_known(tmp_path: object) -> None:
    suite = suite_of(
        attack_spec("own_loss", parameters={"steps": 2}), attack_spec("gaussian_noise")
    )
    given = {"suite": suite, "samples": 20, "out": tmp_path, "threads": 1}
    report = api.evaluate("drp_digits", **given)
    assert [a["name"] for a in report.content["attacks"]] == ["own_loss", "gaussian_noise"]
    assert all(check.held for check in api.verify(report.folder, again=2))
    without = api.evaluate("pcl_digits", **given)
    (left,) = without.content["left_out"]
    assert (left["name"], left["reason"]) == ("own_loss", NO_LOSS)
    assert all(check.held for check in api.verify(without.folder))


def test_gradients_of_zero_stay_zero() -> None:
    values = torch.tensor([[[[3.0, -1.0]]], [[[0.0, 0.0]]]])
    assert unit_l1(values).tolist() == [[[[0.75, -0.25]]], [[[0.0, 0.0]]]]
    assert math.isfinite(float(unit_l1(values * 1e-38).sum()))
