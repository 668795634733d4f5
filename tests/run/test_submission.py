"""Shards as jobs of a queue: asked for, refused, killed."""

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from robusteval import sharing, submission
from robusteval.errors import RobustevalError
from robusteval.evidence.located import files_at
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
def test_a_killed_jobs_work_is_done_by_the_others(begun: Path, tmp_path: Path) -> None:
    first, second = submission.submit(begun, 2, lease=1.0, local=True)
    kill_its_task(int(first.job_id))
    for job in (first, second):
        job.wait()
    worked = sharing.standing(begun)
    assert worked.done == worked.jobs
    report = sharing.finish(begun)
    alone = sharing.begin("ce_digits", tmp_path / "few.toml", options(tmp_path / "alone"))
    assert sharing.finish(alone).complete
    assert evidence_of(report.folder) == evidence_of(alone)
    logs = [path.name for path in submission.logs_of(begun).iterdir()]
    assert f"{second.job_id}_0_log.err" in logs


def kill_its_task(controller: int) -> None:
    """The process that does a local job's work, once there is one."""
    children = Path(f"/proc/{controller}/task/{controller}/children")
    until(lambda: bool(children.read_text()))
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)


@needs_submitit
@pytest.mark.slow
def test_what_is_submitted_later_goes_on(begun: Path) -> None:
    """After the only job was killed at work."""
    (job,) = submission.submit(begun, 1, lease=1.0, local=True)
    until(lambda: any(begun.glob("evidence/*.parquet")))
    kill_its_task(int(job.job_id))
    job.wait()
    assert sharing.standing(begun).done < 12
    done = cli("submit", str(begun), "--shards", "1", "--local")
    assert done.exit_code == 0, done.stderr
    assert "12 of 12 jobs are done" in done.stdout
    assert sharing.finish(begun).proven


@needs_submitit
@pytest.mark.slow
def test_a_run_in_a_store_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs find it by its URL; their logs are here."""
    lay_shelf(tmp_path / "site", monkeypatch)
    (tmp_path / "few.toml").write_text(FEW)
    chosen = options(f"shelf://{tmp_path}/shelf", only="fgsm", samples=20)
    run = sharing.begin("ce_digits", tmp_path / "few.toml", chosen)
    done = cli("submit", str(run), "--shards", "1", "--local")
    assert done.exit_code == 0, done.stderr
    assert "4 of 4 jobs are done" in done.stdout
    logs = Path(f"{run.name}.logs")
    assert f"their logs: {logs}\n" in done.stdout
    assert list(logs.glob("*_0_log.err"))
    assert files_at(run).names("claims") == []


def until(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + 100
    while not happens() and time.monotonic() < end:
        time.sleep(0.005)
    assert happens()


@needs_submitit
@pytest.mark.slow
def test_a_job_that_is_signalled_is_queued_again(begun: Path) -> None:
    """As before a time limit."""
    (job,) = submission.submit(begun, 1, local=True)
    log, controller = submission.logs_of(begun) / f"{job.job_id}_0_log.err", int(job.job_id)
    until((begun / "evidence").exists)
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    job.wait()
    assert "Caught signal SIGUSR2" in log.read_text()
    worked = sharing.standing(begun)
    assert worked.done == worked.jobs
    end = time.monotonic() + 20  # the process that was queued again may just be leaving
    while (begun / "claims").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not (begun / "claims").exists()


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
