"""A finished run that is asked for again: at once where nothing has changed, else as ever."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.blocks import DETECTED, FGSM
from robusteval import api, inputs, installed, remembered
from robusteval.cli import app
from robusteval.data.datasets import load_dataset
from robusteval.detection import UNFITTED
from robusteval.detection.registry import DETECTORS
from robusteval.models.registry import find_entry
from robusteval.plugins import plugins
from tests.helpers.commands import cli
from tests.helpers.layouts import write_parquet

SUITE = (
    """
name = "one"
"""
    + FGSM
    + DETECTED
)
# Of the verb, in a process that says at its end whether torch is there.
ASK = """
import sys
from robusteval.__main__ import main
sys.argv = ["robusteval", *sys.argv[1:]]
try:
    main()
finally:
    loaded = sorted({"torch", "pandas", "matplotlib", "sklearn"} & set(sys.modules))
    print("loaded", *loaded, file=sys.stderr)
"""


@dataclass(frozen=True)
class Made:
    """A run, what was printed, and how it was asked for."""

    folder: Path  # where it was asked for
    line: list[str]
    printed: str

    @property
    def run(self) -> Path:
        (found,) = (self.folder / "runs").iterdir()
        return found


def line_of(folder: Path, **changed: str) -> list[str]:
    given = {
        "model": str(folder / "m.toml"),
        "suite": str(folder / "one.toml"),
        "samples": "@" + str(folder / "rows.txt"),
        "threads": "1",
        **changed,
    }
    return ["run", *(part for name, value in given.items() for part in (f"--{name}", value))]


def lay_out(folder: Path) -> None:
    """An entry of one's own with its weights, a suite, and a list of samples."""
    entry = find_entry("pcl_digits")
    text = entry.path.read_text("utf-8").replace('name = "pcl_digits"', 'name = "m"')
    (folder / "m.toml").write_text(text, "utf-8")
    shutil.copy(entry.weights_path, folder)
    (folder / "one.toml").write_text(SUITE)
    (folder / "rows.txt").write_text("\n".join(map(str, range(0, 360, 36))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("asked")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in ("DATA", "MODELS", "DATASETS"):
            patch.delenv(f"ROBUSTEVAL_{name}", raising=False)
        line = line_of(folder)
        done = cli(*line)
    assert done.exit_code == 0, done.output
    return Made(folder, line, done.stdout)


@pytest.fixture
def there(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The same place, the same environment."""
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.folder / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return made


def params_of(line: list[str]) -> dict[str, Any]:
    """As the verb gets them."""
    import typer

    command = typer.main.get_command(app).commands[line[0]]  # type: ignore[attr-defined]
    return dict(command.make_context(line[0], list(line[1:])).params)


def known(line: list[str]) -> api.Report | None:
    return remembered.recall(remembered.run_question(params_of(line)))


@contextmanager
def holding(path: Path, content: bytes) -> Iterator[None]:
    """Within it a file has that content."""
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def asked(line: list[str]) -> tuple[str, str]:
    # What other tests left in this process's path is what it takes for installed.
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *line],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_again_it_loads_no_torch_and_prints_the_same(there: Made) -> None:
    assert asked(there.line) == (there.printed, "loaded\n")


def test_its_report_loads_no_torch_either(there: Made) -> None:
    line = ["report", str(there.run)]
    first, second = cli(*line), asked(line)
    assert (first.exit_code, second) == (0, (first.stdout, "loaded\n"))
    with holding(there.run / "report.md", b"other"):
        assert cli(*line).stdout == first.stdout
        assert (there.run / "report.md").read_bytes() != b"other"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_reader_that_leaves_is_borne(there: Made, as_json: list[str]) -> None:
    """As ``head`` does after a line."""
    command = [sys.executable, "-c", ASK, *there.line, *as_json]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 0


def test_as_json_it_is_the_same_content(there: Made) -> None:
    told = cli(*there.line, "--json")
    assert json.loads(told.stdout) == json.loads((there.run / "report.json").read_text("utf-8"))


def test_what_changed_takes_the_ordinary_way(there: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def ordinary(*_: Any, **__: Any) -> None:
        raise LookupError("the ordinary way")

    monkeypatch.setattr(api, "evaluate", ordinary)
    assert cli(*there.line).exit_code == 0
    weights = there.folder / "pcl_digits.safetensors"
    with (
        holding(weights, weights.read_bytes()[:-1] + b"x"),
        pytest.raises(LookupError, match="the ordinary way"),
    ):
        cli(*there.line)


def _appended(text: str) -> Callable[[bytes], bytes]:
    return lambda content: content + text.encode()


CHANGED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "the weights": ("pcl_digits.safetensors", lambda content: content[:-1] + b"x"),
    "the entry": ("m.toml", lambda content: content.replace(b"std = [0.376]", b"std = [0.377]")),
    "a comment of the entry": ("m.toml", _appended("\n# no more")),
    "the suite": ("one.toml", lambda content: content.replace(b"samples = 2", b"samples = 3")),
    "the samples": ("rows.txt", _appended("\n1")),
    "the record": ("run.json", _appended(" ")),
    "rows of evidence": ("evidence/clean-0000.parquet", lambda content: content[:-1] + b"x"),
    "more evidence": ("evidence/new.parquet", _appended("")),
    "the report": ("report.json", lambda content: content.replace(b"complete", b"complead")),
    "the page": ("report.html", _appended("<script>")),
}


@pytest.mark.parametrize("what", CHANGED)
def test_nothing_is_recalled_after_a_change_of(there: Made, what: str) -> None:
    name, change = CHANGED[what]
    path = (there.folder if (there.folder / name).exists() else there.run) / name
    content = path.read_bytes() if path.exists() else b""
    assert change(content) != content or not path.exists()
    with holding(path, change(content)):
        assert known(there.line) is None
    assert known(there.line) is not None  # it was the change


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": "1"},
        {"eps": "0.1"},
        {"samples": "10"},
        {"keep": "all"},
        {"threads": "2"},
        {"only": "fgsm"},
        {"batch-size": "5"},
        {"time-limit": "100"},
        {"out": "elsewhere"},
        {"suite": "quick"},
        {"model": "ce_digits"},
    ],
)
def test_nothing_is_recalled_of_other_options(there: Made, changed: dict[str, str]) -> None:
    assert known(line_of(there.folder, **changed)) is None


def test_versions_and_code_are_part_of_it(
    there: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch-99.0.dist-info").mkdir()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert known(there.line) is None
    with monkeypatch.context() as patch:
        patch.setattr(installed.sys, "version", "3.99")
        assert known(there.line) is None
    package = tmp_path / "robusteval"
    shutil.copytree(installed._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with monkeypatch.context() as patch:
        patch.setattr(installed, "_PACKAGE", package)
        now = installed.installation()
        with holding(package / "attacks" / "steps.py", b"pass"):
            assert installed.installation() != now
        with holding(package / "suites" / "new.toml", b""):
            assert installed.installation() != now
        assert installed.installation() == now
    assert known(there.line) is not None


def test_another_registry_is_another_question(
    there: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The diagnostics may take their adversarials from any model of it."""
    params = params_of(there.line)
    before = inputs.digest_of_run(params)
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(tmp_path))
    lay_out(tmp_path)
    assert None not in (before, now := inputs.digest_of_run(params))
    assert now != before
    os.utime(tmp_path / "pcl_digits.safetensors", ns=(1, 1))
    assert inputs.digest_of_run(params) not in (before, now, None)


def test_what_files_do_not_tell_is_no_question(there: Made) -> None:
    entry = there.folder / "m.toml"
    factory = entry.read_text("utf-8").replace("[backbone]", 'factory = "a:b"\n[unread]')
    assert inputs.digest_of_run(params_of(there.line)) is not None
    for options in (
        ["--device", "cuda"],
        ["--source", "ce_digits"],
        ["--outlier-dir", "."],
        ["--data", "."],
        ["--model", "ce_digits"],
        ["--data", "nowhere.npz"],
    ):
        assert inputs.digest_of_run(params_of([*there.line, *options])) is None, options
    with holding(entry, factory.encode()):
        assert inputs.digest_of_run(params_of(there.line)) is None


def test_plugins_are_no_question(there: Made, install: Callable[..., None]) -> None:
    """Their code may be anywhere."""
    install("mine", "1", {"detectors": {"max_logit": "mine:detector"}}, {"mine": ""})
    assert [plugin.name for plugin in plugins("detectors")] == ["max_logit"]
    assert inputs.digest_of_run(params_of(there.line)) is None


def test_an_incomplete_run_is_not_remembered(there: Made) -> None:
    line = [*line_of(there.folder, out="hasty"), "--time-limit", "1e-9"]
    assert cli(*line).exit_code == 3
    assert known(line) is None


def test_what_changes_during_a_run_is_not_remembered(
    there: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = api.evaluate
    rows = there.folder / "rows.txt"

    def meanwhile(*given: Any, **keywords: Any) -> api.Report:
        found = evaluate(*given, **keywords)
        rows.write_text(rows.read_text() + "\n")
        return found

    monkeypatch.setattr(api, "evaluate", meanwhile)
    line = line_of(there.folder, suite=str(there.folder / "one.toml"), only="fgsm", out="runs2")
    with holding(rows, rows.read_bytes()):
        assert cli(*line).exit_code == 0
        assert known(line) is None


def test_a_damaged_note_is_passed_over(there: Made) -> None:
    question = remembered.run_question(params_of(there.line))
    assert question is not None
    told = json.loads(question.place.read_text())
    for content in ("", "[]", "null", "{}", json.dumps({**told, "folder": 1}), "{" * 10_000):
        with holding(question.place, content.encode()):
            assert remembered.recall(question) is None
    with holding(question.place, json.dumps({**told, "folder": "elsewhere"}).encode()):
        assert remembered.recall(question) is None


def test_a_cache_that_cannot_be_written_costs_time_alone(
    there: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = cli(*there.line)
    assert (done.exit_code, done.stdout) == (0, there.printed)
    assert known(there.line) is None


def test_own_data_in_a_file_count_by_content(there: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("digits")
    path = there.folder / "own.npz"
    np.savez(path, images=data.images(slice(0, 4)).numpy(), labels=data.labels[:4].numpy())
    params = params_of(line_of(there.folder, data=str(path)))
    before = inputs.digest_of_run(params)
    np.savez(path, images=data.images(slice(1, 5)).numpy(), labels=data.labels[1:5].numpy())
    assert before not in (None, inputs.digest_of_run(params))


def test_known_data_count_by_content(there: Made, tmp_path: Path) -> None:
    """Those of both splits, and outlier sets that come later; loose images are too many to read."""
    params = params_of(line_of(there.folder, data="mnist", **{"data-dir": str(tmp_path)}))
    assert inputs.digest_of_run(params) is None  # they aren't there
    arrays = [np.full((28, 28), 20 * i, np.uint8) for i in range(10)]
    names = [str(i) for i in range(10)]
    seen: list[str | None] = []

    def write(folder: str, split: str, labels: list[int]) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / f"{split}-00000-of-00001.parquet"
        write_parquet(file, arrays, labels, names)
        seen.append(inputs.digest_of_run(params))

    write("mnist", "test", [*range(10)])
    write("mnist", "test", [*range(9), 0])
    write("mnist", "train", [*range(10)])
    write("fashion_mnist", "test", [*range(10)])
    assert None not in seen
    assert len(set(seen)) == 4
    (tmp_path / "fashion_mnist").rename(tmp_path / "gone")
    assert inputs.digest_of_run(params) == seen[2]
    loose = tmp_path / "fashion_mnist" / "test" / "0"
    loose.mkdir(parents=True)
    assert inputs.digest_of_run(params) is None


def test_detectors_that_read_no_training_data_are_known_without_loading_any() -> None:
    assert set(UNFITTED) == {d.name for d in DETECTORS.own() if not d.needs_training_data}
