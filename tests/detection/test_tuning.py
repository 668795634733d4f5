"""Settings of detectors are chosen by outliers that no test set holds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from robusteval import api
from robusteval.detection.registry import DETECTORS
from robusteval.detection.tuning import best_setting, held_out
from robusteval.errors import DataError, UnknownNameError
from robusteval.evidence.files import Local
from robusteval.evidence.record import read_record
from robusteval.plan import fitting_data
from tests.helpers.detectors import record_of, suite_of

MODEL: Any = None


def fit(model: Any, read: Tensor, labels: Tensor, sign: float) -> dict[str, Tensor]:
    if sign == 0:
        raise ValueError("none can be fitted to this")
    return {}


SIGNED = record_of(
    "signed",
    reads="logits",
    settings=({"sign": -1.0}, {"sign": 0.0}, {"sign": 1.0}, {"sign": 2.0}),
    fit_read=fit,
    score_read=lambda state, model, read: state["sign"] * read[:, 0],
)


def test_the_setting_that_separates_is_chosen() -> None:
    """The first of equals: 1 and 2 separate alike, -1 the other way round."""
    inside, outside = torch.full((20, 2), 1.0), torch.full((7, 2), 0.5)
    chosen = best_setting(SIGNED, MODEL, inside, torch.arange(20) % 2, outside)
    assert chosen == {"sign": 1.0}
    other_way = best_setting(SIGNED, MODEL, outside.repeat(3, 1), torch.arange(21) % 2, inside)
    assert other_way == {"sign": -1.0}


def test_where_none_can_be_fitted_the_first_is_taken() -> None:
    vain = record_of("vain", reads="logits", settings=SIGNED.settings[1:2] * 2, fit_read=fit)
    some = torch.ones(10, 2)
    assert best_setting(vain, MODEL, some, torch.zeros(10).long(), some) == {"sign": 0.0}


def test_every_fifth_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0, 1] * 5 + [2] * 12)
    assert held_out(labels).nonzero().flatten().tolist() == [8, 9, 14, 19]


def test_what_was_chosen_is_told_and_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting_data, "MOST_OUTLIERS", 60)
    path = suite_of(tmp_path, "energy", "signed", "vim", tuning="photo_crops")
    options = api.Options(samples=12, out=tmp_path)
    with DETECTORS.having("signed", SIGNED):
        report = api.evaluate("ce_digits", path, options=options)
        spec = read_record(Local(report.folder))["spec"]
        assert spec["tuning"][:2] == ["photo_crops", 60]
        (state,) = (report.folder / "evidence").glob("fit-0?-vim.safetensors")
        chosen = json.loads((report.folder / "report.json").read_text())["fitting"]["tuning"]
        assert chosen["settings"]["vim"] == {
            "share": pytest.approx(float(load_file(state)["share"]))
        }
        assert set(chosen["settings"]) == {"signed", "vim"}
        told = (
            f"60 outliers of photo_crops: signed sign = {chosen['settings']['signed']['sign']:g};"
        )
        for name in ("report.md", "report.html"):
            assert told in (report.folder / name).read_text()
        assert all(check.held for check in api.verify(report.folder))
        monkeypatch.setattr(fitting_data, "MOST_OUTLIERS", 59)
        (told,) = [c.told for c in api.verify(report.folder) if not c.held]
        assert "photo_crops holds other images" in told


def test_a_tested_set_chooses_nothing(tmp_path: Path) -> None:
    path = suite_of(tmp_path, "vim", tuning="gaussian_noise")
    with pytest.raises(DataError, match=r"gaussian_noise.*is tested"):
        api.evaluate("ce_digits", path, options=api.Options(samples=12, out=tmp_path))


def test_an_unknown_set_is_said(tmp_path: Path) -> None:
    path = suite_of(tmp_path, "vim", tuning="foto_crops")
    with pytest.raises(UnknownNameError, match="did you mean photo_crops"):
        api.evaluate("ce_digits", path, options=api.Options(samples=12, out=tmp_path))
