"""What can't be printed or written is told in one line, early, with exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robusteval import api
from robusteval.errors import RobustevalError
from robusteval.guarded import guarded
from tests.helpers.commands import cli, refused

FULL = Path("/dev/full")


def run(*arguments: str, **streams: object) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, whose stdout isn't the test's."""
    told = [sys.executable, "-m", "robusteval", *arguments]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        told, stderr=subprocess.PIPE, encoding="utf-8", check=False, **streams
    )


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("list", "suites"), ("list", "models", "--json")]
)
def test_a_full_disk_behind_stdout_is_one_line(arguments: tuple[str, ...]) -> None:
    """Whether it shows at once or at the end, when what was kept back is written."""
    with FULL.open("w") as full:
        done = run(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == (
        "robusteval: output can't be written (No space left on device): free space, or redirect "
        "it\n"
    )


def test_a_closed_stdout_is_one_line() -> None:
    done = run("show", "ce_digits", preexec_fn=lambda: os.close(1))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "standard output is closed" in done.stderr


def test_a_closed_or_full_stderr_leaves_the_exit_code() -> None:
    shell = f"{sys.executable} -m robusteval list nonsense 2>"
    for stream in ("&-", "/dev/full" if FULL.exists() else "&-"):
        done = subprocess.run(shell + stream, shell=True, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (2, b"")


def test_what_a_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where no one foresaw it."""
    import typer

    @guarded
    def verb() -> None:
        Path("a" * 300).read_text()

    with pytest.raises(typer.Exit) as stopped:
        verb()
    assert stopped.value.exit_code == 2
    assert capsys.readouterr().err.startswith("robusteval: aaa")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere/at/all")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    "place", ["file", "file/x", "loop", "loop/x", "pipe", "gone/x", "x" * 256, "y/" * 3000]
)
def test_run_folders_that_cannot_be_are_told_before_anything_is_loaded(
    place: str, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robusteval.run.subject.open_model", lambda *_: pytest.fail("loaded"))
    arguments = ("run", "--model", "ce_digits", "--suite", "quick", "--out", str(places / place))
    refused(cli(*arguments), "--out")
    refused(cli(*arguments, "--dry-run"), "--out")


def test_a_table_that_cannot_be_written_is_told_before_models_are_run(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robusteval.zoo.evaluate", lambda *_: pytest.fail("run"))
    (places / "quick.csv").mkdir()
    models = ("run", "--model", "ce_digits", "--model", "pcl_digits", "--suite")
    refused(cli(*models, "quick", "--out", str(places)), "quick.csv can't be written", "--out")
    refused(cli(*models, "x" * 300, "--out", str(places)), "File name too long")


def test_no_character_of_a_path_is_a_traceback(places: Path) -> None:
    for name in ("\0", "\ud800"):
        with pytest.raises(RobustevalError, match=r"^out = .*(NUL|not UTF-8 text)"):
            api.Options(samples=2, out=places / name)
