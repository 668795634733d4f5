"""Our own attacks and the libraries', on models whose answers are known."""

import math

import pytest
import torch
from torch import nn

from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.counting import Counted, PositiveLogits, TimeLimitReached, as_counted
from robusteval.attacks.gaussian_noise import gaussian_noise
from robusteval.attacks.libraries.autoattack import autoattack, autoattack_members
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.losses import distance_margin, joint_loss, logit_margin
from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
from robusteval.attacks.registry import find
from robusteval.attacks.results import Stage, said
from robusteval.attacks.steps import ascent_direction, norms, project, random_start
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError, UnknownNameError
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.plan.suite import read_suite
from robusteval.types import NORMS, Norm, ThreatModel, parse_eps
from tests.helpers.attacks import Call
from tests.helpers.known import (
    Function,
    images_near_grey,
    in_threat,
    linear,
    margins,
    pixel_prototypes,
    threat_of,
)
from tests.helpers.models import linear_model

THREATS = {
    "Linf": ThreatModel("Linf", parse_eps("0.15")),
    "L2": ThreatModel("L2", parse_eps("0.6")),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", ["8/255", "0.3", "2/3"])
def test_projection_lands_in_ball_and_range(norm: str, eps: str) -> None:
    threat = ThreatModel(norm, parse_eps(eps))  # type: ignore[arg-type]
    clean = torch.randint(0, 256, (200, 3, 8, 8)).float() / 255
    moved = project(clean + torch.randn_like(clean), clean, threat)
    distance = norms(moved.double() - clean.double(), threat.norm)
    assert distance.max() <= threat.radius + 1e-6
    assert distance.max() > 0.7 * threat.radius
    assert moved.min() >= 0
    assert moved.max() <= 1
    inside = project(clean, clean, threat)
    torch.testing.assert_close(inside, clean)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_and_follow_the_seed(norm: str) -> None:
    threat = THREATS[norm]
    clean = torch.full((500, 1, 8, 8), 0.5)
    starts = [random_start(clean, threat, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    distance = norms(starts[0] - clean, threat.norm)
    assert distance.max() <= threat.radius + 1e-6
    assert distance.max() > 0.9 * threat.radius


def test_ascent_directions_have_unit_norm_and_survive_zero() -> None:
    gradient = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(norms(ascent_direction(gradient, "L2"), "L2"), torch.ones(5))
    assert set(ascent_direction(gradient, "Linf").unique().tolist()) == {-1.0, 1.0}
    assert ascent_direction(torch.zeros(2, 1, 4, 4), "L2").abs().max() == 0


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 5.0, 1.0]])
    assert logit_margin(logits, torch.tensor([1])).tolist() == [-3.0]
    assert logit_margin(logits, torch.tensor([0])).tolist() == [3.0]
    distances = torch.tensor([[[4.0, 1.0], [3.0, 9.0], [2.5, 8.0]]])  # K = 3, M = 2
    assert distance_margin(distances, torch.tensor([0])).tolist() == [1.0 - 2.5]
    squared = {"a": torch.tensor([[[1.0], [4.0], [6.0]]])}
    joint = joint_loss(logits, squared, torch.tensor([0]))
    cross_entropy = -math.log(math.exp(2) / (math.exp(2) + math.exp(5) + math.exp(1)))
    assert float(joint) == pytest.approx(cross_entropy + 1 - (4 + 6) / 2, rel=1e-6)


def nearest_prototype_gap(model: Adapter, images: torch.Tensor) -> torch.Tensor:
    """The exact L2 distance to the boundary between two prototypes: (d₂² − d₁²) / (2‖w₁ − w₂‖)."""
    prototypes = model.module.prototypes["pixels"][:, 0]
    squared = model.distances(images)[:, :, 0]
    between = (prototypes[0] - prototypes[1]).norm()
    return (squared[:, 1] - squared[:, 0]).abs() / (2 * between)


def test_prototype_margin_breaks_exactly_what_the_closed_form_allows() -> None:
    """Two prototypes in pixel space: the smallest L2 perturbation is known for every sample."""
    prototypes = torch.stack([torch.full((16,), 0.35), torch.full((16,), 0.65)])[:, None]
    model = pixel_prototypes(prototypes, similarity="sql2")
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.2 * (torch.rand((200, 1, 4, 4), generator=generator) - 0.5)
    labels = model(images).argmax(1)
    gap = nearest_prototype_gap(model, images)
    for eps in ("0.02", "0.05", "0.1"):
        threat = ThreatModel("L2", parse_eps(eps))
        found = prototype_margin(model, images, labels, threat, seed=0, start=False)
        assert norms(found - images, "L2").max() <= threat.radius + 1e-6
        broken = model(found).argmax(1) != labels
        clear = (gap - threat.radius).abs() > 0.02 * threat.radius
        assert torch.equal(broken[clear], (gap < threat.radius)[clear])
        assert 0 < int(broken.sum()) < 200


@pytest.mark.parametrize("name", ["joint_pc", "prototype_margin"])
@pytest.mark.parametrize("norm", NORMS)
def test_own_attacks_break_undefended_models(
    name: str, norm: str, pcl_digits: Adapter, nearest_digits: Adapter, digits: Dataset
) -> None:
    attack, threat = find("robusteval", name).function, THREATS[norm]
    for model in (pcl_digits, nearest_digits):
        images, labels = correct_part(model, digits, 60)
        found = attack(model, images, labels, threat, seed=0)
        assert norms(found - images, threat.norm).max() <= threat.radius + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        assert (model(found).argmax(1) == labels).double().mean() < 0.45
        assert torch.equal(found, attack(model, images, labels, threat, seed=0))


def correct_part(model: Adapter, data: Dataset, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    part = data.balanced_subset(count)
    images, labels = part.images(), part.labels
    right = model(images).argmax(1) == labels
    return images[right], labels[right]


def test_own_attacks_count_a_pass_per_step_and_drop_broken_samples(
    pcl_digits: Adapter, digits: Dataset
) -> None:
    images, labels = correct_part(pcl_digits, digits, 40)
    counted = Counted(pcl_digits)
    found = joint_pc(counted, images, labels, THREATS["Linf"], seed=0, steps=10)
    last = counted.forward_passes - counted.backward_passes  # those that no step before broke
    assert int((pcl_digits(found).argmax(1) == labels).sum()) <= last < len(images) / 2
    assert len(images) < counted.backward_passes < 10 * len(images)
    tiny = ThreatModel("Linf", parse_eps("1/100000"))
    counted = Counted(pcl_digits)
    prototype_margin(counted, images, labels, tiny, seed=0, steps=7)
    assert counted.backward_passes == 7 * len(images)
    assert counted.forward_passes == 8 * len(images)  # the last word on the last step


def test_prototype_attacks_refuse_models_without(ce_digits: Adapter, digits: Dataset) -> None:
    with pytest.raises(AttackError, match="no prototypes"):
        joint_pc(ce_digits, digits.images(), digits.labels, THREATS["Linf"], seed=0)


@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_a_weak_control(norm: str, pcl_digits: Adapter, digits: Dataset) -> None:
    images, labels = correct_part(pcl_digits, digits, 100)
    found = gaussian_noise(pcl_digits, images, labels, THREATS[norm], seed=0)
    assert norms(found - images, THREATS[norm].norm).max() <= THREATS[norm].radius + 1e-6
    assert (pcl_digits(found).argmax(1) == labels).double().mean() > 0.9


def test_the_first_draw_that_breaks_is_kept_and_only_the_unbroken_are_drawn_for_again() -> None:
    """By the model in eval mode, whatever mode it comes in."""
    known = linear("Linf", 3)
    model = nn.Sequential(nn.Dropout(0.9), known.model).train()
    threat = threat_of("Linf", 8 * float(known.smallest.median()))
    images, labels, left = known.images, known.labels, []
    for draws in (1, 8):
        counted = as_counted(model, images)
        before = float(counted.forward_passes.sum())
        found = gaussian_noise(counted, images, labels, threat, draws=draws)
        broken = margins(known.model, found, labels) > 0
        left.append(int((~broken).sum()))
        each = counted.forward_passes - before / len(images)
        assert draws == 1 or (each[~broken] == 8).all()
        assert draws == 1 or (each[broken] < 8).any()
        assert torch.equal(gaussian_noise(model, images, labels, threat, draws=draws), found)
    assert 0 < left[1] < left[0]
    assert model.training


LIBRARY = [a for a in read_suite("full").attacks if a.library == "torchattacks"]


@pytest.mark.parametrize("spec", LIBRARY, ids=lambda s: s.name)
@pytest.mark.parametrize("reading", ["softmax", "nearest"])
def test_each_library_attack_breaks_the_undefended_prototype_models(
    spec, reading: str, pcl_digits: Adapter, nearest_digits: Adapter, digits: Dataset
) -> None:  # type: ignore[no-untyped-def]
    """Negative distances as logits are where libraries fail silently; see PositiveLogits."""
    model = pcl_digits if reading == "softmax" else nearest_digits
    images, labels = correct_part(model, digits, 20)
    for norm in spec.norms:
        threat = THREATS[norm]
        call = Call(spec.library, spec.attack, spec.parameters_for(threat))
        if spec.name == "square":
            call = Call(spec.library, spec.attack, {**spec.parameters, "n_queries": 1000})
        found = call(Counted(model), images, labels, threat, seed=1).images
        assert found.min() >= 0
        assert found.max() <= 1
        if call.record.knows_eps:
            assert norms(found - images, threat.norm).max() <= threat.radius + 1e-5
        broken = (model(found).argmax(1) != labels).double().mean()
        assert broken > (0.15 if spec.name == "fgsm" else 0.4), f"{norm}: broke {broken:.0%}"


def test_cw_does_nothing_on_negative_logits_without_the_shift(
    nearest_digits: Adapter, digits: Dataset
) -> None:
    """Why PositiveLogits is there: on raw negative distances the library's C&W moves nothing."""
    from robusteval.vision import torchvision

    torchvision()
    import torchattacks

    images, labels = correct_part(nearest_digits, digits, 10)
    images = images.clamp(1e-6, 1 - 1e-6)
    assert nearest_digits(images).max() < 0
    bare = torchattacks.CW(nearest_digits, c=1, steps=50, lr=0.01)(images, labels)
    assert (nearest_digits(bare).argmax(1) == labels).all()
    shifted = torchattacks.CW(PositiveLogits(Counted(nearest_digits)), c=1, steps=50, lr=0.01)
    assert (nearest_digits(shifted(images, labels)).argmax(1) != labels).double().mean() > 0.5


def test_cw_moves_pixels_that_are_exactly_0_or_1() -> None:
    weight = torch.zeros(3, 16)
    weight[0], weight[1] = -1.0, 1.0
    model = linear_model(weight, torch.tensor([0.3, 0.0, -99.0]))
    images = torch.zeros(2, 1, 4, 4)  # every pixel at the edge of tanh space
    labels = torch.zeros(2, dtype=torch.int64)
    found = torchattacks_attack(
        Counted(model),
        images,
        labels,
        THREATS["L2"],
        name="CW",
        seed=0,
        parameters={"c": 5.0, "steps": 300, "lr": 0.05},
    ).images
    assert (model(found).argmax(1) == 1).all()


def test_positive_logits_change_no_difference() -> None:
    model = linear_model(torch.randn(4, 16), torch.full((4,), -50.0))
    images = torch.rand(6, 1, 4, 4)
    raw, shifted = model(images), PositiveLogits(Counted(model))(images)
    assert shifted.min() >= 1 - 1e-4
    torch.testing.assert_close(raw - raw[:, :1], shifted - shifted[:, :1], atol=1e-4, rtol=1e-4)
    positive = linear_model(torch.rand(4, 16), torch.full((4,), 5.0))
    assert torch.equal(positive(images), PositiveLogits(Counted(positive))(images))


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_autoattack_with_few_classes(classes: int, norm: str) -> None:
    generator = torch.Generator().manual_seed(classes)
    model = linear_model(torch.randn((classes, 64), generator=generator), torch.zeros(classes))
    images = torch.rand((6, 1, 8, 8), generator=generator)
    labels = model(images).argmax(1)
    threat = ThreatModel(norm, parse_eps("0.3" if norm == "Linf" else "2"))  # type: ignore[arg-type]
    counted = Counted(model)
    result = autoattack(counted, images, labels, threat, seed=0)
    assert (model(result.images).argmax(1) != labels).all()
    assert norms(result.images - images, threat.norm).max() <= threat.radius + 1e-5
    assert counted.forward_passes > 0
    assert counted.backward_passes > 0
    members, left_out = autoattack_members(classes)
    assert ("apgd-t" in members) == (classes >= 4)
    assert (left_out in result.notes) == (classes < 4)


@pytest.mark.parametrize("norm", NORMS)
def test_where_all_logits_are_one_the_first_class_stays(norm: Norm) -> None:
    """Square takes a tie for broken, and would search on no images."""
    model = Function(lambda x: 0 * x.flatten(1)[:, :5])
    images, labels = images_near_grey(4), torch.zeros(4, dtype=torch.long)
    threat = threat_of(norm, 0.1)
    found = autoattack(model, images, labels, threat)
    assert [(stage.name, stage.broke) for stage in found.stages][-1] == ("square", 0)
    in_threat(found.images, images, threat)
    assert margins(model, found.images, labels).tolist() == [0] * 4
    assert adaptive(model, images, labels, threat, passes_per_sample=60).shape == images.shape


def test_autoattack_tells_what_each_member_broke() -> None:
    """A linear model with margins on both sides of ε: exact robustness is known."""
    direction = torch.ones(4, 16) * torch.tensor([[1.0], [-1.0], [0.0], [0.0]])
    model = linear_model(direction, torch.tensor([0.0, 0.0, -99.0, -99.0]))
    images = torch.full((8, 1, 4, 4), 0.5)
    offsets = torch.linspace(0.01, 0.08, 8)
    images += offsets.view(-1, 1, 1, 1)
    direction_bias = torch.tensor([-16.0, 0.0, -99.0, -99.0])
    model.module[1].bias.data.copy_(direction_bias)  # the boundary lies at a mean pixel of 0.5
    labels = torch.zeros(8, dtype=torch.int64)
    threat = ThreatModel("Linf", parse_eps("0.045"))
    result = autoattack(Counted(model), images, labels, threat, seed=0)
    broken = model(result.images).argmax(1) != labels
    assert broken.tolist() == (offsets < 0.045).tolist()
    assert result.stages == [
        Stage("apgd-ce", 4, 8),
        Stage("apgd-t", 0, 4),
        Stage("fab-t", 0, 4),
        Stage("square", 0, 4),
    ]
    assert result.warned[0].kind == "zero_gradient"
    # The library's own warning is kept.
    assert said(result.warned[0]).startswith(
        f"there are {result.warned[0].number:.0f} points with zero gradient! This might lead to"
    )


def test_autoattacks_warnings_are_kept_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    class Softmaxed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.stack([images.mean((1, 2, 3)), 1 - images.mean((1, 2, 3))], 1)
            return (50 * logits).softmax(1)

    model = Adapter(Softmaxed(), 2)
    images = torch.rand(4, 1, 4, 4) * 0.2
    result = autoattack(Counted(model), images, model(images).argmax(1), THREATS["Linf"], seed=0)
    assert [warned.kind for warned in result.warned][-1] == "library"
    assert any("probability distribution" in warned.text for warned in result.warned)
    assert "probability" not in capsys.readouterr().err


def test_same_seed_same_images(pcl_digits: Adapter, digits: Dataset) -> None:
    images, labels = correct_part(pcl_digits, digits, 20)
    threat = ThreatModel("Linf", parse_eps("0.05"))
    call = Call("torchattacks", "PGD", {"alpha": 0.01, "steps": 5, "random_start": True})
    first, again, other = (
        call(Counted(pcl_digits), images, labels, threat, seed=s).images for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    threat = THREATS["Linf"]
    square = Call("torchattacks", "Square", {"n_queries": 50})
    first, other = (
        square(Counted(pcl_digits), images, labels, threat, seed=s).images for s in (3, 4)
    )
    assert not torch.equal(first, other)


def test_unknown_library_names_and_parameters(pcl_digits: Adapter, digits: Dataset) -> None:
    images, labels = correct_part(pcl_digits, digits, 10)
    with pytest.raises(UnknownNameError, match="no attack 'PDG'"):
        Call("torchattacks", "PDG", {})(Counted(pcl_digits), images, labels, THREATS["Linf"], 0)
    with pytest.raises(AttackError, match="step"):
        Call("torchattacks", "PGD", {"step": 3})(
            Counted(pcl_digits), images, labels, THREATS["Linf"], 0
        )
    with pytest.raises(AttackError, match="setps"):
        Call("robusteval", "joint_pc", {"setps": 3})(
            Counted(pcl_digits), images, labels, THREATS["Linf"], 0
        )


def test_a_deadline_stops_an_attack(pcl_digits: Adapter, digits: Dataset) -> None:
    counted = Counted(pcl_digits, deadline=0.0)
    with pytest.raises(TimeLimitReached):
        counted(digits.images(slice(0, 2)))


def test_wrappers_stay_in_eval_mode(pcl_digits: Adapter) -> None:
    wrapper = PositiveLogits(Counted(pcl_digits))
    assert not wrapper.training
    wrapper.train()
    assert not any(m.training for m in wrapper.modules())


SHORT = {"n_queries": 100}


def test_channels_last_images_reach_libraries_contiguous() -> None:
    """In colour, since the two layouts of a grey image are one."""
    generator = torch.Generator().manual_seed(0)
    model = linear_model(torch.randn((10, 192), generator=generator), torch.zeros(10))
    plain = torch.rand((8, 3, 8, 8), generator=generator)
    images = plain.to(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    labels, threat = model(plain).argmax(1), threat_of("Linf", 0.2)
    for name in ("autoattack", "square"):
        attack = autoattack if name == "autoattack" else Call("torchattacks", "Square", SHORT)
        given = (attack(Counted(model), x, labels, threat, seed=0) for x in (images, plain))
        found, expected = (result.images for result in given)
        assert torch.equal(found, expected), name
        assert (model(found).argmax(1) != labels).sum() > 4, name


@pytest.mark.parametrize("name", ["APGD", "APGDT"])
def test_norm_and_seed_reach_whatever_takes_them(name: str, digits: Dataset) -> None:
    """In L2 these would run as L∞ attacks at the L2 ε, from one seed for every restart."""
    data = digits.balanced_subset(10)
    model, threat = load_model(find_entry("pcl_at_digits")), ThreatModel("L2", parse_eps("1"))
    counted = Counted(model, len(data))
    found = [
        torchattacks_attack(
            counted,
            data.images(),
            data.labels,
            threat,
            name=name,
            seed=seed,
            parameters={"steps": 5},
        ).images
        for seed in (0, 1)
    ]
    assert norms(found[0] - data.images(), "L2").max() <= 1 + 1e-4
    assert not torch.equal(*found)
