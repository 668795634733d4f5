"""What ``run``, ``run --dry-run`` and ``report`` print for machines."""

import json
from pathlib import Path

import pytest

from tests.helpers.commands import cli
from tests.helpers.runs import plain_suite_in


@pytest.fixture
def asked(tmp_path: Path) -> tuple[str, ...]:
    suite = plain_suite_in(tmp_path, "quick")
    return ("--suite", suite, "--samples", "10", "--only", "fgsm", "--out", str(tmp_path), "--json")


def test_a_run_and_its_report(asked: tuple[str, ...], tmp_path: Path) -> None:
    ran = cli("run", "--model", "ce_digits", *asked)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    stored = json.loads((folder / "report.json").read_text("utf-8"))
    assert (ran.exit_code, json.loads(ran.stdout)) == (0, stored)
    assert str(folder / "report.html") in ran.stderr
    again = cli("report", str(folder), "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, stored)


def test_several_models_are_a_list(asked: tuple[str, ...], tmp_path: Path) -> None:
    ran = cli("run", "--model", "ce_digits", "pcl_digits", "nonsense", *asked)
    told = json.loads(ran.stdout)
    assert [report["model"]["name"] for report in told] == ["ce_digits", "pcl_digits"]
    for report in told:
        (path,) = tmp_path.glob(f"{report['model']['name']}-*/report.json")
        assert report == json.loads(path.read_text("utf-8"))
    assert ran.exit_code == 3  # not all of them
    assert "nonsense was not run" in ran.stderr
    assert "plain.csv" in ran.stderr


def test_an_incomplete_run_is_told_and_ends_so(asked: tuple[str, ...]) -> None:
    ran = cli("run", "--model", "ce_digits", *asked, "--time-limit", "1e-9")
    assert json.loads(ran.stdout)["status"] == "incomplete"
    assert ran.exit_code == 3
    assert "incomplete: " in ran.stderr


def test_estimates(asked: tuple[str, ...]) -> None:
    one = json.loads(cli("run", "--model", "ce_digits", *asked, "--dry-run").stdout)
    known = ["model", "jobs", "forward_passes", "backward_passes", "minutes", "bytes"]
    assert list(one) == [*known, "parts", "left_out"]
    assert one["jobs"] == sum(part["jobs"] for part in one["parts"])
    assert one["left_out"] == []
    assert (one["model"], one["jobs"], one["backward_passes"]) == ("ce_digits", 2, 10)
    several = cli("run", "--model", "ce_digits", "pcl_digits", *asked, "--dry-run")
    assert [told["model"] for told in json.loads(several.stdout)] == ["ce_digits", "pcl_digits"]
    lacking = cli("run", "--model", "ce_digits", "nonsense", *asked, "--dry-run")
    assert len(json.loads(lacking.stdout)) == 1
    assert lacking.exit_code == 3
    assert "nonsense was not estimated" in lacking.stderr
