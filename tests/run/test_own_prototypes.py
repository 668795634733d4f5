"""Runs of modules with prototypes of their own: attacks, detectors, records, resume, proofs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval import api
from robusteval.data.datasets import Dataset
from robusteval.errors import RobustevalError
from robusteval.evidence.files import Local
from robusteval.evidence.record import open_store, parts_of, write_record
from robusteval.evidence.store import Store
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.plan.context import Access, open_context
from robusteval.plan.plan import make_plan
from robusteval.trust.described import description_holds


@pytest.fixture(scope="module")
def means(digits: Dataset) -> Tensor:
    images = digits.images().flatten(1)
    return torch.stack([images[digits.labels == k].mean(0) for k in range(10)])


class ByMeans(nn.Module):
    """The nearest class mean of pixels decides; what it is given as means may be others."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.register_buffer("means", means)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": -torch.cdist(self.flat(images), self.get_buffer("means")).square()}


SUITE = """
name = "mine"
[[attacks]]
name = "prototype_margin"
title = "Prototype margin"
library = "robusteval"
attack = "prototype_margin"
norms = ["Linf"]
parameters = { steps = 3 }
"""
QUICK_REST = '[detection]\ndetectors = ["nearest_prototype"]\n[diagnostics]\nsamples = 2\n'


def evaluated(
    model: Adapter, folder: Path, rest: str = "", name: str = "mine", **changed: Any
) -> api.Report:
    folder.mkdir(exist_ok=True)
    (folder / "mine.toml").write_text(SUITE + rest)
    options = replace(api.Options(samples=30, eps=("0.1",), out=folder), **changed)
    return api.evaluate(model, folder / "mine.toml", "digits", name, options)


def test_a_run_has_its_prototypes_in_attacks_detectors_and_probes(
    means: Tensor, tmp_path: Path
) -> None:
    model = wrap_module(ByMeans(means), prototypes=means, features="flat")
    report = evaluated(model, tmp_path, QUICK_REST)
    assert report.complete
    assert report.content["left_out"] == []
    assert report.content["model"]["prototype_layers"] == ["features"]
    assert set(report.content["diagnostics"]["gradients"]) >= {"prototype margin", "CE + PC"}
    assert report.content["model"]["notes"] == [
        "logits are read from the output's key 'logits'",
        "prototypes (10, 1, 64) are compared by sql2 with the layer 'flat'",
        "classes are the module's own",
    ]
    record = json.loads((report.folder / "run.json").read_text())["model"]
    assert (record["prototypes"]["same"], record["prototypes"]["of"]) == (30, 30)
    (found,) = [f for f in report.content["findings"] if f["check"].startswith("nearest prototype")]
    assert found["verdict"] == "ok"
    assert found["measured"].endswith("the module's own on 30 of 30 clean samples")
    again = wrap_module(ByMeans(means), prototypes=means, features="flat")
    assert all(check.held for check in api.verify(report.folder, model=again, again=2))
    nearest = wrap_module(nn.Flatten(), prototypes=means, reading="nearest_prototype")
    other = evaluated(nearest, tmp_path / "nearest")
    accuracy = [r.content["attacks"][0]["robust_accuracy"] for r in (report, other)]
    assert accuracy[0] == accuracy[1]
    assert not [f for f in other.content["findings"] if f["check"].startswith("nearest")]


def test_prototypes_of_other_classes_are_told(
    means: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of two classes are swapped: samples that the module takes for them differ."""
    swapped = means[[1, 0, *range(2, 10)]]
    model = wrap_module(ByMeans(means), prototypes=swapped, features="flat")
    report = evaluated(model, tmp_path, samples=80)
    store, _, record = open_store(Local(report.folder))
    predictions = clean_predictions(store)[:64]
    differ = int(np.isin(predictions, [0, 1]).sum())
    assert 8 <= differ <= 20
    assert record["model"]["prototypes"]["same"] == 64 - differ
    (found,) = [f for f in report.content["findings"] if f["check"].startswith("nearest prototype")]
    assert found["verdict"] == "suspicious"
    assert f"on {64 - differ} of 64 clean samples" in found["measured"]
    told = [r.getMessage() for r in caplog.records if "nearest prototype" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(
        f"mine: the nearest prototype names another class than the module itself on {differ} of 64"
    )


def clean_predictions(store: Store) -> Any:
    _, spec, record = open_store(store.files)
    jobs = make_plan(spec.suite, spec, parts_of(record)).clean_jobs()
    return np.concatenate([store.read(job).columns["prediction"] for job in jobs])


def test_what_a_record_says_of_prototypes_is_checked(means: Tensor, tmp_path: Path) -> None:
    model = wrap_module(ByMeans(means), prototypes=means, features="flat")
    report = evaluated(model, tmp_path)
    store, spec, record = open_store(Local(report.folder))
    context = open_context(spec, Access(), model)
    assert description_holds(context, record)[0].held
    for forged in ({"same": 29}, {"distance": 2.0}, {"same": None}):
        told = {**record["model"]["prototypes"], **forged}
        other = {**record, "model": {**record["model"], "prototypes": told}}
        assert not description_holds(context, other)[0].held
    rounding = record["model"]["prototypes"]["distance"] * (1 + 1e-6)
    record["model"]["prototypes"]["distance"] = rounding  # another machine's
    assert description_holds(context, record)[0].held
    for impossible in ({"same": 31}, {"of": 64}):
        told = {**record["model"]["prototypes"], **impossible}
        write_record(store.files, {**record, "model": {**record["model"], "prototypes": told}})
        with pytest.raises(RobustevalError, match=r"model.prototypes contradicts the rest"):
            open_store(Local(report.folder))


def test_a_begun_run_goes_on_with_no_other_features(means: Tensor, tmp_path: Path) -> None:
    """No digest knows what a function does: distances tell."""

    def model(scale: float) -> Adapter:
        def features(images: Tensor) -> Tensor:
            return images.flatten(1) * scale

        return wrap_module(ByMeans(means), prototypes=means, features=features)

    report = evaluated(model(1.0), tmp_path)
    assert evaluated(model(1.0), tmp_path).folder == report.folder
    with pytest.raises(RobustevalError, match="that computes otherwise"):
        evaluated(model(1.1), tmp_path)
    moved = wrap_module(ByMeans(means), prototypes=means + 0.01, features="flat")
    nearest = wrap_module(
        ByMeans(means), prototypes=means, features="flat", reading="nearest_prototype"
    )
    folders = {evaluated(m, tmp_path).folder for m in (moved, nearest)} | {report.folder}
    assert len(folders) == 3
    with pytest.raises(RobustevalError, match="other parameters or buffers"):
        api.verify(report.folder, model=nearest)
