"""What people see while a verb is at work: lines in a log, bars in a terminal."""

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from robusteval import bars, spinning, watching
from robusteval.bars import Bars
from robusteval.consoles import InertConsole
from robusteval.data.datasets import Dataset
from robusteval.durations import duration_text, parse_duration
from robusteval.evidence.files import Local
from robusteval.evidence.store import Store
from robusteval.lines import Lines
from robusteval.models.adapter import Adapter
from robusteval.plan.plan import Cell
from robusteval.run.executors import processes
from robusteval.run.progress import Progress, Standing, Watcher
from tests.helpers.commands import cli, refused
from tests.helpers.runs import attack_spec, context_of, suite_of


class Clock:
    """Goes on when it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def at(done: int, left: float | None = None, seconds: float = 0, budget: float | None = None):  # type: ignore[no-untyped-def]
    """How far a run of nine jobs is."""
    return Standing(done, 9, seconds, left, ("FGSM, L∞ 0.15",), budget)


# Times


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1.5s", 1.5), ("75", 75), (8, 8)],
)
def test_times_are_read_as_people_write_them(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "m", "10 m", "1d", "1m1h", "-5s", "nan", "١m"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give a time above 0"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (61, "1 min 1 s"), (600, "10 min")),
        *((3599, "59 min"), (3600, "1 h"), (86400, "24 h"), (5400, "1 h 30 min"), (-1, "0 s")),
    ],
)
def test_times_are_told_in_few_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# Lines


def lines_of(captured: str) -> list[str]:
    return captured.splitlines()


def test_a_line_for_each_job_and_one_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock=clock)
    lines.title = "mine"
    lines.part("model and data", 0, 0)
    clock.now = 59.9
    lines.tick()
    assert capsys.readouterr().err == ""
    clock.now = 60
    lines.tick()
    lines.tick()  # not twice
    lines.part("model and data", 1, 1)
    clock.now = 70
    lines.standing(at(0))
    clock.now = 120
    lines.tick()
    lines.standing(at(1, 200))
    lines.job("FGSM, L∞ 0.15, chunk 1 of 2", "40.0 % robust")
    clock.now = 170
    lines.tick()
    clock.now = 180
    lines.tick()
    assert lines_of(capsys.readouterr().err) == [
        "mine: nothing done yet: at work on model and data; 1 min so far",
        "mine: 0 of 9 jobs done: at work on FGSM, L∞ 0.15; 2 min so far",
        "mine: 1 of 9 jobs done: FGSM, L∞ 0.15, chunk 1 of 2: 40.0 % robust; 2 min so far, "
        "about 3 min 20 s left",
        "mine: 1 of 9 jobs done: at work on FGSM, L∞ 0.15; 3 min so far, about 3 min 20 s left",
    ]


def test_what_a_run_that_goes_on_has_already_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines(clock=Clock())
    lines.title = "mine"
    lines.standing(at(3))
    lines.standing(at(4))
    assert lines_of(capsys.readouterr().err) == ["mine: 3 of 9 jobs are done already"]


def test_a_budget_that_is_used_up_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(clock=Clock())
    lines.standing(at(0))
    for seconds in (500, 599, 601, 700):
        lines.standing(at(3, 60, seconds, budget=600))
    assert lines_of(capsys.readouterr().err) == [
        "the budget of 10 min is used up: what was planned goes on; 0 s so far, about 1 min left"
    ]


def test_time_is_watched_while_nothing_is_told() -> None:
    """By a thread of its own, which ends with the display; a log that is gone stops nothing."""
    wrote = threading.Event()

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            wrote.set()
            raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", Log())
        lines = Lines(every=0)
        lines.open("mine")
        assert wrote.wait(30)
        ended = lines.ended
        lines.close()
    assert ended is not None
    assert ended.is_set()


def test_what_comes_from_files_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(clock=Clock())
    lines.job("evil\x1b[2J\nname", "done")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "\x1b" not in told


def test_a_log_of_a_run_holds_its_jobs(tmp_path: Path) -> None:
    """And nothing else; a finished run's holds nothing."""
    suite = tmp_path / "suite.toml"
    suite.write_text(
        'name = "one"\n[[attacks]]\nname = "fgsm"\ntitle = "FGSM"\nlibrary = "torchattacks"\n'
        'attack = "FGSM"\nnorms = ["Linf"]\n',
        "utf-8",
    )
    options = ("--suite", str(suite), "--samples", "20", "--batch-size", "10", "--threads", "1")
    result = cli("run", "--model", "pcl_digits", *options)
    assert result.exit_code == 0
    said = [line.partition(" so far")[0] for line in lines_of(result.stderr)]
    assert len(said) == 4
    for place, name in enumerate(
        [
            *("clean predictions, chunk 1 of 2: done", "clean predictions, chunk 2 of 2: done"),
            *(r"FGSM, L∞ 0.15, chunk 1 of 2: [\d.]+ % robust",),
            *(r"FGSM, L∞ 0.15, chunk 2 of 2: [\d.]+ % robust",),
        ]
    ):
        line = rf"pcl_digits: {place + 1} of 4 jobs done: {name}; \d+ (s|min \d+ s)"
        assert re.fullmatch(line, said[place])
    assert "left" in result.stderr.splitlines()[-1]
    assert cli("run", "--model", "pcl_digits", *options).stderr == ""
    assert cli("verify", str(next(Path("runs").iterdir()))).stderr == ""
    refused(cli("run", "--model", "pcl_digits", "--suite", "nosuch"), "nosuch")


# Bars


@pytest.fixture
def cell(pcl_digits: Adapter, digits: Dataset) -> Cell:
    title = "a [link=x]b[/link]"
    attack = attack_spec("mine", title=title, library="torchattacks", attack="FGSM")
    return context_of(pcl_digits, digits.balanced_subset(8), suite_of(attack)).plan.cells[0]


Draw = Callable[[], str]


def drawn_at(width: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Bars, Draw, io.StringIO]:
    """Bars in a terminal that wide, what they look like now, and what was said above them."""

    def paper() -> Console:
        console = InertConsole(stderr=True)
        console.file, console.width = io.StringIO(), width
        return console

    terminal = paper()
    monkeypatch.setattr(bars, "error_console", terminal)
    shown = Bars()

    def draw() -> str:
        sheet = paper()
        sheet.print(shown.bars.get_renderable())
        return sheet.file.getvalue()  # type: ignore[attr-defined]

    return shown, draw, terminal.file  # type: ignore[return-value]


@pytest.mark.parametrize("width", [100, 80, 79, 60, 59, 50, 40])
def test_a_bar_for_each_part_and_one_for_the_whole(
    width: int, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, draw, _ = drawn_at(width, monkeypatch)
    shown.title = "pcl_digits"
    shown.part("pcl_digits", 0, 0)
    assert "pcl_digits" in draw()
    shown.start(cell, 360)
    shown.within(cell, 100)
    shown.part("diagnostics", 2, 6)
    shown.part("model and data", 0, 0)
    shown.standing(at(3, 3900))
    picture = draw()
    lines = picture.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert "pcl_digits" not in picture  # its parts tell more
    assert "about 1 h 5 min left" in lines[3]
    if width >= 50:
        assert "100/360" in lines[0]
        assert "2/6" in lines[1]
        assert "3/9" in lines[3]
        assert "whole run" in lines[3]
        assert "/" not in lines[2].strip("/|-\\ ")


def test_what_is_done_leaves_the_bars(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, draw, above = drawn_at(100, monkeypatch)
    shown.start(cell, 360)
    shown.part("clean predictions", 1, 2)
    shown.part("clean predictions", 2, 2)
    shown.advance(cell, 120, 30, 120)
    assert "25.0 % robust" in draw()
    shown.finish(cell, "done")
    assert draw().strip() == ""
    assert above.getvalue() == "a [link=x]b[/link] L∞ 0.15: 25.0 % robust\n"


def test_a_chunk_of_an_attack_that_has_failed_tells_nothing(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other workers may still be at it."""
    shown, draw, above = drawn_at(100, monkeypatch)
    shown.start(cell, 360)
    shown.finish(cell, "time_limit")
    shown.within(cell, 200)
    shown.advance(cell, 240, 20, 240)
    shown.finish(cell, "done")
    assert draw().strip() == ""
    assert above.getvalue() == "a [link=x]b[/link] L∞ 0.15: time limit\n"


def test_a_bar_says_when_the_budget_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, draw, _ = drawn_at(100, monkeypatch)
    shown.standing(at(3, 60, 601, budget=600))
    assert "over its budget; about 1 min left" in draw()
    shown.standing(at(3, None, 601, budget=600))
    assert "over its budget" in draw()


def test_bars_say_what_is_done_already(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, _, above = drawn_at(100, monkeypatch)
    shown.title = "mine"
    shown.standing(at(3))
    shown.standing(at(4))
    assert above.getvalue() == "mine: 3 of 9 jobs are done already\n"


def test_an_error_leaves_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, draw, _ = drawn_at(100, monkeypatch)
    monkeypatch.setattr(watching, "_display", lambda: shown)

    @watching.watched("mine")
    def verb() -> None:
        assert "mine" in draw()
        assert shown.bars.live.is_started
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        verb()
    assert not shown.bars.live.is_started
    assert draw().strip() == ""


def test_one_display_serves_a_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it loads, and then each model."""
    shown, draw, _ = drawn_at(100, monkeypatch)
    monkeypatch.setattr(watching, "_display", lambda: shown)
    with watching.shown("robusteval"), watching.shown("pcl_digits") as inner:
        assert inner is shown
        assert "pcl_digits" in draw()
        assert "robusteval" not in draw()


@pytest.mark.parametrize(
    ("is_terminal", "term", "live"),
    [(True, "xterm-256color", True), (True, "dumb", False), (False, "xterm", False)],
)
def test_bars_are_for_terminals_that_move_their_cursor(
    is_terminal: bool, term: str, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert watching.is_live() is live
    display = watching._display()
    assert isinstance(display, Bars if live else Lines)
    assert isinstance(display, Progress)
    assert isinstance(display, Watcher)


# Threads that wait


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Looks at the machine find so many threads at work, this one among them, on two cores."""

    def looks(*running: int) -> None:
        spinning.is_crowded.cache_clear()
        found = iter(running)
        monkeypatch.setattr(spinning, "_runnable", lambda: next(found))
        monkeypatch.setattr(spinning, "_cores", lambda: 2)

    yield looks
    spinning.is_crowded.cache_clear()


@pytest.mark.parametrize(
    ("running", "crowded"),
    [((3, 3, 3), True), ((9, 4, 3), True), ((3, 9, 2), False), ((1, 1, 1), False)],
)
def test_threads_sleep_where_others_keep_all_cores_busy(
    running: tuple[int, ...], crowded: bool, crowd: Callable[..., None]
) -> None:
    """At each of three looks; and it stays so, whatever starts later."""
    crowd(*running)
    expected = {"OMP_WAIT_POLICY": "PASSIVE"} if crowded else {}
    assert spinning.preferred({"OMP_NUM_THREADS": "2"}) == expected
    assert spinning.preferred({}) == expected


def test_a_system_that_tells_nothing_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ("", "0.1 0.2", "0.1 0.2 0.3 x/100 7"):
        monkeypatch.setattr("builtins.open", lambda *_, c=content, **__: StringIO(c))
        assert spinning._runnable() == 0
    monkeypatch.undo()
    assert spinning._runnable() >= (1 if Path("/proc/loadavg").exists() else 0)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_users_own_word_on_waiting_wins(name: str, crowd: Callable[..., None]) -> None:
    crowd(9, 9, 9)
    assert spinning.preferred({name: "1"}) == {}


def test_waiting_is_decided_before_torch_loads() -> None:
    """By the console script, for itself and for what it starts."""
    code = (
        "import os, sys\n"
        "from robusteval import spinning\n"
        "from robusteval.__main__ import main\n"
        "spinning.is_crowded = lambda: True\n"
        "sys.argv = ['robusteval', '--version']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
    )
    plain = {k: v for k, v in os.environ.items() if k not in spinning.DECISIVE}
    done = subprocess.run(
        [sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "PASSIVE False"
    told = {**plain, "OMP_WAIT_POLICY": "ACTIVE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "ACTIVE False"


def test_workers_wait_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class StartError(Exception):
        """Carries the environment that a worker is given."""

    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        raise StartError(env)

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    monkeypatch.setattr(processes, "preferred", spinning.preferred)
    monkeypatch.setattr(spinning, "is_crowded", lambda: True)
    for name in spinning.DECISIVE:
        monkeypatch.delenv(name, raising=False)
    for own, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        if own:
            monkeypatch.setenv("OMP_WAIT_POLICY", own)
        with pytest.raises(StartError) as started:
            processes.Worker(Store(Local(tmp_path), "d"), tmp_path / "log", {}, 3)
        (environment,) = started.value.args
        assert (environment["OMP_WAIT_POLICY"], environment["OMP_NUM_THREADS"]) == (expected, "3")
