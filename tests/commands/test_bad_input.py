"""A seeded sample of bad and odd inputs, and that what judges them sees each kind of fault."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import bad_input, trials
from benchmarks.families.leaving import wrong_csv, wrong_html, wrong_markdown
from benchmarks.trials import CANARY, Case
from robusteval import api
from robusteval.errors import AttackError, DataError, EvidenceError, RobustevalError
from robusteval.evidence.files import Local
from robusteval.evidence.pictures import read_pictures
from robusteval.evidence.record import read_record
from robusteval.evidence.store import Store
from robusteval.models.soundness import require_answers
from robusteval.report.files import altered_files
from tests.helpers.known import Function

pytestmark = pytest.mark.usefixtures("as_in_use")

SAMPLE = 23  # one of each family


@pytest.mark.slow
def test_each_of_a_sample_is_told_in_one_line_early_and_nothing_is_lost() -> None:
    asked = bad_input.Asked(SAMPLE, seed=0, families=tuple(bad_input.FAMILIES))
    tried = bad_input.try_all(asked)
    assert len(tried) == SAMPLE
    assert {one.family for one in tried} == set(bad_input.FAMILIES)
    wrong = [bad_input.told(one) for one in tried if one.wrong]
    assert not wrong, "\n".join(wrong)


def refused(text: str) -> None:
    print(text, file=sys.stderr)
    raise SystemExit(2)


def refuses() -> None:
    raise DataError("x is not a y: choose another")


@pytest.mark.parametrize(
    ("act", "wrong"),
    [
        (trials.call(refuses), ""),
        (lambda: refused("robusteval: x"), ""),
        (lambda: refused("robusteval: x\nrobusteval: y"), "2 lines: robusteval: y"),
        (lambda: refused("x"), "not our line: x"),
        (lambda: refused("robusteval: \x1b[31m"), "control characters on stderr: U+001B"),
        (lambda: refused("robusteval: a\u2028b"), "control characters on stderr: U+2028"),
        (lambda: refused(f"robusteval: {'x' * 5000}"), "a line of 5013 characters"),
        (lambda: refused("robusteval: Input should be x"), "not in our words (Input should)"),
        (lambda: None, "exit 0: (no word)"),
        (lambda: 1 / 0, "traceback: ZeroDivisionError: division by zero"),
        (lambda: os.kill(os.getpid(), 9), "killed by SIGKILL"),
        (lambda: Path(CANARY).touch(), "code of the input has run"),
        (lambda: (Path("there").write_text("y"), refuses()), "traceback"),
        (lambda: (Path("there").write_text("y"), refused("robusteval: x")), "changed: there"),
        (lambda: (Path("there").unlink(), refused("robusteval: x")), "changed: there"),
    ],
)
def test_faults_are_seen(act: Callable[[], object], wrong: str, tmp_path: Path) -> None:
    case = Case("x", "x", act, lambda: Path("there").write_text("x"))
    found = trials.try_out(case, tmp_path)
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def exits(images: Tensor) -> Tensor:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        (lambda: api.compare("runs"), RobustevalError, "a list of their folders"),
        (lambda: api.compare(1), RobustevalError, "a list of their folders"),
        (
            lambda: api.estimate("ce_digits", "quick", dataset=1j),
            DataError,
            "data set 1j: give its name",
        ),
        (
            lambda: api.estimate("ce_digits", "quick", dataset=np.zeros(3)),
            DataError,
            "data set array.*: give its name",
        ),
        (lambda: api.Options(progress="bar"), RobustevalError, "progress = 'bar': give an object"),
        (
            lambda: require_answers(Function(lambda x: x.to("meta")), torch.rand(2, 1, 8, 8)),
            AttackError,
            "logits on the device meta",
        ),
        (lambda: api.wrap_module(nn.Flatten(), "x" * 5000), AttackError, "^.{0,120}$"),
        (
            lambda: require_answers(Function(exits), torch.rand(1, 1, 8, 8)),
            AttackError,
            "SystemExit: 0",
        ),
        (lambda: read_record(Local(Path())), EvidenceError, "NaN is not a number of JSON"),
        (lambda: read_record(Local(Path("other"))), EvidenceError, "schema ' ' names no version"),
        (
            lambda: read_pictures(Store(Local(Path()), "")),
            EvidenceError,
            "can't be read .it is a folder",
        ),
    ],
)
def test_what_the_long_form_found(
    act: Callable[[], object], error: type[RobustevalError], said: str
) -> None:
    Path("run.json").write_text('{"schema": "robusteval.run/2", "spec": NaN}')
    Path("other").mkdir()
    Path("other/run.json").write_text('{"schema": " "}')
    Path("evidence/examples.safetensors").mkdir(parents=True)
    with pytest.raises(error, match=said):
        act()


def test_a_file_in_a_reports_place_is_not_read_whatever_its_size(tmp_path: Path) -> None:
    (tmp_path / "row.csv").touch()
    os.truncate(tmp_path / "row.csv", 2**40)
    assert altered_files(Local(tmp_path), {"row.csv": b"x"}) == ["row.csv"]


def computes() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("act", "limit", "wrong"),
    [(computes, "LIMIT", "hangs: computes"), (lambda: time.sleep(60), "PATIENCE", "hangs: waits")],
)
def test_hangs_end(
    act: Callable[[], object],
    limit: str,
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials, limit, 0.5)
    assert trials.try_out(Case("x", "x", act), tmp_path).startswith(wrong)


def test_small_families_give_all_and_large_ones_share_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def few(size: int) -> bad_input.Generator:
        return lambda made, rng: (Case("", f"{size}: {i}", lambda: None) for i in range(size))

    families = {"small": (few(3),), "large": (few(50),), "larger": (few(90),)}
    monkeypatch.setattr(bad_input, "FAMILIES", families)
    asked = bad_input.Asked(43, seed=1, families=tuple(families))
    made = bad_input.Made(tmp_path)
    cases = bad_input.chosen(asked, made)
    count = {f: sum(case.family == f for case in cases) for f in families}
    assert count == {"small": 3, "large": 20, "larger": 20}
    assert [c.told for c in cases] == [c.told for c in bad_input.chosen(asked, made)]


PAGE = '<!doctype html><p title="a">x</p><a href="#b">y</a>'
REPORT = "# a\n\nx\n\n| a | b |\n|---|---|\n| x | y |\n"


@pytest.mark.parametrize(
    ("wrong", "harmless", "text"),
    [
        (wrong_html, PAGE, PAGE.replace("x", "<script>")),
        (wrong_html, PAGE, PAGE.replace('"a"', '"a" onload=x')),
        (wrong_html, PAGE, PAGE.replace("#b", "javascript:x")),
        (wrong_html, PAGE, PAGE.replace("x", "<!-- ")),
        (wrong_html, PAGE, PAGE.replace("x", "\x1b")),
        (wrong_markdown, REPORT, REPORT.replace("x", "<b>")),
        (wrong_markdown, REPORT, REPORT.replace("x", "[a](javascript:b)")),
        (wrong_markdown, REPORT, REPORT.replace("x", "![a](b)")),
        (wrong_markdown, REPORT, REPORT.replace("x", "\n# b\n")),
        (wrong_markdown, REPORT, REPORT.replace("x", "a\x07")),
        (wrong_csv, "a,b\nx,y\n", "a,b\n=x,y\n"),
        (wrong_csv, "a,b\nx,y\n", "a,b\nx\x0bz,y\n"),
        (wrong_csv, "a,b\nx,y\n", "a,b\nx\u2028z,y\n"),
        (wrong_csv, "a,b\nx,y\n", 'a,b\n"x\ry",y\n'),
        (wrong_csv, "a,b\nx,y\n", "a,b\nx,z,y\n"),
    ],
)
def test_what_is_not_inert_is_seen(
    wrong: Callable[[str, str], str], harmless: str, text: str
) -> None:
    assert wrong(text, harmless)
    assert not wrong(harmless, harmless)
    assert not wrong(harmless.replace("x", "z"), harmless)
