"""Runs on S3, tried against a server on this machine: `make s3` has what it takes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest

from robusteval import api, sharing
from robusteval.errors import RobustevalError
from robusteval.evidence import filesystems
from robusteval.evidence.located import files_at
from robusteval.evidence.remote import Remote
from robusteval.places import Url
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.runs import FEW, options
from tests.helpers.s3 import HOST, Door, s3_server
from tests.helpers.stores import KILLED, SHORT, objects_at

lacking = [name for name in ("moto", "s3fs") if find_spec(name) is None]
pytestmark = [
    pytest.mark.s3,
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking), reason=f"{' and '.join(lacking)} missing: make s3"),
]
SECRET = "a-secret-of-the-tests"


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """Of a server that the environment names, with an empty bucket."""
    with s3_server() as port, pytest.MonkeyPatch.context() as patch:
        door = Door(port)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{HOST}:{door.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield door
        door.shut()


@pytest.fixture
def out(door: Door, request: pytest.FixtureRequest) -> Url:
    return Url("s3://bucket") / request.node.name


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "few.toml"
    path.write_text(FEW)
    return path


@pytest.fixture(scope="module")
def folder(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder, to be compared with."""
    out = tmp_path_factory.mktemp("folder")
    return Path(api.evaluate("ce_digits", suite, options=options(out)).folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_s3(workers: int, suite: Path, folder: Path, out: Url) -> None:
    report = api.evaluate("ce_digits", suite, options=options(out, workers=workers))
    assert report.folder == out / folder.name
    assert evidence_of(report.folder) == evidence_of(folder)
    assert all(check.held for check in api.verify(report.folder, again=1))
    assert cli("report", report.folder).exit_code == 0
    assert cli("compare", report.folder, str(folder)).exit_code == 0
    page = fsspec.filesystem("s3").info(report.folder / "report.html")
    assert page["ContentType"] == "text/html; charset=utf-8"  # browsers show it
    objects = objects_at(report.folder)
    assert not [name for name in objects if name.startswith((".", "lock", "claims"))]
    assert not [name for name, content in objects.items() if SECRET.encode() in content]


def test_of_several_one_creates_it(out: Url) -> None:
    files = files_at(out)
    files.prepare("", "no")
    won: list[tuple[int, int]] = []

    def race(number: int) -> None:
        won.extend(
            (key, number)
            for key in range(20)
            if files.create(f"claims/{key}", str(number).encode(), "no")
        )

    racers = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(key for key, _ in won) == list(range(20))
    assert all(files.read(f"claims/{key}") == str(number).encode() for key, number in won)


def test_a_server_that_refuses_for_ten_seconds(
    suite: Path,
    folder: Path,
    out: Url,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    at_work_until(monkeypatch, 12, lambda: door.shut_for(10))
    report = api.evaluate("ce_digits", suite, options=options(out))
    assert evidence_of(report.folder) == evidence_of(folder)
    told = [record.message for record in caplog.records]
    assert any(f"{report.folder} does not answer (" in line for line in told)


def test_a_server_that_stays_away_loses_nothing(
    suite: Path, folder: Path, out: Url, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "LONGEST", 0.5)
    monkeypatch.setattr(Remote, "times", SHORT)
    at_work_until(monkeypatch, 12, door.shut)
    try:
        with pytest.raises(RobustevalError, match=r"s3://.*finished jobs are kept") as told:
            api.evaluate("ce_digits", suite, options=options(out))
    finally:
        door.open()
    assert told.value.exit_code == 2
    assert SECRET not in str(told.value)
    assert len(files_at(out / folder.name).names("evidence")) >= 6
    report = api.evaluate("ce_digits", suite, options=options(out))
    assert evidence_of(report.folder) == evidence_of(folder)


def at_work_until(monkeypatch: pytest.MonkeyPatch, writes: int, act: Any) -> None:
    """``act`` before the run writes so many files."""
    plain, left = Remote.write, writes

    def write(self: Remote, name: str, content: bytes, advice: str) -> None:
        nonlocal left
        left -= name.startswith("evidence/")
        if left == 0:
            left = -1
            act()
        plain(self, name, content, advice)

    monkeypatch.setattr(Remote, "write", write)


def test_a_killed_run_goes_on(
    suite: Path, folder: Path, out: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: s3fs hangs in one that was forked."""
    done = subprocess.run([sys.executable, "-c", KILLED, suite, out, "8"], check=False)
    assert done.returncode == -signal.SIGKILL
    monkeypatch.setattr(Remote, "times", SHORT)
    report = api.evaluate("ce_digits", suite, options=options(out))
    assert evidence_of(report.folder) == evidence_of(folder)
    assert files_at(report.folder).names("lock") == []


def test_shards_on_s3(suite: Path, out: Url) -> None:
    begun = sharing.begin("ce_digits", suite, options(out))
    for shard in ("2/2", "1/2"):
        done = cli("work", begun, "--shard", shard)
        assert done.exit_code == 0, done.stderr
    assert files_at(begun).names("claims") == []
    assert cli("pack", begun).exit_code == 0
    assert cli("work", begun, "--finish").exit_code == 0
    assert api.rebuild_report(begun).proven
    assert api.verify(begun)[0].held
    assert cli("clean", begun, "--yes").exit_code == 0
    assert cli("clean", "--out", out).stdout == f"there is no run in {out}\n"


def test_what_is_not_there_is_one_line(door: Door) -> None:
    refused(cli("verify", "s3://bucket/nowhere"), "s3://bucket/nowhere is not a run")
    refused(cli("verify", "s3://no-such-bucket/run"), "s3://no-such-bucket/run is not a run")
    asked = ("--model", "ce_digits", "--suite", "quick", "--samples", "10")
    done = cli("run", *asked, "--out", "s3://no-such-bucket/runs")
    refused(done, "there is no such bucket", "choose another with --out")


def test_wrong_keys_are_one_line(door: Door, tmp_path: Path) -> None:
    """In a process of its own: clients are kept, with the keys that they began with."""
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    found = {**os.environ, **keys, "AWS_EC2_METADATA_DISABLED": "true"}
    without = {name: value for name, value in found.items() if value}
    command = [sys.executable, "-m", "robusteval", "report", "s3://bucket/run"]
    done = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "can't be read (Unable to locate credentials)" in done.stderr
