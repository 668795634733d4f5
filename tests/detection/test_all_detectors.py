"""Every detector in one run: each is fitted, scores, and is proven."""

from pathlib import Path

import pytest

from robusteval import api
from robusteval.detection.registry import DETECTORS
from robusteval.plan import fitting_data
from tests.helpers.detectors import suite_of


def test_one_run_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting_data, "MOST", 250)
    names = [detector.name for detector in DETECTORS.own()]
    options = api.Options(samples=12, out=tmp_path)
    report = api.evaluate("pcl_digits", suite_of(tmp_path, *names), options=options)
    assert report.complete
    assert report.content["left_out"] == []
    done = {row["detector"] for row in report.content["outliers"] if row["status"] == "done"}
    assert done == set(names)
    assert [check.told for check in api.verify(report.folder) if not check.held] == []
