"""The same text in every locale: files are UTF-8, whatever a machine takes for its own."""

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import robusteval
from robusteval.attacks import code
from robusteval.attacks.code import code_of_module
from tests.helpers.entries import TRAINING, write_entry

# A text opened without its encoding is an error in our modules and in the benchmarks'.
PROGRAM = """
import json, sys, warnings
for ours in ("robusteval", "benchmarks"):
    warnings.filterwarnings("error", category=EncodingWarning, module=ours)
from pathlib import Path
from robusteval import api, listing
from robusteval.boards import publish as leaderboards
from robusteval.attacks.code import code_of_module
from robusteval.hardware import hardware_name, package_versions
from robusteval.models.entry import read_entry
from benchmarks import overhead, stored

assert sys.flags.utf8_mode == 0
out = Path(sys.argv[1])
options = api.Options(samples=4, only=("fgsm",), threads=1, out=out / "runs")
report = api.evaluate("ce_digits", "quick", options=options)
told = {check.name: check.held for check in api.verify(report.folder)}
told |= {check.name: check.held for check in leaderboards.check(Path("leaderboards"))}
api.train(read_entry(out / "tiny.toml"), work_dir=out / "w")
rows = {kind: listing.ROWS[kind](None) for kind in ("models", "suites", "attacks")}
overhead.plain_suite("quick")
stored.read(Path("benchmarks/results/stored.csv"), dict)
hardware_name(), package_versions()
code = code_of_module("robusteval.attacks.adaptive")
print(json.dumps({"held": told, "attacks": code, "hardware": hardware_name()}))
"""


def test_in_a_locale_without_utf8_everything_reads_and_writes_as_elsewhere(tmp_path: Path) -> None:
    write_entry(tmp_path, extra="# ε ≤ 8/255\n" + TRAINING.format(recipe="ce", epochs=1, warmup=0))
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, **plain, "PYTHONIOENCODING": "utf-8"},
        cwd=Path(robusteval.__file__).parent.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["attacks"] == code_of_module("robusteval.attacks.adaptive")
    assert set(told["held"].values()) == {True}
    assert "# ε ≤ 8/255" in (tmp_path / "tiny.toml").read_text("utf-8")


STARTS = ("run", "Popen", "check_output", "check_call", "call")


def test_what_other_processes_say_is_read_as_utf8() -> None:
    """Text that is asked of them comes with its encoding; ruff looks after files."""
    root = Path(robusteval.__file__).parent.parent
    paths = [*(root / "robusteval").rglob("*.py"), *(root / "benchmarks").glob("*.py")]
    without = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in STARTS:
                named = {keyword.arg for keyword in node.keywords}
                if named & {"text", "universal_newlines"} and "encoding" not in named:
                    without += [f"{path.name}:{node.lineno}"]
    assert len(paths) > 50
    assert without == []


def test_line_ends_of_a_checkout_change_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As git leaves them on Windows; what runs is the same."""
    source = Path(robusteval.__file__).parent / "attacks"
    shutil.copytree(source, tmp_path / "attacks", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "attacks").rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    here, name = code_of_module.__wrapped__, "robusteval.attacks.adaptive"
    before, smallest = here(name), here("robusteval.attacks.smallest")

    def copied(module: str) -> ModuleSpec | None:
        path = tmp_path.joinpath(*module.split(".")[1:]).with_suffix(".py")
        return ModuleSpec(module, None, origin=str(path)) if path.is_file() else None

    monkeypatch.setattr(code, "find_spec", copied)
    assert here(name) == before
    search = tmp_path / "attacks" / "random_search.py"
    search.write_bytes(search.read_bytes() + b"more = 1\r\n")
    assert here(name) != before  # which it imports
    assert here("robusteval.attacks.smallest") == smallest
    (tmp_path / "attacks" / "new.py").write_text("ATTACKS = ()\n")
    assert here("robusteval.attacks.smallest") == smallest
