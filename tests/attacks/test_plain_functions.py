"""What plain functions are given: refused in one line, or taken for what it is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks.adaptive import adaptive, adaptive_result
from robusteval.attacks.cr import cr
from robusteval.attacks.gaussian_noise import gaussian_noise
from robusteval.attacks.libraries.advlib import advlib_attack
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.libraries.foolbox import foolbox_attack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.pma import pma
from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
from robusteval.attacks.smallest import smallest
from robusteval.attacks.transfer import transfer
from robusteval.errors import AttackError
from robusteval.models.adapter import wrap_module
from tests.helpers.known import (
    Function,
    margins,
    nearest_prototypes,
    small_network,
    threat_of,
)

Attack = Callable[..., Any]


def by_torchattacks(*given: Any) -> Tensor:
    return torchattacks_attack(*given, name="PGD", seed=0, parameters={"steps": 2}).images


def by_advlib(*given: Any) -> Tensor:
    pytest.importorskip("adv_lib")
    return advlib_attack(*given, name="fmn", seed=0, parameters={"steps": 2}).images


def by_foolbox(*given: Any) -> Tensor:
    pytest.importorskip("foolbox")
    return foolbox_attack(*given, name="LInfFMNAttack", seed=0, parameters={"steps": 2}).images


def by_source(*given: Any) -> Tensor:
    return transfer(*given, source=nearest_prototypes(count=4).model, steps=2)


def by_noise(*given: Any) -> Tensor:
    return gaussian_noise(*given, draws=2)


PLAIN: list[Attack] = [
    *(adaptive, adaptive_result, smallest, by_source, joint_pc, prototype_margin),
    *(cr, pma, gaussian_noise, by_noise, by_torchattacks, by_advlib, by_foolbox, autoattack),
]
THREAT = threat_of("Linf", 0.05)
KNOWN = nearest_prototypes(count=6)
IMAGES, LABELS = KNOWN.images, KNOWN.labels

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "a name": (("pcl_digits", IMAGES, LABELS, THREAT), r"the model is a str: .*load_model"),
    "a function": ((lambda x: x, IMAGES, LABELS, THREAT), "the model is a function"),
    "arrays": (
        (KNOWN.model, IMAGES.numpy(), LABELS, THREAT),
        "images are a ndarray: pass a tensor",
    ),
    "a tuple": ((KNOWN.model, (IMAGES,), LABELS, THREAT), "images are a tuple"),
    "nothing": ((KNOWN.model, None, LABELS, THREAT), "images are None"),
    "one image": ((KNOWN.model, IMAGES[0], LABELS[:1], THREAT), r"\(1, 8, 8\).*images\[None\]"),
    "vectors": (
        (KNOWN.model, IMAGES.flatten(1), LABELS, THREAT),
        r"\(6, 64\): pass \(B, C, H, W\)",
    ),
    "no pixels": ((KNOWN.model, IMAGES[..., :0], LABELS, THREAT), r"\(6, 1, 8, 0\)"),
    "bytes": (
        (KNOWN.model, (255 * IMAGES).byte(), LABELS, THREAT),
        r"uint8: .*images.float\(\) / 255",
    ),
    "halves": ((KNOWN.model, IMAGES.half(), LABELS, THREAT), "float16: pass float32"),
    "bfloat16": ((KNOWN.model, IMAGES.bfloat16(), LABELS, THREAT), "bfloat16: pass float32"),
    "integers": ((KNOWN.model, IMAGES.long(), LABELS, THREAT), "int64: pass float32"),
    "sparse": ((KNOWN.model, IMAGES.to_sparse(), LABELS, THREAT), "sparse_coo: pass a dense"),
    "no values": (
        (KNOWN.model, IMAGES.to("meta"), LABELS, THREAT),
        "images are on the device meta",
    ),
    "no numbers": ((KNOWN.model, IMAGES, LABELS.to("meta"), THREAT), "labels are on the device"),
    "NaN": ((KNOWN.model, IMAGES.log().sqrt(), LABELS, THREAT), "NaN or infinite pixels"),
    "infinity": ((KNOWN.model, IMAGES / 0, LABELS, THREAT), "NaN or infinite pixels"),
    "another range": ((KNOWN.model, 2 * IMAGES - 1, LABELS, THREAT), r"scale them to \[0, 1\]"),
    "floats": ((KNOWN.model, IMAGES, LABELS.float(), THREAT), r"float32: .*labels.long\(\)"),
    "truths": ((KNOWN.model, IMAGES, LABELS > 0, THREAT), "bool: pass class numbers"),
    "one-hot": ((KNOWN.model, IMAGES, torch.eye(6, 4).long(), THREAT), r"\(6, 4\) for 6 images"),
    "a column": ((KNOWN.model, IMAGES, LABELS[:, None], THREAT), r"\(6, 1\) for 6 images"),
    "too few": ((KNOWN.model, IMAGES, LABELS[:5], THREAT), r"\(5,\) for 6 images"),
    "an array": ((KNOWN.model, IMAGES, LABELS.numpy(), THREAT), "labels are a ndarray"),
    "a list": ((KNOWN.model, IMAGES, LABELS.tolist(), THREAT), "labels are a list"),
    "too high": ((KNOWN.model, IMAGES, 0 * LABELS + 4, THREAT), "label 4, but the model has 4"),
    "below 0": (
        (KNOWN.model, IMAGES, 0 * LABELS - 1, THREAT),
        "label -1: classes are counted from",
    ),
    "a radius": ((KNOWN.model, IMAGES, LABELS, 0.05), r"the threat is a float: .*ThreatModel\("),
    "a norm": ((KNOWN.model, IMAGES, LABELS, "Linf"), "the threat is a str"),
}


@pytest.mark.parametrize("attack", PLAIN)
def test_what_no_attack_can_be_about_is_refused_in_one_line(attack: Attack) -> None:
    for name, (given, said) in REFUSED.items():
        with pytest.raises(AttackError, match=said) as caught:
            attack(*given)
        assert "\n" not in str(caught.value), name


ODD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tuple": (lambda z: (z, z), "the module returns a tuple: attacks need logits"),
    "dict": (lambda z: {"logits": z}, "returns a dict"),
    "other tuple": (lambda z: (z[:, None], z), "returns a tuple"),
    "other dict": (lambda z: {"scores": z}, "returns a dict"),
    "array": (lambda z: z.detach().numpy(), "returns a ndarray"),
    "None": (lambda z: None, "returns None"),
    "complex": (lambda z: z + 0j, "returns torch.complex64"),
    "squeezed": (torch.squeeze, r"shape \(5,\) for one image: attacks need logits \(B, "),
    "with a middle": (lambda z: z[:, None], r"shape \(1, 1, 5\) for one image"),
    "as maps": (lambda z: z[:, :, None, None], r"shape \(1, 5, 1, 1\) for one image"),
    "a class": (lambda z: z.argmax(1).float(), r"shape \(1,\) for one image"),
    "of the batch": (lambda z: z.mean(0, keepdim=True), r"shape \(1, 5\) for 2 images"),
}
READ_WHERE_WRAPPED = ("tuple", "dict")
NEED_NO_LOGITS = (gaussian_noise, joint_pc, prototype_margin)  # or prototypes


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("attack", [a for a in PLAIN if a not in NEED_NO_LOGITS])
def test_a_module_that_returns_no_logits_is_refused(attack: Attack, wrapped: bool) -> None:
    network = small_network()
    for name, (odd, said) in ODD.items():
        if wrapped and name in READ_WHERE_WRAPPED:
            continue
        module: nn.Module = Function(lambda x, odd=odd: odd(network(x)))  # type: ignore[misc]
        module = wrap_module(module, 5) if wrapped else module
        with pytest.raises(AttackError, match=said):
            attack(module, IMAGES, LABELS, THREAT)


@pytest.mark.parametrize("attack", [a for a in PLAIN if a is not gaussian_noise])
def test_images_that_the_model_cannot_read(attack: Attack) -> None:
    """Torch's words, and one line."""
    wide = IMAGES.repeat(1, 3, 1, 1)
    with pytest.raises(AttackError, match=r"the module fails on clean images \(RuntimeError: "):
        attack(KNOWN.model, wide, LABELS, THREAT)


def test_float64_images_ask_for_float64_weights() -> None:
    for model in (small_network(), wrap_module(small_network(), 5)):
        with pytest.raises(AttackError, match="weights are float32, the images float64"):
            smallest(model, IMAGES.double(), LABELS, THREAT)
    network = small_network()
    labels = network(IMAGES).argmax(1)
    double = smallest(network.double(), IMAGES.double(), labels, THREAT)
    assert double.dtype == torch.float64
    assert (margins(network, double, labels) > 0).all()


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8, torch.uint16])
@pytest.mark.parametrize("attack", [smallest, joint_pc, prototype_margin, by_torchattacks])
def test_labels_of_any_integer_type(attack: Attack, kind: torch.dtype) -> None:
    found = attack(KNOWN.model, IMAGES, LABELS.to(kind), THREAT)
    assert torch.equal(found, attack(KNOWN.model, IMAGES, LABELS, THREAT))


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.5, "3", None])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    for attack in (adaptive, smallest, gaussian_noise):
        with pytest.raises(AttackError, match=r"seed = .*: choose a whole number from 0 up"):
            attack(KNOWN.model, IMAGES, LABELS, THREAT, seed=seed)
    gaussian_noise(KNOWN.model, IMAGES, LABELS, THREAT, seed=np.int64(3))  # type: ignore[arg-type]


def test_images_and_labels_stay_the_callers() -> None:
    images, labels = IMAGES.clone().requires_grad_(), LABELS.clone()
    for attack in (smallest, joint_pc, by_torchattacks):
        assert not attack(KNOWN.model, images, labels, THREAT).requires_grad
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert images.grad is None


@pytest.mark.parametrize("source", [3, None, ["ce_digits"]])
def test_a_source_is_a_name_or_a_module(source: Any) -> None:
    with pytest.raises(AttackError, match="source"):
        transfer(KNOWN.model, IMAGES, LABELS, THREAT, source=source)


def test_an_unknown_version_of_autoattack() -> None:
    with pytest.raises(AttackError, match="version 'plus': choose standard or rand"):
        autoattack(KNOWN.model, IMAGES, LABELS, THREAT, version="plus")  # type: ignore[arg-type]
