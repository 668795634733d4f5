"""Own prototypes beside any module: as the project's own networks to the bit, in closed form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from robusteval import api
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
from robusteval.attacks.smallest import smallest
from robusteval.errors import AttackError, RobustevalError
from robusteval.evidence.judge import state_digest
from robusteval.models.acceleration import Acceleration, accelerated, folded_if_same
from robusteval.models.adapter import Adapter, PrototypeAdapter, wrap_module
from robusteval.models.backbones import CNN6, Backbone
from robusteval.models.head import Head, Pooling, Similarity
from robusteval.models.network import PrototypeNetwork
from robusteval.models.own import AT
from robusteval.models.prototypes import pool_to_classes, prototype_distances
from robusteval.types import Norm
from tests.helpers.known import (
    images_near_grey,
    in_threat,
    nearest_prototypes,
    pixel_prototypes,
    small_network,
    threat_of,
)

MEAN, STD = [0.4], [0.3]
IMAGES = images_near_grey(10)


class Alone(nn.Module):
    """A zoo's network as other people have theirs: it gives logits, and knows of no harness."""

    def __init__(self, backbone: Backbone, prototypes: Tensor, similarity: Similarity) -> None:
        super().__init__()
        self.backbone, self.last = backbone, nn.Identity()
        self.prototypes, self.similarity = nn.Parameter(prototypes.clone()), similarity

    def embed(self, images: Tensor) -> Tensor:
        found: Tensor = self.backbone(images)["fc2"]
        return found

    def forward(self, images: Tensor) -> Tensor:
        features = self.last(self.embed(images))
        distances = prototype_distances(features, self.prototypes, self.similarity)
        return pool_to_classes(-distances, "max")


def of_the_zoo(per_class: int, similarity: Similarity) -> PrototypeAdapter:
    torch.manual_seed(per_class)
    head = Head(
        reading="nearest_prototype",
        layers=["fc2"],
        similarity=similarity,
        prototypes_per_class=per_class,
    )
    backbone = CNN6(1, [4, 4, 4], [8, 6], 3)
    return PrototypeAdapter(PrototypeNetwork(backbone, head, 5, MEAN, STD))


def alone(zoo: PrototypeAdapter) -> Alone:
    network = zoo.module
    return Alone(network.backbone, network.prototypes["fc2"], network.head.similarity)


def wrapped(zoo: PrototypeAdapter, reading: str = "module", **more: Any) -> Adapter:
    module = alone(zoo)
    given = {"features": "last", "prototypes": module.prototypes, **more}
    similarity = zoo.module.head.similarity
    return wrap_module(module, 5, MEAN, STD, similarity=similarity, reading=reading, **given)  # type: ignore[arg-type]


# The same as the project's own


@pytest.mark.parametrize("similarity", get_args(Similarity))
@pytest.mark.parametrize("reading", ["module", "nearest_prototype"])
def test_it_is_the_same_function_to_the_bit(similarity: Similarity, reading: str) -> None:
    zoo = of_the_zoo(2, similarity)
    own = wrapped(zoo, reading)
    assert torch.equal(own(IMAGES), zoo(IMAGES))
    assert torch.equal(own.embed(IMAGES), zoo.embed(IMAGES))
    assert torch.equal(own.distances(IMAGES), zoo.distances(IMAGES))
    (logits, squared), (other, of_zoo) = (m.logits_and_distances(IMAGES) for m in (own, zoo))
    assert torch.equal(logits, other)
    assert torch.equal(squared[own.layers[-1]], of_zoo["fc2"])
    assert torch.equal(own.class_distances(), zoo.class_distances())  # type: ignore[arg-type]
    assert own.parts == zoo.parts
    assert own.prototypes_per_class == zoo.prototypes_per_class == 2
    assert own.reads_distances == (reading == "nearest_prototype")


@pytest.mark.parametrize(("norm", "per_class"), [("Linf", 3), ("L2", 1)])
def test_attacks_find_the_same_images(norm: Norm, per_class: int) -> None:
    zoo = of_the_zoo(per_class, "sql2")
    labels, threat = zoo(IMAGES).argmax(1), threat_of(norm, 0.02 if norm == "Linf" else 0.1)
    attacks: list[Callable[[Adapter], Tensor]] = [
        lambda m: prototype_margin(m, IMAGES, labels, threat, steps=5),
        lambda m: joint_pc(m, IMAGES, labels, threat, steps=5),
    ]
    for reading in ("module", "nearest_prototype"):
        for attack in attacks:
            assert torch.equal(attack(wrapped(zoo, reading)), attack(zoo))
    by_distances = [
        lambda m: adaptive(m, IMAGES, labels, threat, passes_per_sample=16),
        lambda m: smallest(m, IMAGES, labels, threat, steps=10),
    ]
    for attack in by_distances:
        assert torch.equal(attack(wrapped(zoo, "nearest_prototype")), attack(zoo))


def test_logits_computed_another_way_are_nearly_the_same() -> None:
    zoo = of_the_zoo(2, "sql2")

    class Expanded(Alone):
        def forward(self, images: Tensor) -> Tensor:
            features = self.last(self.embed(images))
            apart = features[:, None, None] - self.prototypes
            return -(apart * apart).sum(3).amin(2)

    network = zoo.module
    module = Expanded(network.backbone, network.prototypes["fc2"], "sql2")
    own = wrap_module(module, 5, MEAN, STD, prototypes=module.prototypes, features="last")
    torch.testing.assert_close(own(IMAGES), zoo(IMAGES))
    labels, threat = zoo(IMAGES).argmax(1), threat_of("L2", 0.1)
    found, expected = (joint_pc(m, IMAGES, labels, threat, steps=5) for m in (own, zoo))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("per_class", [1, 2])
def test_smallest_perturbations_in_closed_form(norm: Norm, per_class: int) -> None:
    """Features are the pixels: the nearest prototype's region is an intersection of half-spaces."""
    known = nearest_prototypes(norm, per_class, count=12)
    prototypes = known.model.module.prototypes["pixels"]  # type: ignore[union-attr]
    own = wrap_module(nn.Flatten(), prototypes=prototypes, reading="nearest_prototype")
    assert torch.equal(own(known.images), known.model(known.images))
    found = smallest(own, known.images, known.labels, threat_of(norm, 1), steps=100)
    ratios = known.ratios(found)
    assert ratios.min() > 1 - 1e-4
    assert ratios.median() < 1.05
    radius = 1.2 * float(known.smallest.max())
    threat = threat_of(norm, radius)
    broken = prototype_margin(own, known.images, known.labels, threat)
    in_threat(broken, known.images, threat)
    assert (own(broken).argmax(1) != known.labels).all()


@pytest.mark.parametrize("similarity", get_args(Similarity))
@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_gradients_against_finite_differences(similarity: Similarity, pooling: Pooling) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh())
    given = {"similarity": similarity, "pooling": pooling, "temperature": 0.7}
    own = wrap_module(
        net,
        prototypes=torch.randn(3, 2, 4),
        reading="nearest_prototype",
        **given,  # type: ignore[arg-type]
    ).double()
    images = torch.rand(3, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    for function in (own, own.distances, lambda x: own.logits_and_distances(x)[1][AT]):
        assert torch.autograd.gradcheck(function, (images,), eps=1e-6, atol=1e-6)  # type: ignore[arg-type]


# Where features come from


class Deep(nn.Module):
    """Maps, a batch norm, a layer that works in place, vectors, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.head = nn.Linear(4, 5)
        self.body[1].running_mean = torch.rand(4)
        self.body[1].running_var = 0.5 + torch.rand(4)

    def maps(self, images: Tensor) -> Tensor:
        found: Tensor = self.body[:2](images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(images).mean((2, 3)))
        return found


PROTOTYPES = torch.randn((5, 2, 4), generator=torch.Generator().manual_seed(0))


def test_features_of_a_layer_are_what_it_gave() -> None:
    """Not what the layer after it made of them, and averaged over maps."""
    net = Deep().eval()
    expected = net.maps((IMAGES - 0.4) / 0.3).mean((2, 3))
    for features in ("body.1", net.maps, lambda x: net.maps(x).mean((2, 3))):
        own = wrap_module(net, 5, 0.4, 0.3, prototypes=PROTOTYPES, features=features)
        assert torch.equal(own.embed(IMAGES), expected)
        distances = prototype_distances(expected, PROTOTYPES, "sql2")
        assert torch.equal(own.distances(IMAGES), distances)
        assert torch.equal(own(IMAGES), net((IMAGES - 0.4) / 0.3))


def test_features_may_be_a_module_which_is_frozen_and_digested() -> None:
    net, other = Deep(), nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    for features in (other, other.forward):
        own = wrap_module(net, prototypes=PROTOTYPES, features=features)
        torch.testing.assert_close(own.embed(IMAGES), other(IMAGES))
        assert not any(p.requires_grad for p in other.parameters())
        before = state_digest(own)
        with torch.no_grad():
            other[1].bias[0] += 1
        assert state_digest(own) != before


def test_names_of_layers_do_without_wrappers() -> None:
    net = Deep()
    for module, name in (
        (nn.DataParallel(net), "module.body.1"),
        (nn.DataParallel(net), "body.1"),
        (torch.compile(net), "_orig_mod.body.1"),
        (nn.Sequential(wrap_module(net, 5)), "0.body.1"),
    ):
        own = wrap_module(module, prototypes=PROTOTYPES, features=name)
        torch.testing.assert_close(own.embed(IMAGES), net.maps(IMAGES).mean((2, 3)))


@pytest.mark.parametrize(
    "given", [PROTOTYPES, PROTOTYPES.numpy(), PROTOTYPES.double(), PROTOTYPES.tolist()]
)
def test_prototypes_of_any_type_are_copied(given: Any) -> None:
    own = wrap_module(Deep(), prototypes=given, features="body.1")
    assert own.classes == 5
    before = own.distances(IMAGES)
    if isinstance(given, Tensor):
        kept = given.clone()
        given.zero_()
        assert torch.equal(own.distances(IMAGES), before)
        given.copy_(kept)
    single = wrap_module(Deep(), prototypes=PROTOTYPES[:, 0], features="body.1")
    assert torch.equal(single.distances(IMAGES), before[:, :, :1])


def test_logits_and_features_take_no_more_passes_than_they_need() -> None:
    net, calls = Deep(), {"whole": 0, "maps": 0}
    net.register_forward_hook(lambda *_: calls.update(whole=calls["whole"] + 1))

    def features(images: Tensor) -> Tensor:
        calls["maps"] += 1
        return net.maps(images)

    own = wrap_module(net, prototypes=PROTOTYPES, features=features)
    own(IMAGES)
    assert calls == {"whole": 1, "maps": 0}
    own.logits_and_distances(IMAGES)
    assert calls == {"whole": 2, "maps": 1}
    nearest = wrap_module(
        net, prototypes=PROTOTYPES, features=features, reading="nearest_prototype"
    )
    nearest(IMAGES)
    nearest.logits_and_distances(IMAGES)
    assert calls == {"whole": 2, "maps": 3}


# Faster forms


@pytest.mark.parametrize("how", [Acceleration(), Acceleration(bfloat16=True)])
@pytest.mark.parametrize("reading", ["module", "nearest_prototype"])
@pytest.mark.parametrize("by", ["layer", "function"])
def test_faster_forms_are_the_same_function(how: Acceleration, reading: str, by: str) -> None:
    net = Deep()
    features = "body.1" if by == "layer" else net.maps
    own = wrap_module(net, prototypes=PROTOTYPES, features=features, reading=reading)  # type: ignore[arg-type]
    fast, slack = accelerated(own, how), 0.1 if how.bfloat16 else 1e-4
    for name in ("forward", "distances", "embed"):
        first, second = (getattr(m, name)(IMAGES) for m in (own, fast))
        torch.testing.assert_close(second, first, atol=slack, rtol=slack)
    squared = [m.logits_and_distances(IMAGES)[1][AT] for m in (own, fast)]
    torch.testing.assert_close(squared[1], squared[0], atol=slack, rtol=slack)


def test_a_compiled_form_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **k: compiler(m, backend="eager", **k))
    own = wrap_module(Deep(), prototypes=PROTOTYPES, features="body.1")
    fast, images = accelerated(own, Acceleration(compiled=True)), images_near_grey(128)
    torch.testing.assert_close(fast(images), own(images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast.distances(images), own.distances(images), atol=1e-4, rtol=1e-4)


def test_a_layer_that_folding_changes_is_not_folded() -> None:
    """Logits would be the same, and distances others."""
    assert folded_if_same(wrap_module(Deep(), 5), IMAGES) is not None
    at = {"body.0": False, "body.1": True, "body": True}
    for name, folds in at.items():
        own = wrap_module(Deep(), prototypes=PROTOTYPES, features=name)
        assert (folded_if_same(own, IMAGES) is not None) == folds, name


# What is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prototypes": torch.zeros(5)}, r"prototypes \(5,\): give \(K, M, D\)"),
        ({"prototypes": torch.zeros(5, 1, 2, 3)}, "give .K, M, D., M for each of K classes"),
        ({"prototypes": torch.zeros(5, 0, 4)}, "give .K, M, D."),
        (
            {"prototypes": torch.zeros(1, 2, 4), "classes": None},
            "of 1 classes: give those of two classes or more",
        ),
        ({"prototypes": PROTOTYPES, "classes": 10}, "of 5 classes: give those of 10 classes"),
        ({"prototypes": torch.full((5, 4), torch.nan)}, "hold NaN or infinity"),
        ({"prototypes": torch.full((5, 4), 1e300, dtype=torch.float64)}, "hold NaN or infinity"),
        ({"prototypes": torch.zeros(5, 4) + 0j}, "torch.complex64"),
        ({"prototypes": torch.zeros(5, 4).to_sparse()}, "give dense numbers"),
        ({"prototypes": torch.zeros(5, 4, device="meta")}, "on the device meta"),
        ({"prototypes": "prototypes.pt"}, "prototypes are a str: give a tensor or an array"),
        ({"prototypes": [[1.0], [1.0, 2.0]]}, "prototypes are a list"),
        ({"features": "body.7"}, r"no such layer: did you mean body\.\d"),
        ({"features": None}, "prototypes need features: name a layer"),
        ({"features": 3}, "features = 3: give a layer's name or a function"),
        ({"similarity": "l3"}, "similarity must be 'l2', 'sql2'"),
        ({"pooling": "min"}, "pooling must be 'max'"),
        ({"temperature": 0}, "temperature must be"),
        ({"temperature": "1"}, "temperature needs a number"),
        ({"reading": "softmax"}, "reading = 'softmax': choose one of module, nearest_prototype"),
        ({"prototypes": None, "pooling": "mean"}, "give prototypes=… with them"),
        ({"prototypes": None}, "give prototypes=… with them"),
        ({"classes": 1}, "classes = 1: choose a whole number"),
        ({"std": 0}, "choose values above 0"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(given: dict[str, Any], said: str) -> None:
    usual: dict[str, Any] = {"classes": 5, "prototypes": PROTOTYPES, "features": "body.1"}
    with pytest.raises(AttackError, match=said) as caught:
        wrap_module(Deep(), **{**usual, **given})
    assert "\n" not in str(caught.value)


class Odd(nn.Module):
    """Layers that give something else than features."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.unused, self.pair = nn.Flatten(), nn.Identity(), nn.Identity()
        self.tokens, self.whole, self.nan = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        flat: Tensor = self.flat(images)
        self.flat(images)
        self.pair((flat, flat))
        self.tokens(flat.view(-1, 4, 16))
        self.whole((255 * flat).long())
        self.nan(flat / 0)
        return flat[:, :10]


WIDE = torch.zeros(10, 16)


@pytest.mark.parametrize("door", [api.evaluate, api.estimate])
@pytest.mark.parametrize(
    ("features", "said"),
    [
        ("unused", "the layer 'unused' is reached 0 times in a pass"),
        ("flat", "the layer 'flat' is reached 2 times in a pass"),
        ("pair", "the layer 'pair' gives a tuple"),
        ("tokens", r"the layer 'tokens' gives shape \(1, 4, 16\) for 1 images"),
        ("whole", "the layer 'whole' gives torch.int64"),
        ("nan", "the layer 'nan' gives NaN or infinity on clean images"),
        (lambda x: x.flatten(1), r"a function gives shape \(1, 64\).*prototypes are \(10, 1, 16\)"),
        (lambda x: {}["no"], r"fails on clean images \(KeyError: 'no'\)"),
        (lambda x: None, "a function gives None"),
    ],
)
def test_unfit_features_are_told_before_the_first_attack(
    door: Callable[..., object], features: Any, said: str, tmp_path: Path
) -> None:
    prototypes = torch.zeros(10, 64) if features == "nan" else WIDE
    model = wrap_module(Odd(), prototypes=prototypes, features=features)
    options = api.Options(samples=20, out=tmp_path / "out")
    with pytest.raises(RobustevalError, match=said) as caught:
        door(model, "quick", "digits", "mine", options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


class Sloppy(Adapter):
    """An adapter of one's own that shows its prototypes in another shape."""

    squared: dict[str, Tensor]
    embedding = torch.zeros(0)

    @property
    def layers(self) -> tuple[str, ...]:
        return ("fc",)

    def embed(self, images: Tensor) -> Tensor:
        return self.embedding if len(self.embedding) else images.flatten(1)

    def distances(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 10, 2)

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {k: v[: len(images)] for k, v in self.squared.items()}


@pytest.mark.parametrize(
    ("squared", "embedding", "said"),
    [
        ({}, [], "gives distances of no layer, but layers are fc"),
        ({"fc1": torch.zeros(2, 10, 2)}, [], "distances of fc1, but layers are fc"),
        ({"fc": torch.zeros(2, 10)}, [], r"squared distances of fc are of shape \(1, 10\)"),
        ({"fc": torch.zeros(2, 3, 2)}, [], r"of shape \(1, 3, 2\) for 1 images and 10 classes"),
        ({"fc": torch.zeros(2, 10, 2)}, [1.0], r"embed gives shape \(1,\) .*: give \(B, D\)"),
    ],
)
def test_an_adapter_of_ones_own_is_held_to_its_shapes(
    squared: dict[str, Tensor], embedding: list[float], said: str, tmp_path: Path
) -> None:
    model = Sloppy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10)
    model.squared, model.embedding = squared, torch.tensor(embedding)
    with pytest.raises(AttackError, match=said):
        api.evaluate(model, "quick", "digits", "mine", api.Options(samples=20, out=tmp_path))


# The digest


def test_all_that_decides_is_in_the_digest() -> None:
    usual: dict[str, Any] = {"prototypes": PROTOTYPES, "features": "body.1"}
    moved = PROTOTYPES.clone()
    moved[0, 0, 0] += 1e-3
    changes: list[dict[str, Any]] = [
        {},
        {"prototypes": moved},
        {"prototypes": PROTOTYPES[:, :1]},
        {"reading": "nearest_prototype"},
        {"similarity": "l2"},
        {"pooling": "mean"},
        {"temperature": 0.5},
        {"features": "body.2"},
        {"features": Deep().maps},
        {"mean": 0.5},
    ]
    digests = [state_digest(wrap_module(Deep(), **{**usual, **change})) for change in changes]
    assert len(set(digests)) == len(changes)
    assert digests[0] == state_digest(wrap_module(Deep(), **usual))
    assert state_digest(wrap_module(Deep(), 5)) not in digests


def test_pixel_prototypes_are_the_same_by_both_ways() -> None:
    """Of the helper that other tests trust."""
    prototypes = torch.rand(4, 3, 64)
    own = wrap_module(nn.Flatten(), prototypes=prototypes, reading="nearest_prototype")
    assert torch.equal(own(IMAGES), pixel_prototypes(prototypes)(IMAGES))
    assert wrap_module(small_network(), 5).agreement(IMAGES) is None
