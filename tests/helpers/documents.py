"""Code blocks of the documents, and how each is run.

    python -m tests.helpers.documents NAME …

runs pages of ``docs/``, such as ``own_model``, with whatever robusteval is installed.

A page is run from top to bottom in an empty folder: its Python blocks share their names, its files
and commands share the folder.  What a reader has and a test has not comes from a setup:

    <!-- setup: NAME -->        tests.helpers.setups.NAME before the next block
    <!-- file: PATH -->         the next block is that file
    <!-- instead: COMMAND -->   run in the place of the next command, which takes too long here
    <!-- exit: N -->            the next command ends with this code
    <!-- printed: above -->     the next block is what the Python block before it prints
    <!-- needs: PACKAGE -->     the next block runs only where that is installed

Of a ``console`` block, lines after ``$`` are commands, and the others what they print: each must be
among what was printed, in this order, where … stands for anything, and the seconds at the end of a
table's row for any.  ``make`` only tells what it would do.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any
from unittest.mock import patch

from robusteval import terminal
from tests.helpers import setups
from tests.helpers.commands import cli

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100  # columns of the terminal that pages show
PLUGIN = "robusteval.pytest_plugin"
_FENCE = re.compile(r"^\s*(```+|~~~+)\s*(\S*).*$")
_NOTE = re.compile(r"^<!-- (setup|file|instead|exit|printed|needs): (.+?) -->$")
_SECONDS = re.compile(r"(?<=│)\s+\d+\.\d │$")
_RUN = {"python", "console"}


@dataclass
class Block:
    """One fenced block: its language, its text, the line it begins at, and what was noted of it."""

    kind: str
    text: str
    line: int
    notes: dict[str, str] = field(default_factory=dict)


def pages() -> list[Path]:
    """Every page whose snippets are run."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    notes: dict[str, str] = {}
    inside: Block | None = None
    fence = ""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if inside is None and (note := _NOTE.match(line.strip())):
            notes[note[1]] = note[2]
        elif inside is None and (opened := _FENCE.match(line)):
            fence, inside = opened[1], Block(opened[2], "", number + 1, notes)
            notes = {}
        elif inside is not None and line.strip() == fence:
            inside.text = textwrap.dedent(inside.text)
            yield inside
            inside = None
        elif inside is not None:
            inside.text += f"{line}\n"


def run_page(page: Path, folder: Path) -> int:
    """Runs what a page shows; returns how many blocks that were.  Fails where one does."""
    with ExitStack() as undo:
        return _run_page(page, folder, undo)


def _run_page(page: Path, folder: Path, undo: ExitStack) -> int:
    names: dict[str, Any] = {"__name__": "__main__"}
    done, printed = 0, io.StringIO()
    for block in blocks_of(page):
        if not is_installed(block.notes.get("needs")):
            continue
        where = f"{page.name}, line {block.line}"
        if name := block.notes.get("setup"):
            getattr(setups, name)(names, folder, undo)
        if name := block.notes.get("file"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block.text, "utf-8")
        elif "printed" in block.notes:
            _require(block.text.splitlines(), printed.getvalue(), where)
        elif block.kind == "python":
            # Its lines count from the page's own, so that a traceback leads there.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with redirect_stdout(printed := io.StringIO()):
                exec(code, names)  # noqa: S102 - the project's own pages
        elif block.kind == "console":
            _run_console(where, block)
        done += block.kind in _RUN or "file" in block.notes
    return done


def is_installed(package: str | None) -> bool:
    """Whether there is such a package; without one there is nothing to miss."""
    try:
        return package is None or bool(version(package))
    except PackageNotFoundError:
        return False


def _run_console(where: str, block: Block) -> None:
    for command, printed in commands_of(block.text):
        code, output = _output(block.notes.pop("instead", command))
        said = f"{where}: {command}"
        assert code == int(block.notes.pop("exit", "0")), f"{said}: exit code {code}\n{output}"
        _require(printed, output, said)


def _require(lines: list[str], output: str, where: str) -> None:
    """Fails unless these lines were printed, in this order."""
    rest = output.splitlines()
    for line in filter(str.strip, lines):
        wanted = _pattern(line)
        found = [i for i, given in enumerate(rest) if wanted.fullmatch(given.strip())]
        assert found, f"{where}: it did not print {line!r} but\n{output}"
        rest = rest[found[0] + 1 :]


def _pattern(line: str) -> re.Pattern[str]:
    told = _SECONDS.sub("…│", line.strip())
    return re.compile(".*".join(map(re.escape, told.split("…"))))


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Each command, lines that end with a backslash joined, and the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((re.sub(r"\s+# .*$", "", line[2:]).strip(), []))
        elif line.strip() and found:
            found[-1][1].append(line)
    return found


def _output(command: str) -> tuple[int, str]:
    """Exit code and what was printed; ours in this process, which is quicker."""
    words = shlex.split(command)
    if words[0] == "robusteval" and not {"|", ">", "&&"} & set(words):
        with as_at_a_terminal():
            result = cli(*_expanded(words[1:]))
        return result.exit_code, result.output
    if words[0] == "make":
        command = shlex.join(["make", "-n", "-C", str(ROOT), *words[1:]])
    if words[0] == "pytest" and PLUGIN not in {p.value for p in entry_points(group="pytest11")}:
        command += f" -p {PLUGIN}"  # the checkout was installed before it had one
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {**os.environ, "PATH": path}
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
    )
    return ran.returncode, ran.stdout + ran.stderr


@contextmanager
def as_at_a_terminal() -> Iterator[None]:
    """In a pipe some commands print rows instead of tables."""
    with ExitStack() as patched:
        patched.enter_context(patch.object(terminal, "is_piped", lambda: False))
        patched.enter_context(patch.object(terminal.console, "_width", WIDTH))
        yield


def _expanded(words: list[str]) -> list[str]:
    """Patterns as a shell expands them: a run's folder has digits that no page can know."""
    found: list[str] = []
    for word in words:
        matches = sorted(map(str, Path().glob(word))) if re.search(r"[*?]", word) else []
        found += matches or [word]
    return found


def main() -> None:
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            print(f"{name}: {run_page(ROOT / 'docs' / f'{name}.md', Path(folder))} blocks run")


if __name__ == "__main__":
    main()
