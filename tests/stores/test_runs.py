"""Runs in a store: equal evidence to a run in a folder, whoever works and whatever fails."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robusteval import api
from robusteval.boards import publish as leaderboards
from robusteval.errors import BusyError, EvidenceError, RobustevalError
from robusteval.evidence import filesystems
from robusteval.evidence.lease import Times
from robusteval.evidence.located import files_at
from robusteval.evidence.remote import Remote
from robusteval.places import Url
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.runs import BRIEF, FEW, options
from tests.helpers.stores import SHORT, Counting, counting, killed_at_work, lay_shelf, objects_at

OUT = "counting://bucket/runs"
REPORT = {"detection.csv", "report.html", "report.json", "report.md", "row.csv", "run.json"}


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two attacks, without detection and diagnostics."""
    path = tmp_path_factory.mktemp("suite") / "few.toml"
    path.write_text(FEW)
    return path


@pytest.fixture(scope="module")
def folder(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder, to be compared with."""
    out = tmp_path_factory.mktemp("folder")
    return Path(api.evaluate("ce_digits", light, options=options(out)).folder)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Counting]]:
    monkeypatch.setattr(filesystems, "PAUSES", (0.0, 0.0))
    with counting() as store:
        yield store


@pytest.fixture
def stored(store: type[Counting], folder: Path) -> Url:
    """The same run, copied into the store."""
    url = copied(folder, Url(OUT))
    store.asked.clear()
    return url


def copied(folder: Path, out: Url) -> Url:
    """A folder's run, in a store."""
    files = files_at(out / folder.name)
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            files.write(path.relative_to(folder).as_posix(), path.read_bytes(), "no")
    return out / folder.name


def test_a_run_in_a_store(store: type[Counting], tmp_path: Path) -> None:
    """With detection and diagnostics: begun, finished, read again, verified."""
    (suite := tmp_path / "brief.toml").write_text(BRIEF)
    few: dict[str, Any] = {"only": "fgsm", "samples": 12}
    folder = Path(api.evaluate("ce_digits", suite, options=options(tmp_path, **few)).folder)
    report = api.evaluate("ce_digits", suite, options=options(OUT, **few))
    assert report.folder == f"{OUT}/{folder.name}"
    assert report.folder / "report.html" == f"{OUT}/{folder.name}/report.html"
    assert evidence_of(report.folder) == evidence_of(folder)
    names = objects_at(report.folder)
    assert {name for name in names if not name.startswith("evidence/")} == REPORT
    assert f"{report.folder}>" in repr(report)
    store.asked.clear()
    again = api.evaluate("ce_digits", suite, options=options(OUT, **few))
    assert again.content == report.content
    assert not store.asked["put"] + store.asked["delete"]
    assert all(check.held for check in api.verify(report.folder))


def test_requests_are_few(light: Path, store: type[Counting], stored: Url) -> None:
    """Those of each job, and some for the whole run, however many jobs there are."""
    jobs = len([name for name in objects_at(stored) if name.endswith(".parquet")])
    asked = {}
    for what, act in {
        "run": lambda: api.evaluate("ce_digits", light, options=options("counting://other/runs")),
        "verify": lambda: api.verify(stored),
        "report": lambda: api.rebuild_report(stored),
        "resume": lambda: api.evaluate("ce_digits", light, options=options(OUT)),
    }.items():
        store.asked.clear()
        act()
        asked[what] = sum(store.asked.values())
    files = len(objects_at(stored))
    assert asked["run"] <= 3 * jobs + 70  # images, rows, no failure
    assert asked["verify"] <= files + 15
    assert asked["report"] <= jobs + 15
    assert asked["resume"] <= files + 20


def test_what_was_lost_is_done_again(light: Path, folder: Path, stored: Url) -> None:
    files = files_at(stored)
    gone = [name for name in files.names("evidence") if "0001" in name]
    for name in (*gone, "verification.json", "examples.safetensors"):
        files.remove(f"evidence/{name}", "no")
    assert gone
    assert api.evaluate("ce_digits", light, options=options(OUT)).folder == stored
    assert evidence_of(stored) == evidence_of(folder)


def test_a_forgery_is_found(stored: Url) -> None:
    files = files_at(stored)
    name = next(n for n in files.names("evidence") if n.endswith(".safetensors") and "-" in n)
    content = bytearray(files.read(f"evidence/{name}"))
    content[-1] ^= 255
    files.write(f"evidence/{name}", bytes(content), "no")
    assert not all(check.held for check in api.verify(stored))


def test_the_command_line_takes_urls(
    light: Path, stored: Url, store: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = cli("report", stored)
    assert done.exit_code == 0
    assert f"{stored}/report.html" in done.stdout
    assert cli("verify", stored).exit_code == 0
    assert cli("compare", stored, stored, "--json").exit_code == 0
    more = ("--samples", "40", "--batch-size", "12", "--threads", "1", "--out", OUT)
    done = cli("run", "--model", "ce_digits", "--suite", str(light), *more)
    assert (done.exit_code, f"{stored}/report.html" in done.stdout) == (0, True)
    refused(cli("verify", "counting://bucket/nowhere"), "counting://bucket/nowhere is not a run")


def test_clean_lists_and_deletes_what_is_in_a_store(
    stored: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_at(stored)
    files_at(Url(OUT)).write("table.csv", b"", "no")
    (kept,) = json.loads(cli("clean", "--out", OUT, "--json").stdout)
    objects = objects_at(stored)
    assert (kept["run"], kept["state"]) == (stored, "finished")
    assert (kept["files"], kept["bytes"]) == (len(objects), sum(map(len, objects.values())))
    monkeypatch.setattr(Remote, "times", Times(lease=5.0, beat=0.01, look=0.05))
    with files.lock(BusyError("")):
        busy = cli("clean", stored, "--yes")
    assert (busy.exit_code, "another process is at work" in busy.stderr) == (2, True)
    refused(cli("clean", f"{OUT}/nowhere", "--yes"), "is not a run")
    done = cli("clean", stored, "--yes")
    assert done.exit_code == 0, done.stderr
    assert list(objects_at(OUT)) == ["table.csv"]
    assert cli("clean", "--out", OUT).stdout == f"there is no run in {OUT}\n"


def test_several_models_share_a_table(store: type[Counting], light: Path) -> None:
    asked = ("--suite", str(light), "--only", "fgsm", "--samples", "10", "--out", OUT)
    done = cli("run", "--model", "ce_digits,gcpl_digits", *asked)
    assert done.exit_code == 0, done.output
    assert f"{OUT}/few.csv" in done.stdout
    assert objects_at(OUT)["few.csv"].count(b"\n") > 2


def test_a_leaderboard_takes_a_url(
    stored: Url, tmp_path: Path, light: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboards, "REQUIRED", str(light))
    monkeypatch.setattr(leaderboards, "FEWEST_GREY", 30)
    changed = leaderboards.add([stored], tmp_path / "boards")
    assert {path.name for path in changed} == {"digits_Linf_0.15.csv", "digits_L2_0.6.csv"}


def test_nothing_stays_of_what_could_not_begin(
    store: type[Counting], light: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise EvidenceError("no")

    monkeypatch.setattr(api, "record_of", fail)
    with pytest.raises(EvidenceError):
        api.evaluate("ce_digits", light, options=options(OUT))
    assert store.store == {}


# A store that stops answering


@pytest.mark.parametrize("after", [5, 40])
def test_a_store_that_stops_answering_loses_nothing(
    after: int, light: Path, folder: Path, store: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(kind: str, path: str) -> None:
        if sum(store.asked.values()) > after:
            raise ConnectionError("Connection refused")

    # A lock is held for as long as whoever took it said.
    monkeypatch.setattr(Remote, "times", Times(lease=0.5, beat=0.05, look=0.01))
    store.hinder = staticmethod(stop)
    with pytest.raises(RobustevalError, match=r"Connection refused") as told:
        api.evaluate("ce_digits", light, options=options(OUT))
    assert told.value.exit_code == 2
    store.hinder = staticmethod(lambda kind, path: None)
    report = api.evaluate("ce_digits", light, options=options(OUT))
    assert report.complete
    assert evidence_of(report.folder) == evidence_of(folder)
    assert not [name for name in objects_at(OUT) if "lock" in name or "probe" in name]


# Other processes


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that processes share."""
    lay_shelf(tmp_path / "site", monkeypatch)
    monkeypatch.setattr(Remote, "times", SHORT)
    yield f"shelf://{tmp_path}/shelf"
    shutil.rmtree(tmp_path / "shelf", ignore_errors=True)


@pytest.mark.slow
def test_workers_get_the_url(
    light: Path, folder: Path, shelf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One does the job that is missing.  What it says beside is in no store, and nowhere when all
    went well."""
    url = copied(folder, Url(shelf))
    files = files_at(url)
    gone = [name for name in files.names("evidence") if name.startswith("attack-01")][:2]
    for name in gone:
        files.remove(f"evidence/{name}", "no")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "site"))
    before = set(os.listdir(tmp_path / "site"))
    report = api.evaluate("ce_digits", light, options=options(shelf, workers=2))
    assert report.folder == url
    assert evidence_of(url) == evidence_of(folder)
    assert "workers.log" not in files.names("")
    assert set(os.listdir(tmp_path / "site")) - before <= {"__pycache__"}


@pytest.mark.parametrize("workers", ["2", "ray:1"])
def test_a_memory_belongs_to_one_process(workers: str) -> None:
    asked = ("--model", "ce_digits", "--samples", "10", "--out", "memory://runs")
    told = "a memory belongs to one process"
    refused(cli("run", *asked, "--workers", workers), f"{told}: use --workers 1")
    refused(cli("submit", "memory://runs/run", "--shards", "2"), f"{told}: keep the run elsewhere")


def test_a_killed_run_goes_on(
    light: Path, folder: Path, shelf: str, caplog: pytest.LogCaptureFixture
) -> None:
    killed_at_work(light, shelf, 7)
    url = Url(f"{shelf}/{folder.name}")
    assert files_at(url).names("lock")[0] == "run.1.json"
    assert api.evaluate("ce_digits", light, options=options(shelf)).folder == url
    assert any("another process is still at work" in r.message for r in caplog.records)
    assert evidence_of(url) == evidence_of(folder)
    assert files_at(url).names("lock") == []
