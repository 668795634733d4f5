"""What a caller has set for the whole process changes no number, and is as it was afterwards."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robusteval
from robusteval import api
from robusteval.ambient import plain_state
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.cr import cr
from robusteval.attacks.gaussian_noise import gaussian_noise
from robusteval.attacks.libraries.advlib import advlib_attack
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.pma import pma
from robusteval.attacks.prototype_ascents import joint_pc, prototype_margin
from robusteval.attacks.smallest import smallest
from robusteval.attacks.transfer import transfer
from robusteval.errors import AttackError
from tests.helpers.known import Function, linear, nearest_prototypes, small_network, threat_of

pytestmark = pytest.mark.usefixtures("as_in_use")

KNOWN = nearest_prototypes(count=6)
SOURCE = linear("Linf", 4).model
GIVEN = (KNOWN.model, KNOWN.images, KNOWN.labels, threat_of("Linf", 0.02))


def by_advlib() -> Tensor:
    pytest.importorskip("adv_lib")
    return advlib_attack(*GIVEN, name="fmn", seed=0, parameters={"steps": 3}).images


def by_library(name: str, **parameters: object) -> Tensor:
    return torchattacks_attack(*GIVEN, name=name, seed=0, parameters=parameters).images


ATTACKS: dict[str, Callable[[], Tensor]] = {
    "adaptive": lambda: adaptive(*GIVEN, passes_per_sample=30),
    "smallest": lambda: smallest(*GIVEN, steps=8),
    "transfer": lambda: transfer(*GIVEN, source=SOURCE, steps=3),
    "joint_pc": lambda: joint_pc(*GIVEN, start=True),
    "prototype_margin": lambda: prototype_margin(*GIVEN, steps=5),
    "cr": lambda: cr(*GIVEN, passes_per_sample=60),
    "pma": lambda: pma(*GIVEN, steps=4),
    "gaussian_noise": lambda: gaussian_noise(*GIVEN, draws=2),
    "PGD": lambda: by_library("PGD", steps=3),
    "Square": lambda: by_library("Square", n_queries=5),
    "fmn": by_advlib,
    "autoattack": lambda: autoattack(GIVEN[0], GIVEN[1][:1], GIVEN[2][:1], threat_of("Linf", 0.2)),
}


@contextmanager
def setting(on: Callable[..., object], value: Any, off: Any) -> Iterator[None]:
    on(value)
    try:
        yield
    finally:
        on(off)


@contextmanager
def raising() -> Iterator[None]:
    """A warning, of whomever, is an error."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


@contextmanager
def styled() -> Iterator[None]:
    """Another person's plots; LaTeX for text would need LaTeX."""
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        yield


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "no gradient": torch.no_grad,
    "gradients off": lambda: setting(torch.set_grad_enabled, False, True),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "bfloat16 products": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "anomalies": lambda: setting(torch.autograd.set_detect_anomaly, True, False),
    "another device": lambda: setting(torch.set_default_device, "meta", None),
    "a device's context": lambda: torch.device("meta"),
    "errors": raising,
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return {name: images_of(attack()) for name, attack in ATTACKS.items()}


def images_of(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.images  # type: ignore[no-any-return]


@pytest.mark.parametrize("state", STATES)
def test_attacks_find_the_same_whatever_is_set(state: str, expected: dict[str, Tensor]) -> None:
    for name, attack in ATTACKS.items():
        with STATES[state]():
            found = images_of(attack())
            assert found.dtype == torch.float32
            assert found.device.type == "cpu"
        assert torch.equal(found, expected[name]), name


def everything() -> list[AbstractContextManager[object]]:
    return [make() for make in (*STATES.values(), styled)]


@pytest.mark.filterwarnings("ignore:.*anomaly")
def test_a_run_is_the_same_whatever_is_set(tmp_path: Path) -> None:
    """All of it at once; and ``verify`` without any of it holds it."""
    reports = []
    for place, around in (("plain", []), ("odd", everything())):
        options = api.Options(samples=8, only=("fgsm", "gaussian_noise"), out=tmp_path / place)
        with ExitStack() as stack:
            for state in around:
                stack.enter_context(state)
            report = api.evaluate("ce_digits", "quick", options=options)
            assert api.estimate("ce_digits", "quick", options=options).minutes > 0
            assert all(check.held for check in api.verify(report.folder))
        reports.append(report)
        assert all(check.held for check in api.verify(report.folder))
    plain, odd = (report.content for report in reports)
    for attack in (*plain["attacks"], *odd["attacks"]):
        attack["seconds"] = 0
    for part in ("attacks", "findings", "outliers", "clean", "worst_case"):
        assert plain[part] == odd[part]


@pytest.mark.parametrize("state", ["float64", "bfloat16", "another device", "autocast"])
def test_models_are_float32_on_the_processor(state: str) -> None:
    images = KNOWN.images
    with STATES[state]():
        model = robusteval.load_model("pcl_digits")
        wrapped = robusteval.wrap_module(nn.Flatten(), 64, [0.5], [0.25])
    for adapter in (model, wrapped):
        tensors = [*adapter.parameters(), *adapter.buffers()]
        assert all(t.dtype != torch.float64 and t.device.type == "cpu" for t in tensors)
    assert wrapped(images).dtype == model(images).dtype == torch.float32


def test_a_model_loaded_in_inference_mode_can_be_attacked() -> None:
    with torch.inference_mode():
        model = robusteval.load_model("ce_digits")
    assert smallest(model, torch.rand(2, 1, 8, 8), torch.arange(2), GIVEN[3], steps=2).shape


def test_a_module_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        module = small_network()
    with pytest.raises(AttackError, match="made in torch"):
        smallest(robusteval.wrap_module(module, 5), *GIVEN[1:])
    with torch.inference_mode():
        images = torch.rand(2, 1, 8, 8)
    with pytest.raises(AttackError, match=r"pass images.clone\(\)"):
        smallest(small_network(), images, torch.arange(2), GIVEN[3])


@pytest.mark.parametrize("door", [api.evaluate, api.estimate, api.verify])
def test_inference_mode_is_refused_in_one_line(door: Callable[[str], object]) -> None:
    with torch.inference_mode(), pytest.raises(AttackError, match="outside of torch"):
        door("ce_digits")


def test_what_was_set_is_set_again() -> None:
    def state() -> tuple[object, ...]:
        return (
            *(torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_anomaly_enabled()),
            *(torch.is_autocast_enabled("cpu"), torch.get_default_device(), np.geterr()),
            *(torch.get_float32_matmul_precision(), list(warnings.filters)),
        )

    with ExitStack() as stack:
        for odd in everything():
            stack.enter_context(odd)
        before = state()
        with plain_state():
            assert torch.is_grad_enabled()
            assert torch.zeros(1).dtype == torch.float32
            with pytest.warns(UserWarning, match="only told"):
                warnings.warn("only told", UserWarning, stacklevel=1)
        assert state() == before


def test_float32_is_multiplied_as_such() -> None:
    """A processor with matrix units multiplies in bfloat16 where that is allowed."""
    first, second = torch.randn(128, 256), torch.randn(256, 128)
    exact = first @ second
    with STATES["bfloat16 products"](), plain_state():
        assert torch.equal(first @ second, exact)


def test_warnings_of_ours_are_told_or_raised_as_the_caller_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the work: the attack's own are no mishap of a library's."""
    monkeypatch.setattr(Cascade, "left_out", frozenset({"more search", "AutoAttack"}))
    blind = Function(lambda x: linear("Linf", 3).model(x).detach())
    labels = blind(GIVEN[1]).argmax(1)
    given = (blind, GIVEN[1][:1], labels[:1], threat_of("Linf", 1e-4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no gradient reaches the images"):
            adaptive(*given, passes_per_sample=3)
    with pytest.warns(UserWarning, match="no gradient reaches") as told:
        adaptive(*given, passes_per_sample=3)
    assert {w.filename for w in told} == {__file__}


@pytest.mark.parametrize("silence", ["everything", "the logger", "its level"])
def test_a_warning_of_autoattack_is_heard_where_logging_is_off(silence: str) -> None:
    model = Function(lambda x: linear("Linf", 3).model(x).softmax(1))
    logger = logging.getLogger("auto-attack")
    images = GIVEN[1][:1]
    try:
        logging.disable(logging.CRITICAL if silence == "everything" else logging.NOTSET)
        logger.disabled = silence == "the logger"
        logger.setLevel(logging.CRITICAL if silence == "its level" else logging.NOTSET)
        before = (logging.root.manager.disable, logger.disabled, logger.level)
        found = autoattack(model, images, model(images).argmax(1), threat_of("Linf", 0.3))
        assert any("probability distribution" in warned.text for warned in found.warned)
        assert (logging.root.manager.disable, logger.disabled, logger.level) == before
    finally:
        logging.disable(logging.NOTSET)
        logger.disabled = False
        logger.setLevel(logging.NOTSET)


def test_a_debuggers_trace_goes_on() -> None:
    """pyautoattack takes it away after its look at a pass."""

    def trace(*_: object) -> None: ...

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ATTACKS["autoattack"]()
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
