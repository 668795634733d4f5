"""Faster forms of a model: the same function, contiguous gradients, chosen by trying."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as functorch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from robusteval import api
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.counting import Counted
from robusteval.errors import EvidenceError
from robusteval.evidence.files import Local
from robusteval.evidence.record import open_store
from robusteval.models.acceleration import (
    PLAIN,
    Acceleration,
    Forms,
    accelerated,
    choose_forms,
    folded,
    folded_if_same,
    same_function,
    same_gradients,
    static_batch,
)
from robusteval.models.adapter import Adapter, PrototypeAdapter, wrap_module
from robusteval.models.backbones import resnet_small
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.types import ThreatModel, parse_eps
from tests.helpers.known import Function, Misleading, margins
from tests.helpers.runs import plain_suite_in

FOLDED, HALF = Acceleration(), Acceleration(bfloat16=True)


@pytest.fixture(scope="module")
def model() -> PrototypeAdapter:
    """A residual network with batch statistics of its own."""
    torch.manual_seed(0)
    backbone = resnet_small(3, widths=(8, 16, 16), stem=8, embedding=12)
    head = Head(layers=["stage2", "fc"])
    network = PrototypeNetwork(backbone, head, 5, [0.4] * 3, [0.3] * 3)
    with torch.no_grad():
        for _ in range(5):
            network(torch.rand(32, 3, 16, 16))
    return PrototypeAdapter(network)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((9, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def gradient(model: Adapter, images: Tensor) -> Tensor:
    moved = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(moved).square().sum(), moved)
    return found


def test_folding_leaves_no_batch_norm_and_the_function(
    model: PrototypeAdapter, images: Tensor
) -> None:
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    fast = accelerated(model, FOLDED)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    assert same_function(model, fast, images)
    torch.testing.assert_close(
        gradient(fast, images), gradient(model, images), rtol=1e-3, atol=1e-4
    )
    plain, quick = model.logits_and_distances(images), fast.logits_and_distances(images)
    torch.testing.assert_close(quick[0], plain[0], rtol=1e-4, atol=1e-4)
    for layer in model.layers:
        torch.testing.assert_close(quick[1][layer], plain[1][layer], rtol=1e-3, atol=1e-3)


def test_gradients_come_back_contiguous(model: PrototypeAdapter, images: Tensor) -> None:
    """pyautoattack calls ``view`` on them."""
    for how in (FOLDED, HALF):
        assert gradient(accelerated(model, how), images).is_contiguous()


def test_bfloat16_points_the_same_way(model: PrototypeAdapter, images: Tensor) -> None:
    exact, rough = gradient(model, images), gradient(accelerated(model, HALF), images)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    similar = torch.cosine_similarity(exact.flatten(1), rough.flatten(1))
    assert similar.min() > 0.9
    assert similar.mean() > 0.97


def test_the_original_is_left_alone(model: PrototypeAdapter, images: Tensor) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast = accelerated(model, FOLDED)
    with torch.no_grad():
        for value in [*fast.parameters(), *fast.buffers()]:
            value.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert accelerated(model, PLAIN) is model


class Odd(nn.Module):
    """A Sequential whose convolution is used elsewhere, too: folding would change that."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        with torch.no_grad():
            for part in self.pair.parameters():
                part.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.pair(images).mean((2, 3)) + self.pair[0](images).mean((2, 3))


def test_folding_is_left_out_where_it_changes_the_function(images: Tensor) -> None:
    torch.manual_seed(0)
    odd = wrap_module(Odd(), classes=4)
    assert not same_function(odd, accelerated(odd, FOLDED), images)
    assert folded_if_same(odd, images) is None
    assert choose_forms(odd, images, 1e9, lambda *_: 1.0) == (PLAIN, PLAIN)


class Cancelling(nn.Module):
    """Squared distances by x² − 2xw + w², far from the origin: bfloat16 keeps nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.lift = nn.Linear(4, 8)
        self.near = nn.Linear(8, 5, bias=False)
        with torch.no_grad():
            self.lift.bias.fill_(300.0)
            self.near.weight.copy_(300 + torch.randn(5, 8))

    def forward(self, images: Tensor) -> Tensor:
        x, w = self.lift(self.conv(images).mean((2, 3))), self.near.weight
        return -(x.square().sum(1, keepdim=True) - 2 * self.near(x) + w.square().sum(1))


def test_rough_gradients_that_point_elsewhere_are_not_chosen(images: Tensor) -> None:
    torch.manual_seed(0)
    model = wrap_module(Cancelling(), classes=5)
    assert not same_gradients(model, accelerated(model, HALF), images)
    tempting = iter([3.0, 2.0, 1.0])
    assert choose_forms(model, images, 10, lambda *_: next(tempting)) == (FOLDED, FOLDED)


def test_only_what_follows_a_convolution_is_folded() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded(module).modules()) == 2


def test_the_fastest_forms_are_chosen(model: PrototypeAdapter, images: Tensor) -> None:
    def stopwatch(plain: float, quick: float, rough: float, compiled: float):  # type: ignore[no-untyped-def]
        def seconds(adapter: Adapter, _: Tensor) -> float:
            backbone = adapter.module.backbone  # type: ignore[union-attr]
            if backbone is model.module.backbone:
                return plain
            if backbone.static:
                return compiled
            return rough if backbone.rough else quick

        return seconds

    batch = len(images)
    assert choose_forms(model, images, 10, stopwatch(1, 2, 3, 4)) == (PLAIN, PLAIN)
    assert choose_forms(model, images, 10, stopwatch(3, 2, 4, 1)) == (FOLDED, FOLDED)
    assert choose_forms(model, images, 10, stopwatch(3, 2, 1, 1)) == (FOLDED, HALF)
    many = choose_forms(model, images, 100 * batch, stopwatch(3, 2, 1, 0.5))
    assert many == (Acceleration(compiled=True), Acceleration(bfloat16=True, compiled=True))
    small = torch.rand(4, 1, 8, 8)
    assert choose_forms(model, small, 1e9, stopwatch(3, 2, 1, 0)) == (PLAIN, PLAIN)


def test_a_model_that_cannot_be_timed_runs_as_it_is(images: Tensor) -> None:
    """No backward pass, or too little memory for the probe: the attacks will tell."""

    def fails(*_: object) -> float:
        raise RuntimeError("derivative for this is not implemented")

    model = wrap_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()), 4)
    assert choose_forms(model, images, 1e9, fails) == (PLAIN, PLAIN)


def test_without_a_compiler_a_compiled_form_runs_uncompiled(
    monkeypatch: pytest.MonkeyPatch, model: PrototypeAdapter
) -> None:
    """As where a run that chose it is resumed on another machine."""

    def compiler(*_: object, **__: object) -> object:
        def compiled(*_: object) -> None:
            raise BackendCompilerFailed(compiler, RuntimeError("no g++"), None)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    fast = accelerated(model, Acceleration(compiled=True))
    images = torch.rand(70, 3, 32, 32)
    assert same_function(model, fast, images)


@pytest.mark.parametrize(
    ("share", "more", "batches"), [(0, 5, 0), (0.5, 0, 1), (1, 0, 1), (1, 1, 1), (2, 2, 2)]
)
def test_compiled_forms_see_one_batch_size(
    monkeypatch: pytest.MonkeyPatch, model: PrototypeAdapter, share: float, more: int, batches: int
) -> None:
    """Whatever an attack holds: one shape, the same logits and the same gradients."""
    seen, count = [], int(share * static_batch()) + more

    def compile_nothing(module: nn.Module, dynamic: bool) -> nn.Module:
        assert not dynamic

        def run(images: Tensor) -> dict[str, Tensor]:
            seen.append(len(images))
            return module(images)

        return run  # type: ignore[return-value]

    monkeypatch.setattr(torch, "compile", compile_nothing)
    fast = accelerated(model, Acceleration(compiled=True))
    images = torch.rand((count, 3, 16, 16))
    assert torch.allclose(fast(images), model(images), atol=1e-5)
    assert torch.allclose(gradient(fast, images), gradient(model, images), atol=1e-4)
    assert set(seen) <= {static_batch()}
    assert len(seen) == 2 * batches


@pytest.mark.parametrize(
    ("values", "size"),
    [(64, 128), (3 * 32 * 32, 128), (3 * 112 * 112, 128), (3 * 224 * 224, 32), (10**8, 16)],
)
def test_fewer_large_images_are_taken_at_once(values: int, size: int) -> None:
    """For the memory's sake, on a processor."""
    assert static_batch("cpu", values) == size
    assert static_batch("cuda", values) == static_batch("cuda")


def test_a_compiled_form_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch traces it, forward and backward; without code generation, which takes a minute."""
    traced = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model = wrap_module(layers, classes=3)
    fast, images = accelerated(model, Acceleration(compiled=True)), torch.rand((40, 3, 8, 8))
    assert torch.allclose(fast(images), model(images), atol=1e-4)
    assert torch.allclose(gradient(fast, images), gradient(model, images), atol=1e-3)


@pytest.mark.parametrize("how", [FOLDED, HALF, Acceleration(compiled=True)])
def test_an_attack_finds_the_same_by_any_form(
    monkeypatch: pytest.MonkeyPatch, model: PrototypeAdapter, how: Acceleration
) -> None:
    """With one seed: all but samples that are nearly ties, and none of them by the form's word."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    images = torch.rand((70, 3, 16, 16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = model(images).argmax(1)
    threat, found = ThreatModel("Linf", parse_eps("0.036")), []
    for fast in (None, accelerated(model, how)):
        counted = Counted(model, len(images), fast=fast)
        moved = adaptive(counted, images, labels, threat, passes_per_sample=400)
        found.append(margins(model, moved, labels))
    first, second = (margin > 0 for margin in found)
    assert 10 < int(first.sum()) < 60
    differ = first != second
    assert differ.sum() <= 2
    assert (torch.minimum(*(margin.abs() for margin in found))[differ] < 2e-3).all()


def test_compiled_forms_let_callers_keep_the_graph(
    monkeypatch: pytest.MonkeyPatch, model: PrototypeAdapter
) -> None:
    """DeepFool and FAB go back through one graph several times."""
    monkeypatch.setattr(functorch, "donated_buffer", True)
    accelerated(model, Acceleration(compiled=True))
    assert not functorch.donated_buffer


def test_any_number_of_forms_is_compiled(
    monkeypatch: pytest.MonkeyPatch, model: PrototypeAdapter
) -> None:
    """By itself torch would stop, here after one."""
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with dynamo.patch(recompile_limit=1), torch.no_grad():  # type: ignore[attr-defined]
        for how in (Acceleration(compiled=True), Acceleration(bfloat16=True, compiled=True)):
            accelerated(model, how)(torch.rand((static_batch(), 3, 16, 16)))
    assert len(compiled) == 2


def test_a_compiled_form_with_wrong_gradients_is_not_used(
    monkeypatch: pytest.MonkeyPatch, model: PrototypeAdapter
) -> None:
    def compiled(module: nn.Module, **_: object) -> object:
        if wrong:
            return lambda images: module(Misleading.apply(images))
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    images = torch.rand((64, 3, 16, 16))
    for wrong in (False, True):
        seconds = iter((2.0, 1.0, 1.0, 0.1, 0.1))
        chosen = choose_forms(model, images, 1e9, lambda *_: next(seconds))  # noqa: B023
        assert [form.compiled for form in chosen] == 2 * [not wrong]


@pytest.mark.parametrize(
    "how", [PLAIN, FOLDED, HALF, Acceleration(True, True, True), Acceleration(graphed=True)]
)
def test_names_of_forms_are_read_back(how: Acceleration) -> None:
    assert Acceleration.parse(str(how)) == how


def test_libraries_and_gradients_have_their_forms(model: PrototypeAdapter) -> None:
    same = Forms.of(model, PLAIN, PLAIN)
    assert same.libraries is model
    assert same.gradients is None
    apart = Forms.of(model, FOLDED, HALF)
    assert apart.libraries is not model
    assert apart.gradients not in (None, apart.libraries)
    assert Forms.of(model, FOLDED, FOLDED).gradients is not None


def test_passes_of_a_faster_form_are_counted(model: PrototypeAdapter, images: Tensor) -> None:
    counted = Counted(model, len(images), fast=accelerated(model, HALF))
    with counted.attending(torch.tensor([0, 1])), counted.quickly():
        gradient(counted, images[:2])
    with counted.attending(torch.tensor([0])), torch.no_grad():
        counted(images[:1])
    assert counted.forward_passes.tolist() == [2, 1] + [0] * 7
    assert counted.backward_passes.tolist() == [1, 1] + [0] * 7


def test_a_begun_run_keeps_its_forms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another machine may find another form faster; a run is finished as it began."""
    told = iter([("float32 folded", "bfloat16 folded"), ("float32", "float32")])
    monkeypatch.setattr("robusteval.run.prepare.choose_forms", lambda *_: next(told))
    suite = plain_suite_in(tmp_path)
    options = api.Options(samples=16, only=("fgsm", "adaptive"), out=tmp_path)
    first = api.evaluate("mpat_at_digits", suite, options=options)
    again = api.evaluate("mpat_at_digits", suite, options=options)
    assert again.folder == first.folder
    assert open_store(Local(first.folder))[1].forms == ("float32 folded", "bfloat16 folded")
    assert all(check.held for check in api.verify(first.folder, again=2))
    with pytest.raises(EvidenceError):
        open_store(Local(tmp_path / "nowhere"))


@pytest.mark.parametrize("stop", [torch.Tensor.detach, lambda x: (x * 255).round() / 255])
def test_a_model_that_breaks_the_graph_has_its_forms_chosen(
    stop: Callable[[Tensor], Tensor],
) -> None:
    """Such models are what an evaluation is for."""
    weight = torch.randn(3, 768)
    adapter = wrap_module(Function(lambda x: stop(x).flatten(1) @ weight.T), classes=3)
    forms = choose_forms(adapter, torch.rand(4, 3, 16, 16), 1000)
    assert all(isinstance(form, Acceleration) for form in forms)
