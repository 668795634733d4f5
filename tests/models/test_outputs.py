"""Logits wherever a wrapped module returns them, and modules in wrappers of torch's."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.blocks import FGSM
from robusteval import api
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.smallest import smallest
from robusteval.errors import AttackError
from robusteval.evidence.files import Local
from robusteval.evidence.judge import state_digest
from robusteval.evidence.record import open_store, write_record
from robusteval.models.acceleration import Acceleration, accelerated
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.plan.context import Access, open_context
from robusteval.trust.described import description_holds
from tests.helpers.known import images_near_grey, small_network, threat_of


class Output(OrderedDict[str, Tensor]):
    """As a well-known library has it: a mapping whose values are attributes, too."""

    logits: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits=logits)
        self.logits = logits


Pair = namedtuple("Pair", ["logits", "aux"])
OTHER = "logits are read from "
KINDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "attribute": (lambda z: SimpleNamespace(logits=z), "the output's attribute 'logits'"),
    "both": (Output, "the output's attribute 'logits'"),
    "named": (lambda z: Pair(z, z.neg()), "the output's attribute 'logits'"),
    "key": (lambda z: {"aux": z.neg(), "logits": z}, "the output's key 'logits'"),
    "tuple": (lambda z: (z, z[:, None]), "the first part of the output"),
    "list": (lambda z: [z, None], "the first part of the output"),
}


class Returning(nn.Module):
    """A network whose output is dressed up."""

    def __init__(self, dress: Callable[[Tensor], Any], network: nn.Module | None = None) -> None:
        super().__init__()
        self.dress, self.network = dress, network or small_network()

    def forward(self, images: Tensor) -> Any:
        return self.dress(self.network(images))


IMAGES = images_near_grey(6)
LABELS = small_network()(IMAGES).argmax(1)
THREAT = threat_of("Linf", 0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_read_where_they_are(kind: str) -> None:
    dress, place = KINDS[kind]
    plain, dressed = wrap_module(small_network(), 5), wrap_module(Returning(dress), 5)
    assert torch.equal(dressed(IMAGES), plain(IMAGES))
    assert plain.notes == ()
    assert dressed.notes == (OTHER + place,)
    for attack in (
        lambda model: adaptive(model, IMAGES, LABELS, THREAT, passes_per_sample=10),
        lambda model: smallest(model, IMAGES, LABELS, threat_of("L2", 1), steps=8),
        lambda model: (
            torchattacks_attack(
                model, IMAGES, LABELS, THREAT, name="PGD", seed=0, parameters={"steps": 3}
            ).images
        ),
    ):
        assert torch.equal(attack(dressed), attack(plain))  # type: ignore[no-untyped-call]


def changing(*dresses: Callable[[Tensor], Any]) -> nn.Module:
    """One that returns something else each time."""
    left = iter(dresses)

    def dress(logits: Tensor) -> Any:
        return next(left)(logits)

    return Returning(dress)


def test_the_first_answer_decides_how_all_are_read() -> None:
    pair, key, alone = KINDS["tuple"][0], KINDS["key"][0], torch.clone
    model = wrap_module(changing(pair, pair, key, alone), 5)
    model(IMAGES)
    model(IMAGES)
    for given in ("a dict", "a Tensor"):
        told = rf"^the module returns {given}, where logits were read from the first part of .*$"
        with pytest.raises(AttackError, match=told):
            model(IMAGES)


def test_a_module_that_returned_logits_alone_goes_on_so() -> None:
    model = wrap_module(changing(torch.clone, KINDS["tuple"][0]), 5)
    model(IMAGES)
    with pytest.raises(AttackError, match="the module returns a tuple"):
        model(IMAGES)


@pytest.mark.parametrize("how", [Acceleration(), Acceleration(bfloat16=True)])
def test_faster_forms_read_as_the_model_does(how: Acceleration) -> None:
    """Though they were made before its first answer."""
    model = wrap_module(Returning(KINDS["key"][0]), 5)
    fast = accelerated(model, how)
    expected = model(IMAGES)
    torch.testing.assert_close(fast(IMAGES), expected, atol=0.05, rtol=0.05)
    assert fast.module.module.reader is model.module.reader  # type: ignore[union-attr]


def test_a_compiled_form_reads_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **k: compiler(m, backend="eager", **k))
    model = wrap_module(Returning(KINDS["tuple"][0]), 5)
    images = images_near_grey(128)
    expected = model(images)
    fast = accelerated(model, Acceleration(compiled=True))
    assert torch.allclose(fast(images), expected, atol=1e-6)
    assert fast.module.static  # type: ignore[union-attr]


SUITE = (
    """
name = "mine"
"""
    + FGSM
)


def evaluated(model: Any, folder: Path, name: str = "mine", **changed: Any) -> api.Report:
    suite = folder / "mine.toml"
    suite.write_text(SUITE)
    options = api.Options(samples=20, eps=("0.1",), out=folder, **changed)
    return api.evaluate(model, suite, "digits", name, options)


def dressed_model() -> Adapter:
    return wrap_module(Returning(KINDS["attribute"][0], api.load_model("ce_digits")), 10)


@pytest.fixture
def dressed(tmp_path: Path) -> api.Report:
    return evaluated(dressed_model(), tmp_path)


def test_the_report_says_where_logits_are_and_verify_looks(dressed: api.Report) -> None:
    note = OTHER + "the output's attribute 'logits'"
    assert dressed.content["model"]["notes"] == [note]
    assert dressed.complete
    html = (dressed.folder / "report.html").read_text()
    assert "Of the model: logits are read from the output&#39;s attribute &#39;logits&#39;." in html
    assert f"Of the model: {note}." in (dressed.folder / "report.md").read_text()
    assert all(check.held for check in api.verify(dressed.folder, model=dressed_model()))


@pytest.mark.parametrize(
    "forged",
    [
        lambda about: about.update(notes=["logits are read from the output's key 'logits'"]),
        lambda about: about["notes"].append("it is robust"),
        lambda about: about.pop("notes"),
    ],
)
def test_a_forged_note_is_found(forged: Callable[[Any], Any], dressed: api.Report) -> None:
    """The record is read, and what it says is held against the model."""
    store, spec, record = open_store(Local(dressed.folder))
    context = open_context(spec, Access(), dressed_model())
    context.model(context.images(range(2)))
    assert description_holds(context, record)[0].held
    forged(record["model"])
    write_record(store.files, record)
    _, _, read = open_store(Local(dressed.folder))
    assert [check.held for check in description_holds(context, read)] == [False]


# Wrappers


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, tuple[Callable[[nn.Module], Any], list[str]]] = {
    "DataParallel": (nn.DataParallel, ["DataParallel"]),
    "DistributedDataParallel": (DistributedDataParallel, ["DistributedDataParallel"]),
    "compiled": (torch.compile, ["torch.compile"]),
    "both": (lambda m: nn.DataParallel(torch.compile(m)), ["DataParallel", "torch.compile"]),
    "of a subclass": (type("Mine", (nn.DataParallel,), {}), ["DataParallel"]),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrappers_are_taken_off(kind: str) -> None:
    wrap, taken = WRAPPERS[kind]
    model, plain = wrap_module(wrap(small_network()), 5), wrap_module(small_network(), 5)
    assert torch.equal(model(IMAGES), plain(IMAGES))
    assert model.notes == tuple(
        f"{name} is taken off: the module inside computes" for name in taken
    )
    assert state_digest(model) == state_digest(plain)
    found = adaptive(model, IMAGES, LABELS, THREAT, passes_per_sample=10)
    assert torch.equal(found, adaptive(plain, IMAGES, LABELS, THREAT, passes_per_sample=10))


def test_a_wrapped_module_with_dressed_outputs_tells_both() -> None:
    model = wrap_module(nn.DataParallel(Returning(KINDS["key"][0])), 5)
    model(IMAGES)
    assert model.notes == (
        "DataParallel is taken off: the module inside computes",
        "logits are read from the output's key 'logits'",
    )


def test_a_part_that_is_compiled_is_evaluated_as_it_is() -> None:
    """Its faster form, which is a copy, too."""
    compiled = nn.Sequential(torch.compile(small_network(), backend="eager"))
    model, plain = wrap_module(compiled, 5), wrap_module(small_network(), 5)
    assert model.notes == ()
    found = adaptive(model, IMAGES, LABELS, THREAT, passes_per_sample=4)
    assert torch.equal(found, adaptive(plain, IMAGES, LABELS, THREAT, passes_per_sample=4))


def test_a_module_compiled_in_place_is_evaluated() -> None:
    network = small_network()
    expected = wrap_module(small_network(), 5)(IMAGES)
    network.compile(backend="eager")
    assert torch.allclose(wrap_module(network, 5)(IMAGES), expected, atol=1e-6)


def test_sharded_parameters_are_told_in_one_line() -> None:
    sharded = type("FullyShardedDataParallel", (nn.Sequential,), {})
    for module in (sharded(nn.Flatten()), nn.Sequential(sharded(nn.Flatten()))):
        with pytest.raises(AttackError, match=r"^the module's parameters are sharded .* \(FSDP\)"):
            wrap_module(module, 64)
