"""Workers of a Ray cluster: equal evidence to one process, whoever dies on the way."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robusteval import api
from robusteval.errors import RobustevalError
from robusteval.run.crew import crew_of, parse_workers
from robusteval.run.executors import attempts, ray_actor
from robusteval.run.executors.ray_actor import RayActor
from robusteval.run.executors.ray_cluster import Joined, _ray
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.runs import BRIEF, FEW, options
from tests.helpers.stores import lay_shelf

# How it is asked for: without the extra


@pytest.mark.parametrize(
    ("given", "read"), [(2, 2), ("3", 3), ("ray", "ray"), ("ray:4", "ray:4"), ("ray:004", "ray:4")]
)
def test_workers_are_read(given: int | str, read: int | str) -> None:
    assert parse_workers(given) == read
    count = {"ray": None, "ray:4": 4}.get(str(read), read)
    assert crew_of(read, None, None).count == count


@pytest.mark.parametrize("given", ["", "ray:", "ray:0", "ray:x", "rays", "-1", "1.5", "ray:٣"])
def test_other_workers_are_told(given: str) -> None:
    refused(cli("run", "--model", "ce_digits", "--workers", given), "--workers", "give a")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ray-address", "auto"], "goes with --workers ray"),
        (["--gpus-per-worker", "1"], "goes with --workers ray"),
        (["--workers", "ray", "--gpus-per-worker", "0"], "--gpus-per-worker 0: choose above 0"),
        (["--workers", "ray", "--gpus-per-worker", "nan"], "choose above 0"),
    ],
)
def test_what_goes_with_ray_alone(more: list[str], said: str) -> None:
    refused(cli("run", "--model", "ce_digits", "--samples", "10", *more), said)


def test_without_the_extra_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = ("--suite", "quick", "--samples", "10", "--workers", "ray")
    refused(cli("run", "--model", "ce_digits", *asked), "--workers ray needs ray")


# With it

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray isn't installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one for all tests here, which knows ``shelf://``: a run leaves a cluster alone
    that it didn't start."""
    with pytest.MonkeyPatch.context() as patch:
        lay_shelf(tmp_path_factory.mktemp("cluster") / "site", patch)
        joined = Joined(crew_of("ray:4", None, None))
        yield joined.ray.get_runtime_context().gcs_address
        joined.leave()


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "brief.toml"
    path.write_text(BRIEF)
    return path


@pytest.fixture(scope="module")
def alone(brief: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The evidence of one process."""
    out = tmp_path_factory.mktemp("alone")
    return evidence_of(api.evaluate("ce_digits", brief, options=few(out)).folder)


def few(out: object, **changed: Any) -> api.Options:
    return options(out, samples=24, batch_size=8, **changed)


def dying(folder: Path, times: int) -> type[RayActor]:
    """Actors that are killed with an attack's second chunk at hand, so many times in all."""

    class Dying(RayActor):
        def do(self, message: dict[str, Any]) -> dict[str, Any]:
            deaths = len(list(folder.iterdir()))
            if message["kind"] == "attack" and message["chunk"] == 1 and deaths < times:
                (folder / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().do(message)

    return Dying


def with_actors(kind: type[RayActor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actor, "RayActor", kind)


@needs_ray
@pytest.mark.slow
def test_four_workers_change_nothing_though_two_are_killed(
    cluster: str,
    brief: Path,
    alone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor do the two that take their place; the run is in a store, found by its URL."""
    (deaths := tmp_path / "deaths").mkdir()
    with_actors(dying(deaths, 2), monkeypatch)
    chosen = few(f"shelf://{tmp_path}/shelf", workers="ray:4")
    report = api.evaluate("ce_digits", brief, options=chosen)
    assert len(list(deaths.iterdir())) == 2
    assert report.complete
    assert evidence_of(report.folder) == alone
    assert all(check.held for check in api.verify(report.folder))


@needs_ray
@pytest.mark.slow
def test_a_job_that_always_kills_fails_alone(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried twice here, to be quick; all executors have one rule."""
    (tmp_path / "few.toml").write_text(FEW)
    (deaths := tmp_path / "deaths").mkdir()
    with_actors(dying(deaths, 9), monkeypatch)
    monkeypatch.setattr(attempts, "ATTEMPTS", 2)
    chosen = few(tmp_path / "r", workers="ray:1", only="fgsm")
    report = api.evaluate("ce_digits", tmp_path / "few.toml", options=chosen)
    assert not report.complete
    (row,) = report.content["attacks"]
    assert row["status"] == "failed"
    assert "its worker died (ActorDiedError), 2 times" in row["reason"]


DRIVER = """
import os, signal, sys
from pathlib import Path
from robusteval import api
from robusteval.run.executors import attempts, ray_actor

driver, suite, out, address = os.getpid(), *sys.argv[1:]

class Killer(ray_actor.RayActor):
    def do(self, message):
        if message["kind"] == "attack" and message["chunk"] == 1:
            os.kill(driver, signal.SIGKILL)
        return super().do(message)

ray_actor.RayActor = Killer
if __name__ == "__main__":
    told = {"workers": "ray:1", "ray_address": address, "out": out}
    api.evaluate("ce_digits", suite, samples=24, batch_size=8, threads=1, **told)
"""


@needs_ray
@pytest.mark.slow
def test_a_killed_drivers_run_goes_on(
    cluster: str, brief: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """With one worker, in a cluster that the driver joins and the next one stays in."""
    done = subprocess.run([sys.executable, "-c", DRIVER, brief, tmp_path, cluster], check=False)
    assert done.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert list((folder / "evidence").glob("clean-*.parquet"))
    assert not (folder / "report.json").exists()
    report = api.evaluate("ce_digits", brief, options=few(tmp_path, workers="ray:1"))
    assert report.folder == folder
    assert evidence_of(folder) == alone


@needs_ray
def test_what_python_gave_travels(cluster: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images = torch.rand((8, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {"suite": "quick", "only": "fgsm", "threads": 1}
    found = [
        api.evaluate(net, images, torch.arange(8) % 3, out=tmp_path / workers, workers=w, **given)
        for workers, w in (("alone", 1), ("ray", "ray:1"))
    ]
    assert evidence_of(found[0].folder) == evidence_of(found[1].folder)


@needs_ray
def test_what_cannot_travel_is_one_line(cluster: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    net.lock = threading.Lock()  # type: ignore[assignment]
    images, labels = torch.zeros(4, 3, 2, 2), torch.arange(4) % 3
    with pytest.raises(RobustevalError, match=r"can't be sent to Ray's workers .*: use workers=1"):
        api.evaluate(net, images, labels, suite="quick", workers="ray:1", out=tmp_path)


@needs_ray
def test_no_cluster_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ray(), "is_initialized", lambda: False)
    with pytest.raises(RobustevalError, match=r"the Ray cluster at 127.0.0.1:1 can't be used \(C"):
        Joined(crew_of("ray", "127.0.0.1:1", None))
