"""Training data of the user's own, which detectors are fitted to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader, TensorDataset

from robusteval import api
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import RobustevalError
from robusteval.evidence.files import Local
from robusteval.evidence.record import read_record
from tests.helpers.detectors import suite_of

TRAIN = load_dataset("digits", "train").balanced_subset(100)


@pytest.fixture
def own(digits: Dataset) -> tuple[Any, Any]:
    return digits.images(slice(0, 24)), digits.labels[:24]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "train.npz"
    np.savez(path, images=TRAIN.images().numpy(), labels=TRAIN.labels.numpy())
    return path


def run(own: Any, out: Path, **more: Any) -> api.Report:
    path = suite_of(out, "energy", "mahalanobis")
    return api.evaluate("ce_digits", *own, suite=path, out=out, **more)


def unheld(folder: Path, **more: Any) -> list[str]:
    return [check.told for check in api.verify(folder, **more) if not check.held]


def test_without_them_own_data_have_no_fits(own: Any, tmp_path: Path) -> None:
    (row,) = run(own, tmp_path).content["left_out"]
    assert row["name"] == "mahalanobis"
    assert "fit_images=" in row["reason"]
    assert "--fit-data" in row["reason"]


def test_from_python(own: Any, tmp_path: Path) -> None:
    fit = {"fit_images": TRAIN.images(), "fit_labels": TRAIN.labels}
    report = run(own, tmp_path, **fit)
    assert {row["detector"] for row in report.content["outliers"]} == {"energy", "mahalanobis"}
    record = read_record(Local(report.folder))
    assert record["spec"]["own_training"]
    assert record["training_reference"] == ""
    (state,) = (report.folder / "evidence").glob("fit-00-*.safetensors")
    expected = api.load_model("ce_digits").embed(TRAIN.images())[TRAIN.labels == 3].mean(0)
    assert load_file(state)["means"][3] == pytest.approx(expected.numpy(), abs=1e-4)
    images, labels = own
    (told,) = unheld(report.folder, images=images, labels=labels)
    assert "pass fit_data=(images, labels)" in told
    pair = TRAIN.images(), TRAIN.labels
    assert unheld(report.folder, images=images, labels=labels, fit_data=pair) == []
    other = pair[0].flip(3), pair[1]
    (told,) = unheld(report.folder, images=images, labels=labels, fit_data=other)
    assert "other training data" in told
    assert run(own, tmp_path, **fit).folder == report.folder


def test_a_loader_is_read_once(own: Any, tmp_path: Path) -> None:
    """It may give another order the next time."""
    loader = DataLoader(TensorDataset(TRAIN.images(), TRAIN.labels), batch_size=9, shuffle=True)
    assert run(own, tmp_path, fit_images=loader).complete


def test_at_a_path(saved: Path, tmp_path: Path) -> None:
    """In the place of the data set's own train split, with workers, and moved."""
    path, options = suite_of(tmp_path, "mahalanobis"), {"samples": 12, "out": tmp_path}
    report = api.evaluate("ce_digits", suite=path, fit_data=saved, **options)
    assert report.content["fitting"]["samples"] == 100
    told = "mahalanobis: fitted to 100 samples of your own."
    assert told in (report.folder / "report.md").read_text()
    assert read_record(Local(report.folder))["training_reference"] == str(saved)
    assert unheld(report.folder) == []
    moved = saved.rename(tmp_path / "moved.npz")
    assert unheld(report.folder, fit_data=moved) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fit_labels": [1]}, "pass fit_images"),
        ({"fit_images": TRAIN.images(), "fit_data": "x"}, "both given"),
        ({"fit_images": TRAIN.images()}, "images need labels"),
        ({"fit_images": torch.rand(10, 1, 9, 9), "fit_labels": [1] * 10}, "1×9×9"),
        ({"fit_images": torch.rand(10, 1, 8, 8), "fit_labels": [11] * 10}, "a label 11"),
        ({"fit_data": "nowhere.npz"}, "nowhere"),
        ({"fit_data": ""}, "fit_data"),
    ],
)
def test_what_cannot_be_used_is_said(
    own: Any, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(RobustevalError, match=said) as told:
        run(own, tmp_path, **given)
    assert "\n" not in str(told.value)


def test_workers_are_not_sent_what_python_gave(tmp_path: Path) -> None:
    path = suite_of(tmp_path, "mahalanobis")
    fit = {"fit_images": TRAIN.images(), "fit_labels": TRAIN.labels}
    with pytest.raises(RobustevalError, match="training data given from Python"):
        api.evaluate("ce_digits", suite=path, samples=12, out=tmp_path, workers=2, **fit)


def test_one_class_too_few_is_the_reason(own: Any, tmp_path: Path) -> None:
    kept = TRAIN.labels != 4
    fit = {"fit_images": TRAIN.images()[kept], "fit_labels": TRAIN.labels[kept]}
    (row,) = run(own, tmp_path, **fit).content["left_out"]
    assert row["reason"].endswith("class 4 has no training sample")
