"""A detector's fit is a job, whose state is evidence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from benchmarks.blocks import FGSM
from robusteval import api, wrap_module
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.detection.registry import DETECTORS, find
from robusteval.detection.scoring import scores
from robusteval.errors import DataError, EvidenceError
from robusteval.evidence.arrays import digest_of_state
from robusteval.evidence.files import Local
from robusteval.evidence.pieces import sealed, unsealed
from robusteval.evidence.record import open_store, read_record
from robusteval.evidence.results import load_result
from robusteval.models.adapter import Adapter
from robusteval.plan import fitting_data as training
from robusteval.run import jobs, runner
from robusteval.trust.refitted import REFITTED
from tests.helpers.detectors import record_of, suite_of
from tests.helpers.plugins import Install

ATTACKED = (
    """
name = "mine"
"""
    + FGSM
    + """
[detection]
detectors = ["energy", "mahalanobis", "knn"]
natural = 0
attacks = ["fgsm"]
tuning = ""
"""
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted")
    (out / "mine.toml").write_text(ATTACKED)
    return api.evaluate("ce_digits", out / "mine.toml", options=options(out)).folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copy(finished.parent / "mine.toml", tmp_path)
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def options(out: Path, **more: Any) -> api.Options:
    return api.Options(**{"samples": 24, "batch_size": 12, "out": out, **more})


def digest_of(folder: Path) -> str:
    return load_result(Local(folder)).evidence_digest


def unheld(folder: Path, **more: Any) -> list[str]:
    return [check.name for check in api.verify(folder, **more) if not check.held]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The detectors that are fitted from now on."""
    fitted: list[str] = []

    def count(context: Any, job: Any) -> Any:
        fitted.append(job.label)
        return real(context, job)

    real = jobs.fitted_state
    monkeypatch.setattr(jobs, "fitted_state", count)
    return fitted


def test_a_fit_is_evidence(finished: Path) -> None:
    files = {path.name for path in (finished / "evidence").iterdir()}
    for stem in ("fit-00-mahalanobis", "fit-01-knn"):
        assert {f"{stem}.parquet", f"{stem}.safetensors"} <= files
    spec = read_record(Local(finished))["spec"]
    count, digest = spec["training"]
    train = load_dataset("digits", "train")
    assert (count, digest) == (len(train), train.balanced_subset(len(train)).digest)
    assert {"detector.mahalanobis", "detector.knn", "detector.energy"} <= spec["code"].keys()
    report = json.loads((finished / "report.json").read_text())
    assert report["fitting"] == {
        "detectors": ["mahalanobis", "knn"],
        "split": "train",
        "samples": count,
        "digest": digest,
    }
    for name in ("report.md", "report.html"):
        told = f"mahalanobis, knn: fitted to {count} samples of the train split."
        assert told in (finished / name).read_text()
    for kind in ("outliers", "attack_detection"):
        rows = report[kind]
        assert {row["detector"] for row in rows} == {"energy", "mahalanobis", "knn"}
        assert all(row["status"] == "done" for row in rows)
    names = [check.name for check in api.verify(finished, again=2) if check.held]
    assert REFITTED in names
    assert unheld(finished, again=2) == []


def test_scores_are_those_of_the_fit(finished: Path, ce_digits: Adapter, digits: Dataset) -> None:
    train = load_dataset("digits", "train").balanced_subset(len(load_dataset("digits", "train")))
    images = digits.balanced_subset(24).images()
    for name in ("mahalanobis", "knn"):
        state = find(name).fit(ce_digits, train.images().split(250), train.labels)
        found = load_result(Local(finished)).clean[f"score_{name}"]
        assert found == pytest.approx(scores(name, ce_digits, images, state).numpy(), rel=1e-4)


def test_the_part_is_balanced_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MOST", 50)
    part = training.fitting_data("digits", None)
    assert part is not None
    assert torch.bincount(part.labels).tolist() == [5] * 10
    again = training.fitting_data("digits", None)
    assert again is not None
    assert again.digest == part.digest


def test_a_kill_after_the_fits_refits_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Such as Ctrl-C."""

    def die(*_: Any) -> None:
        raise Killed

    fitted = counted(monkeypatch)
    suite = finished.parent / "mine.toml"
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_clean", die)
        with pytest.raises(Killed):
            api.evaluate("ce_digits", suite, options=options(tmp_path))
    assert fitted == ["mahalanobis", "knn"]
    report = api.evaluate("ce_digits", suite, options=options(tmp_path))
    assert fitted == ["mahalanobis", "knn"]
    assert digest_of(report.folder) == digest_of(finished)


def test_a_state_that_is_gone_is_fitted_again(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fitted = digest_of(copied), counted(monkeypatch)
    for path in (copied / "evidence").glob("fit-01-knn.*"):
        path.unlink()
    assert REFITTED not in unheld(copied)  # nothing is there that could be wrong …
    assert "detectors' scores" in unheld(copied)  # … but what scores were made with is missing
    api.evaluate("ce_digits", copied.parent / "mine.toml", options=options(copied.parent))
    assert fitted == ["knn"]
    assert digest_of(copied) == before
    assert unheld(copied) == []


def test_workers_give_the_same_evidence(finished: Path, tmp_path: Path) -> None:
    threads = read_record(Local(finished))["spec"]["threads"]
    elsewhere = options(tmp_path, workers=2, threads=threads)
    report = api.evaluate("ce_digits", finished.parent / "mine.toml", options=elsewhere)
    assert digest_of(report.folder) == digest_of(finished)


Tamper = Callable[[Path], None]


def flip_a_bit(state: Path) -> None:
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)


def remove(state: Path) -> None:
    state.unlink()


def of_another(state: Path) -> None:
    shutil.copy(state.with_name("fit-01-knn.safetensors"), state)


@pytest.mark.parametrize("tamper", [flip_a_bit, remove, of_another])
def test_a_state_that_is_not_what_was_written_is_found(copied: Path, tamper: Tamper) -> None:
    tamper(copied / "evidence" / "fit-00-mahalanobis.safetensors")
    checks = api.verify(copied)
    assert [check.held for check in checks] == [False]
    assert "fit-00-mahalanobis.safetensors" in checks[0].told
    assert "run the same command again" in checks[0].told


def resealed(
    copied: Path, change: Callable[[dict[str, Any]], None], stem: str = "fit-00-mahalanobis"
) -> None:
    """A state changed on purpose, with every digest made to fit."""
    state = copied / "evidence" / f"{stem}.safetensors"
    arrays = load_file(state)
    change(arrays)
    save_file(arrays, state, {"job": stem})
    rows = state.with_suffix(".parquet")
    columns, about, schema = unsealed(rows.read_bytes())
    about["told"] = {"state": digest_of_state(arrays)}
    rows.write_bytes(sealed(columns, about, schema))


def test_a_state_that_was_changed_on_purpose_is_found(copied: Path) -> None:
    def shift(arrays: dict[str, Any]) -> None:
        arrays["means"] = arrays["means"] + 0.1 * np.abs(arrays["means"]).max()

    resealed(copied, shift)
    lacking = unheld(copied)
    assert REFITTED in lacking
    assert "detectors' scores" in lacking


def test_more_in_a_state_than_the_fit_gives_is_found(copied: Path) -> None:
    resealed(copied, lambda arrays: arrays.update(more=np.ones(3)))
    (check,) = [check for check in api.verify(copied) if check.name == REFITTED]
    assert not check.held
    assert "mahalanobis has other more" in check.told


def test_a_state_from_before_settings_still_holds(copied: Path) -> None:
    resealed(copied, lambda arrays: arrays.pop("k"), "fit-01-knn")
    api.rebuild_report(copied)
    assert unheld(copied) == []


def test_another_setting_than_the_fits_is_found(copied: Path) -> None:
    resealed(copied, lambda arrays: arrays.update(k=np.array(10.0)), "fit-01-knn")
    assert {REFITTED, "detectors' scores"} <= set(unheld(copied))


def test_other_training_data_are_refused(finished: Path) -> None:
    _, spec, _ = open_store(Local(finished))
    assert training.fitting_data_of(spec, None).digest == spec.training[1]  # type: ignore[misc]
    other = replace(spec, training=(100, spec.training[1]))  # type: ignore[misc]
    with pytest.raises(EvidenceError, match="other training data"):
        training.fitting_data_of(other, None)


# What can't be fitted


@pytest.fixture
def no_training_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, split: str, *_: Any) -> Dataset:
        raise DataError(f"{name} ({split}) is not there")

    monkeypatch.setattr(training, "load_dataset", load)
    monkeypatch.setattr(training, "class_order", lambda *_: None)


@pytest.mark.usefixtures("no_training_data")
def test_without_training_data_they_are_left_out(tmp_path: Path) -> None:
    path = suite_of(tmp_path, "energy", "mahalanobis")
    report = api.evaluate("ce_digits", path, options=options(tmp_path))
    assert report.complete
    assert {row["detector"] for row in report.content["outliers"]} == {"energy"}
    reason = "it is fitted to training data, and those of digits are not there"
    assert report.content["left_out"] == [
        {"kind": "detector", "name": "mahalanobis", "reason": reason}
    ]
    assert "training" not in read_record(Local(report.folder))["spec"]
    assert unheld(report.folder) == []


def test_files_that_are_there_and_broken_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Dataset:
        raise DataError("its files are broken")

    monkeypatch.setattr(training, "load_dataset", load)
    with pytest.raises(DataError, match="broken"):
        training.fitting_data("digits", None)


def test_a_model_without_features_reads_no_training_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_dataset", lambda *_: pytest.fail("it was read"))
    plain = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), classes=10)
    path = suite_of(tmp_path, "energy", "knn")
    report = api.evaluate(plain, path, dataset="digits", options=options(tmp_path))
    (row,) = report.content["left_out"]
    assert row["reason"] == "the model shows no features, only logits"


def test_a_fit_that_fails_leaves_its_detector_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(model: Adapter, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        next(iter(model.parameters())).data.add_(1)  # and would spoil what follows
        raise RuntimeError("it does not converge")

    path = suite_of(tmp_path, "energy", "vain", "knn")
    with DETECTORS.having("vain", record_of("vain", fit_read=fit)):
        report = api.evaluate("ce_digits", path, options=options(tmp_path))
        assert report.complete
        assert {row["detector"] for row in report.content["outliers"]} == {"energy", "knn"}
        (row,) = report.content["left_out"]
        assert (row["kind"], row["name"]) == ("detector", "vain")
        assert row["reason"].startswith("its fit failed: it changed the model's parameters")
        assert "vain is left out" in caplog.text
        assert unheld(report.folder) == []
        assert report.content["fitting"]["detectors"] == ["knn"]
        assert np.isnan(load_result(Local(report.folder)).clean["score_vain"]).all()


def test_a_failure_stands_once_there_are_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its detector would have scores in some jobs only."""
    vain = record_of("vain", fit_read=lambda *_: {})
    path = suite_of(tmp_path, "energy", "vain")
    with DETECTORS.having("vain", vain):
        first = api.evaluate("ce_digits", path, options=options(tmp_path))
        assert "TypeError: its state is not a table" in first.content["left_out"][0]["reason"]
        mended = replace(vain, fit_read=lambda *_: {"a": torch.ones(1)})
        monkeypatch.setattr(runner, "write_examples", lambda *_: None)
        with DETECTORS.having("vain", mended):
            second = api.evaluate("ce_digits", path, options=options(tmp_path))
            assert second.content["left_out"] == first.content["left_out"]


# Plug-ins

CENTRE = """
from robusteval.detection.record import PLUGIN, Detector


def fit(model, images, labels):
    return {"centre": images.mean(0)}


def score(state, model, images):
    return -(images - state["centre"]).flatten(1).norm(dim=1)


centre = Detector(
    name="centre",
    title="Centre",
    source="",
    package=PLUGIN,
    reads="images",
    needs_prototypes=False,
    needs_linear_head=False,
    gradient=True,
    own_passes=0,
    settings=(),
    fit_read=fit,
    score_read=score,
    version=1,
)
"""


def test_a_plug_in_with_a_fit(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in workers, too, where their Python finds the package."""
    points = {"detectors": {"centre": "centre_one:centre"}}
    install("a-package", "1.0", points, {"centre_one": CENTRE})
    path = suite_of(tmp_path, "centre")
    report = api.evaluate("ce_digits", path, options=options(tmp_path))
    assert {row["detector"] for row in report.content["outliers"]} == {"centre"}
    assert unheld(report.folder) == []
    assert read_record(Local(report.folder))["spec"]["versions"]["a-package"] == "1.0"
    (state,) = (report.folder / "evidence").glob("fit-00-centre.safetensors")
    expected = load_dataset("digits", "train").images().mean(0).numpy()
    assert load_file(state)["centre"] == pytest.approx(expected, abs=1e-6)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{Path(api.__file__).parents[1]}")
    threads = read_record(Local(report.folder))["spec"]["threads"]
    elsewhere = options(tmp_path / "workers", workers=2, threads=threads)
    other = api.evaluate("ce_digits", path, options=elsewhere)
    assert digest_of(other.folder) == digest_of(report.folder)
