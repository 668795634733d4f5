"""The example package is installed, and each of its plug-ins is used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robusteval

ROOT = Path(robusteval.__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
PROGRAM = """
import json, sys
import robusteval
from robusteval import api, listing
from robusteval.attacks.registry import find

report = api.evaluate("example_digits_5", "example", samples=20, out=sys.argv[1])
print(json.dumps({
    "data": [row["name"] for row in listing.datasets(None)],
    "suites": {row["name"]: row["package"] for row in listing.suites(None)},
    "attacks": {row["name"]: row.get("package") for row in listing.attacks(None)},
    "detectors": {row["name"]: row["package"] for row in listing.detectors(None)},
    "fitted": report.content["fitting"]["detectors"],
    "scored": sorted({row["detector"] for row in report.content["outliers"]}),
    "held": {check.name: check.held for check in api.verify(report.folder)},
    "versions": report.content["provenance"]["versions"],
    "attack": next(a for a in report.content["attacks"] if a["name"] == "brightness"),
    "classes": report.content["dataset"]["classes"],
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, with the build tools that are there."""
    if not EXAMPLE.is_dir():
        pytest.skip("no examples beside this package")
    place = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(EXAMPLE, source)  # pip builds beside what it installs
    asked = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    given = ("--disable-pip-version-check", "--target", str(place), str(source))
    subprocess.run([sys.executable, "-m", "pip", *asked, *given], check=True)
    return place


def test_each_of_its_plug_ins_is_used(site: Path, tmp_path: Path) -> None:
    places = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "digits_5" in told["data"]
    assert told["suites"]["example"] == "robusteval-example"
    assert told["suites"]["full"] == "robusteval"
    assert told["attacks"]["brightness"] == "robusteval-example"
    assert told["detectors"]["mean_image"] == "robusteval-example"
    assert told["detectors"]["energy"] == "pytorch-ood"
    assert told["fitted"] == ["mean_image"]
    assert told["scored"] == ["energy", "mean_image"]
    assert set(told["held"].values()) == {True}
    assert told["versions"]["robusteval-example"] == "1.0"
    assert told["attack"]["library_version"] == "1.0"
    assert told["attack"]["passes"] == {"forward": 2 * told["attack"]["attacked"], "backward": 0}
    assert len(told["classes"]) == 5
