"""Adversarials of another model."""

from pathlib import Path

import pytest
import torch

from robusteval import api
from robusteval.attacks.counting import Counted
from robusteval.attacks.steps import norms
from robusteval.attacks.transfer import transfer
from robusteval.data.datasets import Dataset
from robusteval.errors import AttackError, EvidenceError, SuiteError
from robusteval.models.adapter import Adapter
from robusteval.models.registry import find_entry
from robusteval.plan.context import Access, open_context
from robusteval.plan.suite import read_suite
from robusteval.run.prepare import prepare
from robusteval.run.subject import Asked
from tests.helpers.commands import cli, refused
from tests.helpers.known import Function, images_near_grey, linear, margins, threat_of


def masked(model: torch.nn.Module) -> Function:
    """The same decisions without any gradient."""
    return Function(lambda x: model(x.detach()).sign() * (model(x.detach()).abs() + 1).log())


def test_a_model_without_gradients_breaks_by_those_of_its_twin() -> None:
    known = linear("Linf", 4)
    radius = float(known.smallest.median())
    threat = threat_of("Linf", radius)
    blind = masked(known.model)
    found = transfer(blind, known.images, known.labels, threat, seed=0, source=known.model)
    assert norms(found - known.images, "Linf").max() <= radius + 1e-6
    broken = margins(blind, found, known.labels) > 0
    assert broken[known.smallest < radius / 1.05].all()
    assert not broken[known.smallest > radius * (1 + 1e-5)].any()


def test_a_source_that_points_the_wrong_way_breaks_nothing() -> None:
    known = linear("L2", 2)
    threat = threat_of("L2", float(known.smallest.median()))
    away = Function(lambda x: -known.model(x))
    found = transfer(known.model, known.images, known.labels, threat, seed=0, source=away)
    assert (margins(known.model, found, known.labels) <= 0).all()


def test_a_source_must_fit() -> None:
    images, threat = images_near_grey(4), threat_of("L2", 1)
    labels = torch.zeros(4, dtype=torch.long)
    three, four = linear("L2", 3).model, linear("L2", 4).model
    with pytest.raises(AttackError, match="4 classes, the model 3"):
        transfer(three, images, labels, threat, seed=0, source=four)
    wide = Function(lambda x: x.flatten(1) @ torch.ones(7, 3))
    with pytest.raises(AttackError, match="can't read these images"):
        transfer(three, images, labels, threat, seed=0, source=wide)


def test_on_a_real_model_transfer_breaks_some_and_white_box_more(
    digits: Dataset, pcl_digits: Adapter, ce_digits: Adapter
) -> None:
    images, labels = digits.images(slice(0, 60)), digits.labels[:60]
    right = margins(pcl_digits, images, labels) < 0
    images, labels, threat = images[right], labels[right], digits.info.default_threat("Linf")

    def broken(source: Adapter) -> int:
        model = Counted(pcl_digits, len(images))
        found = transfer(model, images, labels, threat, seed=0, source=source)
        return int((margins(pcl_digits, found, labels) > 0).sum())

    assert 0 < broken(ce_digits) <= broken(pcl_digits)


def test_sources_of_a_run_stand_in_its_spec_and_may_not_change(tmp_path: Path) -> None:
    options = api.Options(samples=40, out=tmp_path, only=("pgd10",), sources=("ce_digits",))
    report = api.evaluate("pcl_at_digits", "quick", options=options)
    rows = {(a["name"], a["threat"]["norm"]) for a in report.content["attacks"]}
    assert rows == {("pgd10", "Linf"), ("transfer_ce_digits", "Linf")}
    assert all(check.held for check in api.verify(report.folder))
    spec = prepare(Asked("pcl_at_digits"), "quick", options).spec
    assert [*spec.sources] == ["ce_digits"]
    changed = spec.from_json({**spec.to_json(), "sources": {"ce_digits": "0" * 64}})
    with pytest.raises(EvidenceError, match="has changed since"):
        open_context(changed, Access("pcl_at_digits"))


def test_a_transfer_can_run_alone_and_sources_may_be_patterns(tmp_path: Path) -> None:
    asked = ("run", "--model", "pcl_digits", "--suite", "quick", "--samples", "20")
    sources = ("--source", "ce_digit?", "dce_digits", "--only", "transfer_ce_digits")
    done = cli(*asked, *sources, "--out", str(tmp_path))
    assert done.exit_code == 0
    assert "Transfer from ce_digits" in done.stdout
    assert "dce_digits" not in done.stdout


def test_a_model_among_the_sources_is_not_its_own(tmp_path: Path) -> None:
    """A pattern may fit the attacked model, too."""
    asked = ("run", "--model", "ce_digits", "--suite", "quick", "--samples", "20")
    done = cli(*asked, "--only", "fgsm", "--source", "*ce_digits", "--out", str(tmp_path))
    assert done.exit_code == 0
    assert "Transfer from dce_digits" in done.stdout
    assert "Transfer from ce_digits" not in done.stdout


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    refused(
        cli("run", "--model", "pcl_digits", "--source", "ce_mnist"),
        "ce_mnist is a model of mnist: as a source for digits choose one",
    )
    refused(
        cli("run", "--model", "pcl_digits", "--source", "ce_digit"),
        "unknown model 'ce_digit': did you mean ce_digits",
    )
    refused(
        cli("run", "--model", "pcl_digits", "--source", "pcl_digits"),
        "pcl_digits is the model itself: choose another one as a source",
    )
    refused(cli("run", "--model", "pcl_digits", "--source", ""), "--source is empty")
    refused(
        cli("run", "--model", "pcl_digits", "--source", "*_nowhere"), "no model fits '*_nowhere'"
    )
    twice = ("ce_digits", str(find_entry("ce_digits").path))
    refused(
        cli("run", "--model", "pcl_digits", "--suite", "quick", "--source", *twice),
        "suite quick with its sources",
        "transfer_ce_digits stands twice",
    )
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'name = "mine"\n[[attacks]]\nname = "t"\ntitle = "T"\nlibrary = "robusteval"\n'
        'attack = "transfer"\nnorms = ["Linf"]\n'
    )
    with pytest.raises(SuiteError, match="transfer needs a model"):
        read_suite(str(suite))
