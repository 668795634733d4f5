"""Several models in one command: one table, and none holds up the others."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from robusteval import api, stops, zoo
from robusteval.cli import parse_models
from robusteval.errors import RobustevalError, UnknownNameError
from robusteval.models.entry import Entry
from robusteval.models.registry import all_entries
from robusteval.report.rows import ATTACK, BACKING, DOUBTS, FOUND
from tests.helpers.commands import cli
from tests.helpers.models import file_of

QUICK = ("--suite", "quick", "--only", "fgsm", "--samples", "20")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_an_interruption_says_how_many_models_are_finished() -> None:
    def run(name: str, *_: object) -> Any:
        if name == "pcl_digits":
            raise KeyboardInterrupt

    for models, said in (
        (["ce_digits", "pcl_digits"], ["models finished before: 1"]),
        (["pcl_digits", "ce_digits"], []),
    ):
        with pytest.raises(KeyboardInterrupt) as stopped:
            zoo.evaluate(models, "quick", api.Options(), run)
        assert stops.said(stopped.value) == said


def test_several_models_make_one_table() -> None:
    result = cli("run", "--model", "ce_digits", "pcl_digits", "--eps", "0.1", *QUICK)
    assert result.exit_code == 0
    path = Path(result.stdout.strip().splitlines()[-1])
    rows = rows_of(path)
    assert path == Path("runs/quick.csv")
    assert list(rows[0]) == [*FOUND, f"{ATTACK}fgsm", DOUBTS, *BACKING, "revisions"]
    assert [(r["model"], r["norm"], r["eps"]) for r in rows] == [
        ("ce_digits", "Linf", "0.1"),
        ("pcl_digits", "Linf", "0.1"),
    ]
    for row in rows:
        alone = rows_of(next(Path("runs").glob(f"{row['model']}-quick-*/row.csv")))
        assert alone == [row]
        assert f"{float(row['worst_case']):.1f} %" in result.stdout


def test_a_model_that_cannot_be_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 3")
    result = cli("run", "--model", str(broken), "nothing_like_it", "pcl_digits", *QUICK)
    assert result.exit_code == 3
    assert [r["model"] for r in rows_of(Path("runs/quick.csv"))] == ["pcl_digits"]
    told = [line for line in result.stderr.splitlines() if line.startswith("robusteval:")]
    assert f"{broken} was not run" in told[0]
    assert "nothing_like_it was not run: unknown model" in told[1]
    assert len(told) == 2


def test_only_models_that_cannot_be_run() -> None:
    result = cli("run", "--model", "nothing", "none", *QUICK)
    assert result.exit_code == 2
    assert "nothing was not run" in result.stderr


def test_fewer_samples_than_asked_are_fine_among_several(tmp_path: Path) -> None:
    def evaluate_one(name: str, suite: str, options: api.Options) -> api.Report:
        spec = api.prepare(api.Asked(name), suite, options).spec
        return api.Report({"samples": spec.samples}, tmp_path)

    (told,) = zoo.evaluate(["ce_digits"], "quick", api.Options(samples=5000), evaluate_one)
    assert isinstance(told, api.Report)
    assert told.content["samples"] == 360
    with pytest.raises(RobustevalError, match="holds 360"):
        api.evaluate("ce_digits", "quick", options=api.Options(samples=5000))


def test_all_are_those_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_weights = [e.name for e in all_entries() if isinstance(e, Entry) and e.weights]
    assert zoo.models_called(["all"]) == with_weights
    assert zoo.models_called(["*_digits", "ce_digits"]) == [
        n for n in with_weights if n.endswith("_digits")
    ]
    assert zoo.models_called(["pcl_digits", "ce_digits"]) == ["pcl_digits", "ce_digits"]
    (tmp_path / "unreadable.toml").write_text("name = ")
    text = file_of("ce_digits.toml").read_text()
    untrained = text[: text.index("[weights]")].replace("ce_digits", "untrained_digits")
    (tmp_path / "untrained_digits.toml").write_text(untrained)
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    called = zoo.models_called(["un*"])
    assert called == ["unreadable"]  # refused aloud, not left out in silence
    with pytest.raises(UnknownNameError, match="no model fits"):
        zoo.models_called(["*_nowhere"])


def test_one_name_is_one_model_and_a_pattern_is_several() -> None:
    assert not zoo.is_several(["ce_digits"])
    assert zoo.is_several(["all"])
    assert zoo.is_several(["*_digits"])
    assert zoo.is_several(["a", "b"])


def test_a_path_with_a_comma_is_one_model(tmp_path: Path) -> None:
    for name in ("ce_digits.toml", "ce_digits.safetensors"):
        shutil.copy(file_of(name), tmp_path / name)
    odd = tmp_path / "a,b.toml"
    os.rename(tmp_path / "ce_digits.toml", odd)
    assert parse_models([str(odd), "c,d"]) == [str(odd), "c", "d"]


def test_a_narrow_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from robusteval import terminal

    monkeypatch.setattr(terminal.console, "width", 48)
    result: Any = cli("run", "--model", "ce_digits", "pcl_digits", *QUICK)
    assert max(map(len, result.stdout.splitlines())) <= 48
    assert "pcl_digits" in result.stdout
