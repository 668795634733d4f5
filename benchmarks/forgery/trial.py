"""One honest run, and what becomes of an altered copy of it."""

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from typer.testing import CliRunner, Result

from benchmarks.blocks import FGSM, PGD_3, PGD_L2_3
from benchmarks.forgery.differences import differing, reads_the_same
from benchmarks.forgery.families import copy_of
from benchmarks.forgery.fitting import fit
from benchmarks.forgery.leaves import RUN, Alteration, read_json
from benchmarks.forgery.rules import by_again, excepted, found_alike
from robusteval import api
from robusteval.cli import app, expand_lists
from robusteval.errors import RobustevalError
from robusteval.report import detection, page

ALL = 1000  # more jobs than there are
MODEL, SAMPLES, BATCH = "pcl_at_digits", 40, 20
SUITE = (
    """
name = "tampering"
description = "Every kind of attack and probe, in seconds."
[[attacks]]
name = "smallest"
title = "Smallest"
library = "robusteval"
attack = "smallest"
norms = ["Linf"]
parameters = { steps = 5 }
note = "knows no ε"
"""
    + FGSM
    + PGD_3
    + PGD_L2_3
    + """
[[attacks]]
name = "adaptive"
title = "Adaptive"
library = "robusteval"
attack = "adaptive"
norms = ["L2"]
parameters = { passes_per_sample = 30 }
[detection]
detectors = ["max_softmax", "nearest_prototype"]
natural = 0
attacks = ["pgd"]
[diagnostics]
samples = 4
"""
)


@dataclass(frozen=True)
class Outcome:
    """What became of one alteration.

    ``verdict``: refused (in one line), found (a check doesn't hold), again (found by ``--again``),
    excepted, the same (reads as it did), not altered (there is no such file), and what must not be:
    holds, traceback, crash, hang, lines (more than one), other numbers, blocked.
    """

    verdict: str
    told: str = ""

    @property
    def right(self) -> bool:
        return self.verdict in ("refused", "found", "again", "excepted", "the same", "not altered")


@dataclass
class Bench:
    """The honest run, and where copies of it are altered."""

    run: Path
    suite: Path
    work: Path
    record: Any = None
    content: dict[str, Any] = field(default_factory=dict)
    printed: str = ""

    def run_again(self, out: Path) -> list[str]:
        """The command that made the run, in another folder."""
        told = {"samples": SAMPLES, "batch-size": BATCH, "threads": 1, "out": out}
        options = [part for name, value in told.items() for part in (f"--{name}", str(value))]
        return ["run", "--model", MODEL, "--suite", str(self.suite), *options]


def honest_run(work: Path) -> Bench:
    """The run that all alterations begin with, made in a folder of its own."""
    suite = work / "tampering.toml"
    suite.write_text(SUITE, "utf-8")
    options = api.Options(samples=SAMPLES, batch_size=BATCH, threads=1, out=work / "honest")
    run = api.evaluate(MODEL, str(suite), options=options).folder
    bench = Bench(run, suite, work, read_json(run / RUN), read_json(run / "report.json"))
    copy = copy_of(run, work / "finished")
    bench.printed = _without_folder(cli(*bench.run_again(copy.parent)).stdout, copy)
    return bench


def _without_folder(text: str, folder: Path) -> str:
    return re.sub(r"\s+", " ", text.replace(str(folder.parent), "OUT"))


def cli(*arguments: str) -> Result:
    """The command line in this process; what it raises is in the result."""
    return CliRunner().invoke(app, expand_lists(list(arguments)))


@contextmanager
def remembered() -> Iterator[None]:
    """Most of a report's time goes to figures, intervals and templates, which are the same for the
    same numbers: within it they are made once."""
    known: dict[Any, Any] = {}

    def once(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        key = function.__name__, _key(given), _key(sorted(named.items()))
        if key not in known:
            known[key] = function(*given, **named)
        return known[key]

    with ExitStack() as stack:
        for module, names in REMEMBERED.items():
            for name in names:
                function = getattr(module, name)
                stack.enter_context(patch.object(module, name, partial(once, function)))
        yield


REMEMBERED = {
    page: (
        *("_environment", "accuracy_bars", "cost_curve", "distance_curve", "score_histograms"),
        *("separation_curves", "rejection_curves", "confidence_histogram"),
    ),
    detection: ("bootstrap_intervals",),
}


def _key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else repr(value)


# One alteration


def try_out(bench: Bench, alteration: Alteration, folder: Path) -> Outcome:
    """Alters a copy of the run in ``folder`` and looks whether that is found."""
    copy = copy_of(bench.run, folder)
    try:
        alteration.apply(copy)
        copy = fit(copy, bench.record) if alteration.fit else copy
    except Exception:  # noqa: BLE001  # ours, or pyarrow's: there is no such file
        return Outcome("not altered", traceback.format_exc().splitlines()[-1])
    if alteration.family == "report":
        return _report_altered(bench, alteration, copy)
    if not alteration.fit:
        return _damaged(bench, alteration, copy)
    return _forged(bench, alteration, copy)


def _forged(bench: Bench, alteration: Alteration, copy: Path) -> Outcome:
    """The report made anew, then ``verify``; ``--again`` where it alone can tell."""
    try:
        api.rebuild_report(copy)
    except RobustevalError:
        pass
    except Exception:  # noqa: BLE001
        return Outcome("traceback", f"report: {last_lines()}")
    if alteration.after is not None:
        alteration.after(copy)
    outcome = _verified(copy)
    return outcome if outcome.verdict != "holds" else _passed(bench, alteration, copy)


def _passed(bench: Bench, alteration: Alteration, copy: Path) -> Outcome:
    """What is to be said of an alteration that ``verify`` let pass."""
    if reason := excepted(alteration.place, alteration.how):
        return Outcome("excepted", reason)
    if reads_the_same(bench.run, copy):
        return Outcome("the same")
    seen = _seen(bench, copy)
    if by_again(alteration.place, alteration.how):
        again = _verified(copy, "--again", str(ALL))
        if again.verdict in ("found", "refused"):
            return Outcome("again", again.told)
        if again.verdict == "holds" and (reason := found_alike(alteration.place, alteration.how)):
            return Outcome("excepted", reason)
        return Outcome(again.verdict, f"with --again too; {seen} {again.told}".rstrip())
    return Outcome("holds", seen)


def _seen(bench: Bench, copy: Path) -> str:
    """Where the forged report says something else; its names and digests apart."""
    try:
        forged = read_json(copy / "report.json")
    except (OSError, ValueError):
        return ""
    places = [p for p in differing(bench.content, forged) if p not in ("run", "evidence.digest")]
    shown = ", ".join(places[:3]) + (", …" if len(places) > 3 else "")
    return f"the report differs in {shown}" if places else "the report says the same"


def _verified(folder: Path, *more: str) -> Outcome:
    result = cli("verify", str(folder), "--json", *more)
    if wrong := _misbehaved("verify", result):
        return wrong
    if result.exit_code == 2:
        return Outcome("refused", result.stderr.strip())
    if result.exit_code == 1:
        return Outcome("found", result.stderr.strip().partition("hold: ")[2])
    return Outcome("holds")


def _misbehaved(verb: str, result: Result) -> Outcome | None:
    """A traceback, or an error in more lines or fewer than one."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        frames = traceback.extract_tb(result.exception.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        error = result.exception
        return Outcome("traceback", f"{verb}: {type(error).__name__}: {error!s:.90} ({where})")
    lines = result.stderr.splitlines()
    ours = [line for line in lines if line.startswith("robusteval: ")]
    alone = len(lines) == 1 or verb == "run"  # whose progress comes before
    if result.exit_code in (1, 2) and not (alone and ours == lines[-1:]):
        return Outcome("lines", f"{verb}: {len(lines)} lines: {result.stderr[-90:]!r}")
    return None


def last_lines() -> str:
    lines = traceback.format_exc().splitlines()
    places = [line.strip() for line in lines if line.startswith("  File ")]
    return f"{lines[-1][:120]} ({places[-1].rpartition('/')[2]})"


def _damaged(bench: Bench, alteration: Alteration, copy: Path) -> Outcome:
    """No verb may raise; ``verify`` finds what reads otherwise; ``run`` tells the truth or none."""
    same = reads_the_same(bench.run, copy)
    outcome = _verified(copy)
    if outcome.verdict == "holds":
        outcome = Outcome("the same" if same else "holds", _seen(bench, copy))
    if not outcome.right:
        return outcome
    for verb in (("compare", str(bench.run), str(copy)), tuple(bench.run_again(copy.parent))):
        result = cli(*verb)
        if wrong := _misbehaved(verb[0], result):
            return wrong
        if verb[0] == "run" and result.exit_code == 0 and (other := _other_numbers(bench, copy)):
            return Outcome("other numbers", f"run: {other}")
    second = copy_of(bench.run, copy.parent)
    alteration.apply(second)
    return _misbehaved("report", cli("report", str(second))) or outcome


NUMBERS = ("clean", "attacks", "worst_case", "outliers", "attack_detection", "status", "samples")


def _other_numbers(bench: Bench, copy: Path) -> str:
    """Numbers of a finished run's report that are not the honest ones, times apart."""
    found = read_json(copy / "report.json") if (copy / "report.json").is_file() else bench.content
    places = [
        place
        for name in NUMBERS
        for place in differing(bench.content[name], found.get(name), name)
        if not place.endswith(".seconds")
    ]
    return ", ".join(places[:3])


def _report_altered(bench: Bench, alteration: Alteration, copy: Path) -> Outcome:
    """``run`` of a finished run: the true numbers, whatever report.json says."""
    result = cli(*bench.run_again(copy.parent))
    if wrong := _misbehaved("run", result):
        return wrong
    if result.exit_code == 2 and alteration.how == "a folder instead":
        return Outcome("refused")  # in one line, and what is there stays
    if result.exit_code != 0:
        return Outcome("blocked", f"exit {result.exit_code}: {result.stderr.strip()[:120]}")
    if bench.printed not in _without_folder(result.stdout, copy):
        return Outcome("other numbers", "run prints otherwise than it did")
    second = copy_of(bench.run, copy.parent)
    alteration.apply(second)
    options = api.Options(samples=SAMPLES, batch_size=BATCH, threads=1, out=second.parent)
    content = api.evaluate(MODEL, str(bench.suite), options=options).content
    places = list(differing(bench.content, content))
    return Outcome("other numbers", ", ".join(places[:3])) if places else Outcome("found")
