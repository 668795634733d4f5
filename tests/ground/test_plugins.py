"""Plug-ins: listed at once, loaded when asked for; what is wrong with one is its own affair."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robusteval import api
from robusteval.attacks.registry import OWN, code_of, find
from robusteval.errors import EvidenceError, PluginError, UnknownNameError
from robusteval.evidence.files import Local
from robusteval.evidence.record import read_record
from robusteval.plan.made_with import code_digests, library_versions
from robusteval.plan.suite import read_suite
from robusteval.plugins import plugins
from robusteval.types import ThreatModel
from tests.helpers.attacks import Call, record_of
from tests.helpers.plugins import ATTACK, Install

SUITE = """
name = "mine"
[[attacks]]
name = "shift"
title = "Shift"
library = "robusteval"
attack = "shift"
norms = ["Linf"]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def test_one_that_cannot_be_imported_is_one_line_and_the_others_go_on(
    install: Install, suite: Path, tmp_path: Path
) -> None:
    """It is not even loaded, unless it is asked for."""
    points = {"attacks": {"shift": "broken_shift:attack"}}
    install("broken-package", "1.0", points, {"broken_shift": "raise RuntimeError('out of order')"})
    report = api.evaluate(
        "ce_digits", "quick", options=api.Options(samples=4, only=("fgsm",), out=tmp_path)
    )
    assert all(check.held for check in api.verify(report.folder))
    assert "shift" in OWN
    with pytest.raises(PluginError, match=r"broken-package .*out of order.*remove broken") as told:
        api.evaluate("ce_digits", suite, options=api.Options(samples=4, out=tmp_path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["import sys\nsys.exit(0)", "x = 1", "attack = print", "def f(:"])
def test_what_is_no_attack_names_its_package(install: Install, text: str) -> None:
    name = f"odd_{abs(hash(text))}"
    install("odd-package", "1.0", {"attacks": {"odd": f"{name}:attack"}}, {name: text})
    with pytest.raises(PluginError, match="odd-package"):
        find("robusteval", "odd")


def test_a_clash_of_names_names_both_packages(install: Install) -> None:
    install(
        "one-package",
        "1.0",
        {"attacks": {"shift": "shift_one:shift_attack"}},
        {"shift_one": ATTACK},
    )
    install(
        "two-package",
        "1.0",
        {"attacks": {"shift": "shift_two:shift_attack"}},
        {"shift_two": ATTACK},
    )
    with pytest.raises(PluginError, match="attack shift comes from one-package and from two-pack"):
        find("robusteval", "shift")
    install("vain-package", "1.0", {"attacks": {"adaptive": "shift_one:shift_attack"}}, {})
    with pytest.raises(PluginError, match="adaptive comes from robusteval and from vain-package"):
        find("robusteval", "adaptive")
    assert find("robusteval", "smallest").name == "smallest"


def test_its_version_and_its_source_are_in_the_spec(
    install: Install, suite: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that a run never goes on with evidence of other code."""
    points = {"attacks": {"shift": "shift_three:shift_attack"}}
    install("a-package", "1.0", points, {"shift_three": ATTACK})
    options = api.Options(samples=4, out=tmp_path)
    first = api.evaluate("ce_digits", suite, options=options)
    assert read_record(Local(first.folder))["spec"]["versions"]["a-package"] == "1.0"
    assert all(check.held for check in api.verify(first.folder))
    row = first.content["attacks"][0]
    assert (row["library_version"], row["version"]) == ("1.0", 1)
    (tmp_path / "site" / "shift_three.py").write_text(ATTACK + "\n\nMORE = 1\n")
    second = api.evaluate("ce_digits", suite, options=options)
    assert second.folder != first.folder
    assert f"{first.folder} was made with other code or versions" in caplog.text
    (tmp_path / "site" / "a_package-1.0.dist-info").rename(tmp_path / "site" / "gone")
    install("a-package", "1.1", points, {})
    third = api.evaluate("ce_digits", suite, options=options)
    assert third.folder not in (first.folder, second.folder)


def test_a_run_of_a_package_that_is_gone_names_it(
    install: Install, suite: Path, tmp_path: Path
) -> None:
    """It isn't corrupt."""
    install(
        "a-package", "1.0", {"attacks": {"shift": "shift_six:shift_attack"}}, {"shift_six": ATTACK}
    )
    report = api.evaluate("ce_digits", suite, samples=4, out=tmp_path)
    (tmp_path / "site" / "a_package-1.0.dist-info").rename(tmp_path / "site" / "gone")
    plugins.cache_clear()
    with pytest.raises(EvidenceError, match=r"was made with a-package: install that \(unknown att"):
        api.verify(report.folder)


def test_versions_of_what_detectors_come_from_are_in_the_spec() -> None:
    assert "pytorch-ood" in library_versions(read_suite("full"))


def test_what_it_states_is_what_counts(install: Install, suite: Path) -> None:
    """Of passes and gradients nothing is assumed."""
    points = {"attacks": {"shift": "shift_four:shift_attack"}}
    install("a-package", "1.0", points, {"shift_four": ATTACK})
    attack = find("robusteval", "shift")
    assert attack.gradients == "none"
    prepared = api.estimate("ce_digits", suite, options=api.Options(samples=4))
    assert prepared is not None
    chosen = read_suite(suite)
    assert code_digests(chosen) == {"robusteval.shift": code_of(attack)}
    assert attack.expected_passes({}, 10) == (5000, 0)


def test_seeds_of_plug_ins_are_numpys(install: Install) -> None:
    """32 bits; our own attacks keep all of theirs."""
    text = (
        ATTACK.replace("return (images", "seeds.append(seed)\n    return (images")
        + "\nseeds = []\n"
    )
    points = {"attacks": {"shift": "shift_five:shift_attack"}}
    install("a-package", "1.0", points, {"shift_five": text})
    images = torch.full((2, 1, 8, 8), 0.5)
    threat = ThreatModel("Linf", "0.1")  # type: ignore[arg-type]
    given: Any = (nn.Flatten(), images, torch.zeros(2).long(), threat, 2**55 + 3)
    Call("robusteval", "shift", {})(*given)
    import shift_five  # type: ignore[import-not-found]

    assert shift_five.seeds == [3]
    np.random.RandomState(shift_five.seeds[0])  # which 56 bits are too many for


def test_plug_ins_are_listed_without_being_loaded(install: Install) -> None:
    install("broken-package", "2.0", {"attacks": {"odd": "no_such_module:x"}}, {})
    found = [plugin for plugin in plugins("attacks") if plugin.name == "odd"]
    assert [(one.package, one.version) for one in found] == [("broken-package", "2.0")]
    with pytest.raises(UnknownNameError, match="did you mean odd"):
        find("robusteval", "od")


def test_an_attack_has_no_silent_defaults() -> None:
    with pytest.raises(TypeError, match="gradients"):
        record_of("x", print).__class__(name="x")  # type: ignore[call-arg]
