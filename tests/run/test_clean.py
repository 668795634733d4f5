"""Runs are listed with their size and state, and deleted when they are named."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from robusteval import runs, sharing
from robusteval.errors import EvidenceError
from robusteval.evidence.claims import Claims
from robusteval.evidence.files import Local
from robusteval.evidence.record import open_store
from robusteval.submission import logs_of
from tests.helpers.commands import cli, refused
from tests.helpers.runs import FEW, options


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and one that was begun."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "few.toml").write_text(FEW)
    for model in ("ce_digits", "pcl_digits"):
        run = sharing.begin(model, folder / "few.toml", options(folder / "runs", only="fgsm"))
        if model == "ce_digits":
            sharing.finish(run)
    return folder / "runs"


@pytest.fixture
def out(both: Path, tmp_path: Path) -> Path:
    return shutil.copytree(both, tmp_path / "runs")


def test_runs_are_listed(out: Path) -> None:
    (out / "notes").mkdir()
    (out / "table.csv").touch()
    finished, begun = sorted(path for path in out.iterdir() if (path / "run.json").exists())
    logs_of(begun).mkdir()
    (logs_of(begun) / "1_0_log.err").write_bytes(bytes(1000))
    found = json.loads(cli("clean", "--out", str(out), "--json").stdout)
    assert [one["run"] for one in found] == [str(finished), str(begun)]
    assert [one["state"] for one in found] == ["finished", "begun"]
    assert [(one["done"], one["jobs"]) for one in found] == [(8, 8), (0, 8)]
    every = [path for path in finished.rglob("*") if path.is_file()]
    assert found[0]["files"] == len(every)
    assert found[0]["bytes"] == sum(path.stat().st_size for path in every)
    assert found[1]["files"] == 2
    assert found[1]["bytes"] == 1000 + (begun / "run.json").stat().st_size
    table = cli("clean", "--out", str(out)).stdout
    assert "finished" in table
    assert "0/8" in table


def test_other_states(out: Path) -> None:
    finished, begun = sorted(out.iterdir())
    (finished / "report.json").unlink()
    store, _, _ = open_store(Local(begun))
    with store.lock():
        (begun / "evidence" / "attack-00-fgsm_Linf_0.15-0000.failed.json").touch()
    assert [one.state for one in runs.runs_in(out)] == [
        "without a report",
        "failed: fgsm/Linf 0.15",
    ]
    (begun / "run.json").write_text("{}")
    assert runs.look_at(begun).state.startswith("can't be read: ")


def test_no_folder_and_no_run_are_told(tmp_path: Path) -> None:
    refused(cli("clean", "--out", str(tmp_path / "runs")), "can't be read", "--out")
    done = cli("clean", "--out", str(tmp_path))
    assert (done.exit_code, done.stdout) == (0, f"there is no run in {tmp_path}\n")


def test_what_is_named_is_deleted(out: Path) -> None:
    finished, begun = sorted(out.iterdir())
    logs_of(begun).mkdir()
    done = cli("clean", str(begun), "--yes")
    assert done.exit_code == 0, done.stderr
    assert list(out.iterdir()) == [finished]


def test_nothing_is_deleted_unasked(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(out.rglob("*"))
    named = [str(path) for path in out.iterdir()]
    refused(cli("clean", *named), "nobody can be asked whether to delete: give --yes")
    monkeypatch.setattr("robusteval.shard_verbs._agreed", lambda count: count != 2)
    assert "nothing is deleted" in cli("clean", *named).stdout
    assert sorted(out.rglob("*")) == before


def test_asking_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from robusteval import shard_verbs

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, err: text == "Delete this run?")
    assert shard_verbs._agreed(1)
    assert not shard_verbs._agreed(2)


@pytest.mark.parametrize("name", ["notes", "link", "nowhere", ""])
def test_what_is_no_run_stays(name: str, out: Path) -> None:
    """And so does what is named beside it."""
    finished, _ = sorted(out.iterdir())
    (out / "notes").mkdir()
    (out / "notes" / "run.json").write_text('{"schema": "robusteval.report/1"}')
    (out / "link").symlink_to(finished)
    wrong = cli("clean", str(finished), str(out / name), "--yes")
    assert wrong.exit_code == 2
    assert wrong.stderr.count("\n") == 1
    assert (finished / "run.json").exists()
    assert (out / "notes" / "run.json").exists()


def test_a_run_at_work_stays(out: Path) -> None:
    _, begun = sorted(out.iterdir())
    store, _, _ = open_store(Local(begun))
    with store.lock():
        refused(cli("clean", str(begun), "--yes"), "another process is at work")
    worker = Claims(Local(begun), 60.0, 0.02).arrive()
    with pytest.raises(EvidenceError, match=f"is at work, by {worker.who}: stop that first"):
        runs.delete(begun)
    worker.leave()
    runs.delete(begun)
    assert not begun.exists()


def test_a_killed_process_does_not_hold_a_run(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, begun = sorted(out.iterdir())
    killed = Claims(Local(begun), 60.0, 1e6).arrive()
    killed.look()
    killed.take("clean-0000")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 25 * seconds

    monkeypatch.setattr("robusteval.evidence.claims.time.sleep", sleep)
    runs.delete(begun, lambda: now[0])
    assert now[0] >= 60
    assert not begun.exists()
    monkeypatch.undo()
    killed.leave()
