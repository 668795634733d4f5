"""Detectors as records: the old scores to the bit, what a model can't have, plug-ins, the list."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robusteval import api, wrap_module
from robusteval.attacks.code import code_of_module
from robusteval.data.datasets import Dataset
from robusteval.detection.record import Detector
from robusteval.detection.registry import DETECTORS, code_of, find
from robusteval.detection.scoring import scores
from robusteval.errors import AttackError, PluginError, UnknownNameError
from robusteval.evidence.files import Local
from robusteval.evidence.record import read_record
from robusteval.evidence.results import load_result
from robusteval.listing import detectors
from robusteval.models.adapter import Adapter
from robusteval.plan.made_with import code_digests, library_versions
from robusteval.plan.suite import Detection, Suite, read_suite
from robusteval.vision import torchvision
from tests.helpers.detectors import record_of, suite_of
from tests.helpers.plugins import Install

BRIGHTNESS = """
from robusteval.detection.record import PLUGIN, Detector

brightness = Detector(
    name="brightness",
    title="Brightness",
    source="",
    package=PLUGIN,
    reads="images",
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,
    own_passes=0,
    settings=(),
    fit_read=None,
    score_read=lambda state, model, images: -images.flatten(1).mean(1),
    version=1,
)
"""


@torch.no_grad()
def test_the_scores_are_the_old_ones_to_the_bit(pcl_digits: Adapter, digits: Dataset) -> None:
    """As they were computed before there were records, in batches of 250."""
    torchvision()
    from pytorch_ood import detector

    images = digits.images()
    old: dict[str, Any] = {
        "max_softmax": lambda part: -detector.MaxSoftmax.score(pcl_digits(part).double()),
        "max_logit": lambda part: -detector.MaxLogit.score(pcl_digits(part).double()),
        "energy": lambda part: -detector.EnergyBased.score(pcl_digits(part).double()),
        "nearest_prototype": lambda part: -pcl_digits.distances(part).flatten(1).amin(1),
    }
    for name, score in old.items():
        expected = torch.cat([score(part).double() for part in images.split(250)])
        assert torch.equal(scores(name, pcl_digits, images), expected)


def test_what_a_model_has_not_is_left_out_and_says_why(tmp_path: Path) -> None:
    feature = record_of(
        "feature_norm", reads="features", score_read=lambda state, model, z: z.norm(dim=1)
    )
    layer = nn.Linear(64, 10)
    plain = wrap_module(nn.Sequential(nn.Flatten(), layer), classes=10)
    path = suite_of(tmp_path, "energy", "nearest_prototype", "feature_norm")
    with DETECTORS.having("feature_norm", feature):
        report = api.evaluate(
            plain, path, dataset="digits", options=api.Options(samples=12, out=tmp_path)
        )
        assert report.complete
        reasons = {row["name"]: (row["kind"], row["reason"]) for row in report.content["left_out"]}
        assert reasons == {
            "nearest_prototype": ("detector", "the model has no prototypes"),
            "feature_norm": ("detector", "the model shows no features, only logits"),
        }
        assert {row["detector"] for row in report.content["outliers"]} == {"energy"}
        assert "feature_norm was left out, because" in (report.folder / "report.md").read_text()
        other = api.evaluate("ce_digits", path, options=api.Options(samples=12, out=tmp_path))
        assert {row["detector"] for row in other.content["outliers"]} == {"energy", "feature_norm"}
        assert [row["name"] for row in other.content["left_out"]] == ["nearest_prototype"]
        assert read_record(Local(other.folder))["model"]["features"]
        assert all(check.held for check in api.verify(other.folder))
        assert load_result(Local(other.folder)).plan.detectors == ("energy", "feature_norm")


def test_a_record_has_no_silent_defaults() -> None:
    with pytest.raises(TypeError, match="fit_read"):
        Detector(name="x")  # type: ignore[call-arg]


def test_scores_that_are_not_one_for_each_image_are_refused(
    pcl_digits: Adapter, digits: Dataset
) -> None:
    odd = record_of("odd", score_read=lambda state, model, images: images.mean((1, 2)))
    with (
        DETECTORS.having("odd", odd),
        pytest.raises(AttackError, match=r"odd returns shape \(3, 8"),
    ):
        scores("odd", pcl_digits, digits.images(slice(0, 3)))


# Plug-ins


def test_a_plug_in_without_a_fit(install: Install, tmp_path: Path) -> None:
    points = {"detectors": {"brightness": "bright_one:brightness"}}
    install("a-package", "1.0", points, {"bright_one": BRIGHTNESS})
    path, options = suite_of(tmp_path, "brightness"), api.Options(samples=12, out=tmp_path)
    report = api.evaluate("ce_digits", path, options=options)
    assert {row["detector"] for row in report.content["outliers"]} == {"brightness"}
    spec = read_record(Local(report.folder))["spec"]
    assert spec["versions"].keys() == {"a-package", "robusteval", "torch"}
    assert spec["versions"]["a-package"] == "1.0"
    assert spec["code"] == {"detector.brightness": code_of(find("brightness"))}
    assert all(check.held for check in api.verify(report.folder))
    (tmp_path / "site" / "bright_one.py").write_text(BRIGHTNESS + "\n\nMORE = 1\n")
    assert api.evaluate("ce_digits", path, options=options).folder != report.folder


@pytest.mark.parametrize("text", ["import sys\nsys.exit(0)", "x = 1", "brightness = print"])
def test_what_is_no_detector_names_its_package(install: Install, text: str, tmp_path: Path) -> None:
    """In one line; who doesn't ask for it never meets it."""
    name = f"dim_{abs(hash(text))}"
    points = {"detectors": {"brightness": f"{name}:brightness"}}
    install("odd-package", "1.0", points, {name: text})
    with pytest.raises(PluginError, match="odd-package") as told:
        api.evaluate("ce_digits", suite_of(tmp_path, "brightness"), samples=12, out=tmp_path)
    assert "\n" not in str(told.value)
    rows = detectors(None)
    assert {"name": "brightness", "package": "odd-package"} in rows
    options = api.Options(samples=12, out=tmp_path)
    assert api.evaluate("ce_digits", suite_of(tmp_path, "energy"), options=options).complete


def test_a_clash_of_names_names_both(install: Install) -> None:
    install("vain-package", "1.0", {"detectors": {"energy": "bright_two:brightness"}}, {})
    with pytest.raises(PluginError, match="detector energy comes from robusteval and from vain"):
        find("energy")
    with pytest.raises(UnknownNameError, match="did you mean max_logit"):
        find("max_logits")


# What a spec holds


def test_a_spec_has_the_code_of_its_detectors() -> None:
    full = read_suite("full")
    told = code_digests(full)
    assert told["detector.energy"] == code_of_module("robusteval.detection.logits")
    assert told["detector.nearest_prototype"] == code_of_module("robusteval.detection.prototypes")
    without = full.model_copy(update={"detection": Detection()})
    assert code_digests(without) == {k: v for k, v in told.items() if "detector" not in k}
    alone = Suite(name="s", detection=Detection(detectors=["nearest_prototype"]))
    assert library_versions(alone).keys() == {"robusteval", "torch"}


def test_the_list_says_what_each_needs() -> None:
    rows = {row["name"]: row for row in detectors(None)}
    assert rows["nearest_prototype"] == {
        "name": "nearest_prototype",
        "title": "Distance to the nearest prototype",
        "source": "Yang et al. 2018, arXiv 1805.03438",
        "package": "robusteval",
        "reads": "images",
        "needs prototypes": "yes",
        "needs linear layer": "no",
        "needs training data": "no",
        "gradient": "yes",
        "own passes": 1,
    }
    assert rows["energy"]["reads"] == "logits"
