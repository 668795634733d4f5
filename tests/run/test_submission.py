"""Shards as jobs of a queue: asked for, refused, killed."""

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from robusteval import api, sharing, submission
from robusteval.errors import RobustevalError
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.runs import FEW, options
from tests.helpers.stores import lay_shelf

needs_submitit = pytest.mark.skipif(
    find_spec("submitit") is None, reason="the extra submitit isn't installed"
)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    (tmp_path / "few.toml").write_text(FEW)
    return sharing.begin("ce_digits", tmp_path / "few.toml", options(tmp_path / "runs"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shards", "0"], "--shards 0: choose 1 to 10000"),
        (["--shards", "2", "--cpus", "0"], "--cpus 0: choose 1 to"),
        (["--shards", "2", "--gpus", "-1"], "--gpus -1: choose 0 to"),
        (["--shards", "2", "--memory", "nan"], "--memory nan: choose 0.1 to"),
        (["--shards", "2", "--minutes", "0"], "--minutes 0: choose 1 to"),
        (["--shards", "2", "--slurm", "account"], "--slurm 'account': give NAME=VALUE"),
        (["--shards", "2", "--slurm", "a;b=1"], "give NAME=VALUE"),
    ],
)
def test_what_no_queue_takes(more: list[str], said: str, tmp_path: Path) -> None:
    refused(cli("submit", str(tmp_path), *more), said)


def test_without_the_extra_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused(cli("submit", str(tmp_path), "--shards", "2"), "`robusteval submit` needs submitit")


@needs_submitit
def test_no_run_and_no_slurm_are_told(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    refused(cli("submit", str(begun), "--shards", "2"), "there is no Slurm here")
    refused(cli("submit", str(tmp_path), "--shards", "2"), "is not a run")
    moved = ("--model", "pcl_digits", "--local")
    refused(cli("submit", str(begun), "--shards", "2", *moved), "is not the model of this run")
    assert not submission.logs_of(begun).exists()


@needs_submitit
def test_what_slurm_is_asked_for(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for sbatch, which keeps what it was given."""
    (place := tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun"):
        (place / name).write_text(f"#!/bin/sh\ncp $1 {tmp_path}/asked\necho job 77\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    more = ("--partition", "big", "--minutes", "30", "--slurm", "account=mine")
    done = cli("submit", str(begun), "--shards", "3", "--memory", "4", *more)
    assert done.exit_code == 0, done.stderr
    asked = (tmp_path / "asked").read_text()
    for option in ("array=0-2%3", "partition=big", "time=30", "account=mine", "mem=4GB"):
        assert f"#SBATCH --{option}\n" in asked
    assert "77_0, 77_1, 77_2" in done.stdout
    assert f"robusteval work {begun} --finish" in done.stdout


@needs_submitit
def test_slurm_that_refuses_is_one_line(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place := tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun"):
        (place / name).write_text("#!/bin/sh\necho invalid partition >&2\nexit 1\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    refused(cli("submit", str(begun), "--shards", "3"), "invalid partition")


@needs_submitit
@pytest.mark.slow
def test_jobs_of_a_run_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is queued again, as before a time limit, and goes on; then it is killed, and two that are
    submitted later finish.  Their logs are here."""
    lay_shelf(tmp_path / "site", monkeypatch)
    (tmp_path / "few.toml").write_text(FEW)
    out, made = f"shelf://{tmp_path}/shelf", options(tmp_path / "alone")
    run = sharing.begin("ce_digits", tmp_path / "few.toml", options(out))
    there = tmp_path / "shelf" / run.name
    (job,) = submission.submit(run, 1, lease=1.0, local=True)
    first = task_at_work(int(job.job_id), there)
    os.kill(first, signal.SIGUSR2)
    until(lambda: first not in tasks_of(int(job.job_id)))
    os.kill(task_at_work(int(job.job_id), there), signal.SIGKILL)
    job.wait()
    logs = Path(f"{run.name}.logs")
    assert "Caught signal SIGUSR2" in (logs / f"{job.job_id}_0_log.err").read_text()
    assert sharing.standing(run).done < 12
    done = cli("submit", str(run), "--shards", "2", "--local")
    assert done.exit_code == 0, done.stderr
    assert "12 of 12 jobs are done" in done.stdout
    assert f"their logs: {logs}\n" in done.stdout
    alone = api.evaluate("ce_digits", tmp_path / "few.toml", options=made).folder
    assert evidence_of(sharing.finish(run).folder) == evidence_of(alone)
    assert not list(there.glob("claims/*"))


def task_at_work(controller: int, run: Path) -> int:
    """The process that does a local job's work, once it has joined the run, which takes a lock: a
    killed one's is waited for."""
    found: list[int] = []

    def is_at_work() -> bool:
        workers = " ".join(path.name for path in run.glob("claims/worker-*.json"))
        found[:] = [task for task in tasks_of(controller) if f"-{task}-" in workers]
        return bool(found) and not any(run.glob("lock/*"))

    until(is_at_work)
    return found[0]


def tasks_of(controller: int) -> list[int]:
    children = Path(f"/proc/{controller}/task/{controller}/children")
    return [int(task) for task in children.read_text().split()]


def until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 100
    while not happens() and time.monotonic() < end:
        time.sleep(0.005)
    assert happens()


def test_a_task_is_no_code() -> None:
    """What is pickled names what is imported, and holds paths and numbers."""
    import pickle
    import pickletools

    task = submission.Task(Path("r"), submission.Shard(1, 2), sharing.Way(), 60.0)
    named = {
        arg
        for op, arg, _ in pickletools.genops(pickle.dumps(task))
        if op.name == "SHORT_BINUNICODE"
    }
    assert "robusteval.submission" in named
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301 - ours, from above


def test_raises_for_too_many() -> None:
    with pytest.raises(RobustevalError, match="--shards 10001"):
        submission.submit(Path("r"), 10_001)
