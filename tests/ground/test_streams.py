"""The program's streams and signals, each in a process of its own."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from robusteval import stops, streams
from robusteval.cli import app, board
from robusteval.guarded import guarded
from robusteval.models.registry import find_entry
from tests.helpers.texts import HIDDEN

MODULE = (sys.executable, "-m", "robusteval")


def started(
    arguments: Sequence[str | bytes], program: Sequence[str] = MODULE, **told: str
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "COLUMNS": "100", **told}
    return subprocess.Popen(
        [*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    out, errors = process.communicate(timeout=120)
    assert b"Traceback" not in errors, errors
    return process.returncode, out, errors


def test_a_terminal_that_is_not_utf8() -> None:
    told = {"PYTHONIOENCODING": "ascii", "TTY_COMPATIBLE": "1", "TERM": "dumb"}
    code, out, errors = ended(started(["list", "datasets"], LINES="50", **told))
    assert (code, errors) == (0, b"")
    assert b"| 1x8x8   | Linf 0.15" in out
    lines = [line for line in out.split(b"\n") if line[:1] in (b"+", b"|")]
    assert len(lines) > 5
    assert len(set(map(len, lines))) == 1


def test_every_page_of_help_is_ascii() -> None:
    """It is not ours to encode: the parser writes it, as UTF-8 where a terminal takes ASCII."""
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands]
    boards = [["leaderboard", str(command.name)] for command in board.registered_commands]
    for verb in [[], *([name] for name in verbs), ["leaderboard"], *boards]:
        result = CliRunner().invoke(app, [*verb, "--help"])
        assert result.exit_code == 0, verb
        assert result.stdout.isascii(), verb


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bytes_and_escapes_of_an_argument_come_back_inert(encoding: str) -> None:
    argument = b"no\xff\xc2\x9b\x1b]0;t\x07\xe2\x80\xae.toml"
    code, out, errors = ended(started(["show", argument], PYTHONIOENCODING=encoding))
    assert (code, out) == (2, b"")
    assert errors.startswith(b"robusteval: ")
    assert errors.count(b"\n") == 1
    assert rb"no\udcff\x9b\x1b]0;t\x07\u202e.toml" in errors.replace(rb"\\", b"\\")


def test_json_is_the_same_data_in_every_encoding(tmp_path: Path) -> None:
    text = find_entry("ce_digits").path.read_text("utf-8")
    (tmp_path / "e.toml").write_text(text.replace('description = "', 'description = "ε\\u009b'))
    found = set()
    for encoding in ("utf-8", "ascii"):
        code, out, _ = ended(started(["show", "e.toml", "--json"], PYTHONIOENCODING=encoding))
        assert code == 0
        assert not HIDDEN.search(out.decode(encoding))
        found.add(str(json.loads(out.decode(encoding))))
    assert len(found) == 1
    assert "ε\\x9b" in found.pop()


@pytest.mark.parametrize("verb", ["show pcl_digits", "list models", "list datasets --json"])
def test_a_reader_that_leaves_is_borne_in_silence(verb: str) -> None:
    process = started(verb.split())
    assert process.stdout is not None
    process.stdout.close()  # as `head` does
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")


def test_output_outlives_its_reader() -> None:
    """What is written after that goes nowhere, so that a verdict's exit code is still given."""
    ours, theirs = os.pipe()[::-1]
    os.close(theirs)
    with streams._Outlived(ours, "w") as output:
        assert output.write(b"abc") == 3
        assert output.write(b"abc") == 3


def test_a_closed_descriptor_is_opened_on_nothing() -> None:
    """Else the next file of ours would be standard output."""
    code = (
        "import os, sys\nfrom robusteval import streams\nstreams.settle()\n"
        "print('x')\nsys.exit(not os.path.samestat(os.fstat(1), os.stat(os.devnull)))"
    )
    shell = ("sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code)
    assert ended(started([], shell)) == (0, b"", b"")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``settle`` leaves a process, for the time of a test."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    assert logging.lastResort is not None
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    streams.settle()


@pytest.mark.usefixtures("settled")
def test_words_of_libraries_are_one_inert_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = warnings.formatwarning("a\x1b[31m\nb", UserWarning, "f\x07.py", 3)
    assert said == "robusteval: UserWarning: a\\x1b[31m b (f\\x07.py:3)\n"
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "a\x1b[31m\nb %s", ("\x9b",), None)
    assert typing.cast(logging.Handler, logging.lastResort).format(record) == (
        "robusteval: a\\x1b[31m b \\x9b"
    )
    try:
        raise ValueError("a\x1b]0;x\x07\nb")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    *_, second_last, last = capsys.readouterr().err.splitlines()
    assert (second_last, last) == ("ValueError: a\\x1b]0;x\\x07", "b")


# Signals


def test_interrupted_while_it_loads_it_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert ended(started(["list"], PYTHONPATH=path)) == (130, b"", b"")


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (stops.Terminated, 143)])
def test_both_ways_to_be_stopped_have_their_code(stop: type[BaseException], code: int) -> None:
    stopped = typer.Typer()

    @stopped.command()
    @guarded
    def verb() -> None:
        raise stop

    result = CliRunner().invoke(stopped, [])
    assert result.exit_code == code
    assert result.stderr == "robusteval: interrupted\n"


def test_the_last_line_says_what_is_kept() -> None:
    """The innermost first; behind another error, too, which the stop was made into."""
    stopped = typer.Typer()

    @stopped.command()
    @guarded
    def verb() -> None:
        outer, silent = stops.saying(lambda: "outer"), stops.saying(lambda: "")
        with outer, silent, stops.saying(lambda: "2 of 9 jobs are done"):
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise ImportError("half loaded") from None

    result = CliRunner().invoke(stopped, [])
    assert result.exit_code == 130
    assert result.stderr == "robusteval: interrupted: 2 of 9 jobs are done; outer\n"


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "signals"), [("2", 1), ("1", 3)])
def test_sigterm_ends_a_run_as_ctrl_c_does(workers: str, signals: int, tmp_path: Path) -> None:
    """Once its first evidence is there: one line, 143, a free lock, no worker left; and again."""
    run = ["run", "--model", "ce_digits", "--workers", workers, "--samples", "60"]
    process = started(run, (sys.executable, "-u", "-m", "robusteval"), FORCE_COLOR="1")
    assert process.stderr is not None
    while b"Gaussian" not in process.stderr.readline():
        assert process.poll() is None
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
    code, _, errors = ended(process)
    if signals == 1:
        assert errors.count(b"jobs of ce_digits are done and kept; the same command does") == 1
        assert code == 143
    assert code in (143, -signal.SIGTERM)
    (folder,) = tmp_path.glob("runs/*")
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert list(folder.glob("evidence/*.parquet"))
    assert list(folder.glob("report.*")) == []
    assert processes_of(folder) == []


def processes_of(folder: Path) -> list[str]:
    """Command lines of other processes that name a run's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told = path.read_bytes().decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if folder.name in told:
            found.append(told)
    return found
