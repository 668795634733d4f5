"""On an accelerator: the same functions, gradients and verdicts as on the processor.

Left out where there is none.
"""

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robusteval import api
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.counting import Counted
from robusteval.attacks.libraries.advlib import advlib_attack
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.data.datasets import load_dataset
from robusteval.hardware import exact_float32
from robusteval.models.acceleration import (
    PLAIN,
    Acceleration,
    accelerated,
    choose_forms,
    static_batch,
)
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.backbones import resnet_small
from robusteval.models.graphs import GraphedAdapter
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.known import margins

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")

GRAPHED = Acceleration(graphed=True)
ROUGH = Acceleration(bfloat16=True, graphed=True)
COMPILED = Acceleration(compiled=True, graphed=True)
NEAR = 2e-3  # margins of the residual network that kernels may round to either side


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """As in a run."""
    with exact_float32():
        yield


@pytest.fixture(scope="module")
def model() -> PrototypeAdapter:
    """A residual network with batch statistics of its own, on the processor."""
    torch.manual_seed(0)
    backbone = resnet_small(3, widths=(8, 16, 16), stem=8, embedding=12)
    network = PrototypeNetwork(backbone, Head(layers=["stage2", "fc"]), 5, [0.4] * 3, [0.3] * 3)
    with torch.no_grad():
        for _ in range(5):
            network(torch.rand(32, 3, 16, 16))
    return PrototypeAdapter(network).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def there(model: PrototypeAdapter) -> Adapter:
    """The same on the accelerator."""
    return copy.deepcopy(model).cuda()


@pytest.fixture(scope="module", params=[GRAPHED, COMPILED], ids=str)
def quick(request: pytest.FixtureRequest, there: Adapter) -> Adapter:
    """That one by CUDA graphs, compiled, and both."""
    return accelerated(there, request.param)


def gradient(model: Adapter, images: Tensor) -> Tensor:
    at = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(at).square().sum(), at)
    return found


def some(count: int, seed: int = 1) -> Tensor:
    return torch.rand((count, 3, 16, 16), generator=torch.Generator().manual_seed(seed))


def labelled(model: Adapter, count: int) -> tuple[Tensor, Tensor]:
    images = some(count, 2)
    with torch.no_grad():
        return images, model(images).argmax(1)


@pytest.mark.parametrize("count", [1, 300, 700, 1100])
def test_it_is_the_same_function(model: PrototypeAdapter, quick: Adapter, count: int) -> None:
    """Few, more than half of a static batch, a whole one, and more than one."""
    images = some(count)
    with torch.no_grad():
        torch.testing.assert_close(quick(images.cuda()).cpu(), model(images), rtol=1e-3, atol=1e-3)
    exact, found = gradient(model, images), gradient(quick, images.cuda()).cpu()
    alike = torch.cosine_similarity(exact.flatten(1), found.flatten(1))
    assert (alike > 0.999).float().mean() > 0.99


def test_outputs_outlive_the_next_replay(quick: Adapter) -> None:
    """A CUDA graph writes to the same memory each time; what a caller has stays as it was."""
    size = static_batch("cuda")
    first, second = some(size, 3).cuda(), some(size, 4).cuda()
    with torch.no_grad():
        kept = quick(first)
        before = kept.clone()
        quick(second)
    assert torch.equal(kept, before)
    one, other = first.clone().requires_grad_(), second.clone().requires_grad_()
    sums = [quick(at).square().sum() for at in (one, other)]
    gradients = [
        torch.autograd.grad(total, at)[0] for total, at in zip(sums, (one, other), strict=True)
    ]
    for at, found in zip((first, second), gradients, strict=True):
        torch.testing.assert_close(found, gradient(quick, at), rtol=1e-2, atol=1e-2)


def test_nothing_falls_back_to_launching_kernels(there: Adapter) -> None:
    """Each of these models can be recorded, distances and all."""
    for how in (GRAPHED, ROUGH, COMPILED):
        form = accelerated(there, how)
        at = some(20).cuda().requires_grad_()
        logits, squared = form.logits_and_distances(at)
        torch.autograd.grad(logits.sum() + sum(d.sum() for d in squared.values()), at)
        form(at)
        assert isinstance(form, GraphedAdapter)
        assert len(form._recordings) == 2


def test_callers_may_go_back_twice_through_it(quick: Adapter) -> None:
    """As DeepFool and FAB do, once for each class."""
    at = some(static_batch("cuda"), 5).cuda().requires_grad_()
    logits = quick(at)
    rows = [torch.autograd.grad(logits[:, k].sum(), at, retain_graph=True)[0] for k in range(5)]
    (total,) = torch.autograd.grad(logits.sum(), at)
    torch.testing.assert_close(torch.stack(rows).sum(0), total, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module", params=["Linf", "L2"])
def found_here(
    request: pytest.FixtureRequest, model: PrototypeAdapter
) -> tuple[Tensor, ThreatModel]:
    """What ``adaptive`` finds on the processor, and in which ball."""
    threat = ThreatModel(request.param, parse_eps("0.036" if request.param == "Linf" else "0.6"))
    images, labels = labelled(model, 300)
    return adaptive(model, images, labels, threat), threat


@pytest.mark.parametrize("how", [PLAIN, Acceleration(), GRAPHED, ROUGH], ids=str)
def test_adaptive_finds_what_it_finds_on_the_processor(
    model: PrototypeAdapter,
    there: Adapter,
    found_here: tuple[Tensor, ThreatModel],
    how: Acceleration,
) -> None:
    here, threat = found_here
    images, labels = labelled(model, 300)
    counted = Counted(there, len(images), fast=None if how == PLAIN else accelerated(there, how))
    found = adaptive(counted, images.cuda(), labels.cuda(), threat).cpu()
    assert (norms(found - images, threat.norm) <= threat.radius + 1e-6).all()
    first, second = (margins(model, at, labels) for at in (here, found))
    assert 0.1 < float((first > 0).float().mean()) < 0.9
    differ = (first > 0) != (second > 0)
    assert differ.float().mean() < 0.03


def test_the_generators_of_the_accelerator_go_on_as_if_nothing_was_drawn(there: Adapter) -> None:
    images, labels = (at.cuda() for at in (some(20), torch.zeros(20, dtype=torch.long)))
    threat = ThreatModel("Linf", parse_eps("0.03"))
    torch.manual_seed(3)
    expected = torch.rand(4, device="cuda")
    torch.manual_seed(3)
    parameters = {"steps": 3, "random_start": True}
    made = [
        torchattacks_attack(
            there, images, labels, threat, name="PGD", seed=1, parameters=parameters
        ).images
        for _ in range(2)
    ]
    assert torch.equal(*made)
    assert torch.equal(torch.rand(4, device="cuda"), expected)


@pytest.mark.parametrize("how", [PLAIN, GRAPHED])
def test_libraries_run_there(model: PrototypeAdapter, there: Adapter, how: Acceleration) -> None:
    threat = ThreatModel("Linf", parse_eps("0.036"))
    images, labels = labelled(model, 300)
    form = accelerated(there, how)
    at = (form, images.cuda(), labels.cuda(), threat)
    parameters: dict[str, Any] = {"steps": 20, "alpha": 0.005, "random_start": False}
    here = torchattacks_attack(
        model, images, labels, threat, name="PGD", seed=0, parameters=parameters
    ).images
    found = torchattacks_attack(*at, name="PGD", seed=0, parameters=parameters).images.cpu()
    first, second = (margins(model, moved_to, labels) > 0 for moved_to in (here, found))
    assert (first != second).float().mean() < 0.03
    deep = torchattacks_attack(*at, name="DeepFool", seed=0, parameters={"steps": 20}).images.cpu()
    assert (margins(model, deep, labels) > -NEAR).float().mean() > 0.9


def test_autoattack_and_minimum_norms_run_there(model: PrototypeAdapter, there: Adapter) -> None:
    threat = ThreatModel("Linf", parse_eps("0.036"))
    images, labels = labelled(model, 40)
    at = (there, images.cuda(), labels.cuda(), threat)
    moved = {
        "autoattack": autoattack(*at, seed=0).images,
        "adaptive": adaptive(*at),
        "smallest": smallest(*at),
    }
    if importlib.util.find_spec("adv_lib"):
        moved["fmn"] = advlib_attack(*at, name="fmn", seed=0, parameters={"steps": 50}).images
    broken = {
        name: (margins(model, found.cpu(), labels) > 0)
        & (norms(found.cpu() - images, "Linf") <= threat.radius + 1e-6)
        for name, found in moved.items()
    }
    assert broken["adaptive"].sum() >= broken["autoattack"].sum() - 1
    here = norms(smallest(model, images, labels, threat) - images, "Linf").median()
    found = norms(moved["smallest"].cpu() - images, "Linf").median()
    torch.testing.assert_close(found, here, rtol=0.05, atol=0)
    assert broken.get("fmn", broken["smallest"]).sum() > 0


def test_forms_are_chosen_there(there: Adapter) -> None:
    """A small network's kernels take less time than their launches."""
    forms = choose_forms(there, some(static_batch("cuda")).cuda(), 1e4)
    assert all(form.graphed and not form.compiled for form in forms)


@pytest.mark.parametrize("name", ["mpat_at_digits", "pcl_digits"])
def test_a_run_made_there_verifies_here_and_there(tmp_path: Path, name: str) -> None:
    options = api.Options(
        samples=40, device="cuda", out=tmp_path, only=("pgd10", "adaptive", "smallest")
    )
    done = api.evaluate(name, "full", options=options)
    assert done.complete
    for device in ("cpu", "cuda"):
        checks = api.verify(done.folder, again=2, device=device)
        assert all(check.held for check in checks), [c for c in checks if not c.held]


def test_real_models_predict_alike(shared_data: Path) -> None:
    """All but near-ties."""
    data = load_dataset("cifar10", "test", shared_data)
    images = data.images(slice(0, 600))
    here, on = (api.load_model("mpat_at_cifar10", device) for device in ("cpu", "cuda"))
    with torch.no_grad():
        first, second = here(images), on(images.cuda()).cpu()
    gaps = first.topk(2, 1).values
    sure = (gaps[:, 0] - gaps[:, 1]) > 1e-3
    assert sure.float().mean() > 0.98
    assert (first.argmax(1) == second.argmax(1))[sure].all()
