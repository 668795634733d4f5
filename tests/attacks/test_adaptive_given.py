"""What ``adaptive`` is given: any module, images of any shape, what can't be attacked."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.smallest import smallest
from robusteval.errors import AttackError
from robusteval.types import Norm
from tests.helpers.known import (
    Function,
    images_near_grey,
    in_threat,
    linear,
    margins,
    small_network,
    threat_of,
)


def test_no_images_are_no_work() -> None:
    none = torch.zeros(0, 1, 8, 8)
    assert adaptive(nn.Flatten(), none, none[:, 0, 0, 0].long(), threat_of("Linf", 0.1)).shape == (
        none.shape
    )


def test_no_empty_batch_reaches_the_model() -> None:
    """Survivors may all have tried a class when those that hadn't broke: ``view`` can't take it."""
    for seed, classes in ((1, 3), (2, 3), (5, 4), (10, 4)):
        torch.manual_seed(seed)
        first, last, seen = nn.Linear(64, 32), nn.Linear(32, classes), set()

        def logits(x: Tensor, a: nn.Module = first, b: nn.Module = last, n: set[int] = seen) -> Any:
            n.add(len(x))
            return b(torch.tanh(6 * a(x.view(x.size(0), -1) - 0.5)))

        model, images, threat = Function(logits), images_near_grey(40), threat_of("Linf", 0.02)
        labels = model(images).argmax(1)
        found = adaptive(model, images, labels, threat)
        in_threat(found, images, threat)
        assert 0 < (margins(model, found, labels) > 0).sum() < 40  # some survive each round
        assert min(seen) >= 1


class Normed(nn.Module):
    """Batch norm, in training mode as made."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, 5)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.last(torch.tanh(self.norm(8 * (images.flatten(1) - 0.5))))
        return found


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_module_stays_as_it_was(norm: Norm) -> None:
    """Its mode, its statistics, its parameters' gradients, and what the caller draws next."""
    torch.manual_seed(0)
    module, images = Normed(), images_near_grey(48)
    labels = copy.deepcopy(module).eval()(images).argmax(1)
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = adaptive(module, images, labels, threat_of(norm, 0.003 if norm == "Linf" else 0.02))
    assert torch.equal(torch.rand(3), expected)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    broken = margins(module.eval(), found, labels) > 0
    assert 0 < broken.sum() < 48


def test_double_precision() -> None:
    known = linear("Linf", 3)
    model = Function(lambda x: known.model(x.float()).double())
    threat = threat_of("Linf", float(known.smallest.median()))
    single = adaptive(known.model, known.images, known.labels, threat)
    double = adaptive(model, known.images.double(), known.labels, threat)
    assert double.dtype == torch.float64
    first, second = (margins(m, x, known.labels) > 0 for m, x in [(model, single), (model, double)])
    assert (first == second).double().mean() > 0.95


def test_what_cannot_be_copied_says_so() -> None:
    module = nn.Linear(64, 2)
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(AttackError, match="can't be copied"):
        adaptive(module, images_near_grey(2), torch.zeros(2).long(), threat_of("Linf", 0.1))


def test_images_outside_the_range_are_refused() -> None:
    """Clipped to [0, 1] they would leave the ball, and count."""
    model, images = small_network(), 2 * images_near_grey(4) - 1
    threat = threat_of("Linf", 0.1)
    for attack in (adaptive, smallest):
        with pytest.raises(AttackError, match=r"scale them to \[0, 1\]"):
            attack(model, images, torch.zeros(4, dtype=torch.long), threat)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8])
def test_labels_of_any_integer_kind(kind: torch.dtype) -> None:
    model, images = small_network(), images_near_grey(6)
    labels, threat = model(images).argmax(1), threat_of("Linf", 0.1)
    assert torch.equal(
        adaptive(model, images, labels.to(kind), threat), adaptive(model, images, labels, threat)
    )


def test_a_single_logit_is_refused() -> None:
    model = Function(lambda x: x.flatten(1).sum(1, keepdim=True))
    with pytest.raises(AttackError, match="two classes or more"):
        adaptive(model, images_near_grey(2), torch.zeros(2).long(), threat_of("Linf", 0.1))


@pytest.mark.parametrize("shape", [(1, 8, 12), (3, 4, 4), (1, 12, 8), (1, 12, 12), (1, 14, 14)])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_images_of_any_shape(norm: Norm, shape: tuple[int, int, int]) -> None:
    """torchattacks' Square fails in L2 on most of these."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((3, shape[0] * shape[1] * shape[2]), generator=generator)
    model = Function(lambda x: torch.tanh(x.flatten(1) - 0.5) @ weight.T)
    images = images_near_grey(12, shape)
    labels, threat = model(images).argmax(1), threat_of(norm, 0.02)
    in_threat(adaptive(model, images, labels, threat), images, threat)


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_few_and_many_classes(classes: int) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn((classes, 64), generator=generator)
    model, images = Function(lambda x: (x.flatten(1) - 0.5) @ weight.T), images_near_grey(20)
    labels = model(images).argmax(1)
    found = adaptive(model, images, labels, threat_of("Linf", 0.2))
    assert (margins(model, found, labels) > 0).all()


def test_a_model_that_answers_nan_is_refused() -> None:
    """No margin above 0 would ever be found, and it would look robust."""
    model, images = small_network(), images_near_grey(4)
    labels, threat = model(images).argmax(1), threat_of("Linf", 0.1)

    def unmoved(x: Tensor) -> Tensor:
        return (x[:, None] == images).flatten(2).all(2).any(1).all()

    moved = Function(lambda x: torch.where(unmoved(x), model(x), torch.nan))
    for attack in (adaptive, smallest):
        with pytest.raises(AttackError, match="NaN or infinite, which is no prediction"):
            attack(moved, images, labels, threat)
