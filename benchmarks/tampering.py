"""One honest run, and every way to falsify it that we know of: does ``verify`` find each?

    python -m benchmarks.tampering [--limit N] [--seed 0] [--family named record ...] [--workers 1]

Each alteration changes one leaf, column, file or bit of a copy.  All digests and names are made to
fit it and the report is made anew, as a forger would; then ``verify`` looks, and where only doing
jobs again can tell (``BY_AGAIN``), ``verify --again`` of every job.  The families ``damage`` and
``report`` leave digests as they were, and try ``run``, ``report`` and ``compare`` besides.

Holds where every alteration is refused in one line or found not to hold, but for what ``EXCEPTED``
names with its reason: what only the machine or the user of the run can know.  ``--limit`` takes a
seeded choice of N from each family; all together take about an hour.
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
from typer.testing import CliRunner, Result

from benchmarks.forgeries import FAMILIES, RUN, copy_of, every
from benchmarks.forging import ABOUT, Alteration, fit, read_images, read_json
from robusteval import api
from robusteval.cli import app, expand_lists
from robusteval.errors import RobustevalError
from robusteval.report import page, summary

COMPUTING, WAITING = 60, 20  # more seconds for one alteration are a hang
MEMORY = 12 << 30
ALL = 1000  # more jobs than there are
MODEL, SAMPLES, BATCH = "pcl_at_digits", 40, 20
SUITE = """
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
[[attacks]]
name = "fgsm"
title = "FGSM"
library = "torchattacks"
attack = "FGSM"
norms = ["Linf"]
[[attacks]]
name = "pgd"
title = "PGD-3"
library = "torchattacks"
attack = "PGD"
norms = ["Linf"]
parameters = { steps = 3, random_start = true }
times_eps = { alpha = "1/2" }
[[attacks]]
name = "pgd_l2"
title = "PGD-L2-3"
library = "torchattacks"
attack = "PGDL2"
norms = ["L2"]
parameters = { steps = 3, random_start = true }
times_eps = { alpha = "1/2" }
[[attacks]]
name = "adaptive"
title = "Adaptive"
library = "robusteval"
attack = "adaptive"
norms = ["Linf", "L2"]
parameters = { passes_per_sample = 40 }
[detection]
detectors = ["max_softmax", "nearest_prototype"]
natural = 0
attacks = ["pgd"]
[diagnostics]
samples = 4
"""


@dataclass(frozen=True)
class Rule:
    """What may pass, by place and by how it was changed, and why."""

    place: str
    how: str
    reason: str

    def fits(self, alteration: Alteration) -> bool:
        return bool(
            re.fullmatch(self.place, alteration.place) and re.fullmatch(self.how, alteration.how)
        )


MACHINE = "only the machine of the run knows it: checked for form, printed as the run says"
CHOICE = "the user's own words or choice: an honest run with it gives the same evidence"
UNFINISHED = "a run that did not finish, and says so: no number stands in its place"
# What can't be proven.
EXCEPTED = (
    Rule(r"run\.json:provenance\.(commit|hardware|date|dirty)", "another", MACHINE),
    Rule(r"run\.json:provenance\.(commit|dirty)", "empty|null", "there was no git"),
    Rule(r"run\.json:provenance\.hardware", "HTML|a huge power", MACHINE),
    Rule(
        r"run\.json:provenance\.versions\."
        r"(python|pyautoattack|pytorch-ood|scikit-learn|numpy|pandas)",
        "another",
        MACHINE,
    ),
    Rule(r".*\.parquet#seconds", "another|less|much more|of another type", MACHINE),
    Rule("run", "(another torch|other attacks|another version), in spec and record", MACHINE),
    Rule("run", "more threads, in spec and record", MACHINE),
    Rule(r"run\.json:spec\.suite\.(name|description)", ".*", CHOICE),
    Rule(r"run\.json:spec\.suite\.attacks\.\d+\.(name|title|note)", ".*", CHOICE),
    Rule(r"run\.json:spec\.suite\.detection\.natural", "another|much more|deleted", CHOICE),
    Rule(r"run\.json:spec\.time_limit", "a number", CHOICE),
    Rule(r"run\.json:spec\.outlier_folders", "an item more", UNFINISHED),
    Rule(
        r"run\.json:spec\.(time_limit|outlier_folders|device|threads|keep|forms|sources)"
        r"|run\.json:spec\.suite\.(description|threats)"
        r"|run\.json:spec\.suite\.attacks\.\d+\.(restarts|parameters|times_eps|note)",
        "deleted",
        "left out, it is read as what it was",
    ),
    Rule(r"(attack|outliers|diagnostics).*\.parquet", "deleted", UNFINISHED),
    Rule(
        r"(attack|outliers|diagnostics).*\.failed\.json",
        "said .*failed|said not to have finished|(HTML|control characters) as its reason",
        UNFINISHED,
    ),
    Rule(r".*\.failed\.json", "beside its rows", "a kill may leave it there; rows are what counts"),
    Rule(
        r"attack-.*\[sha256\]",
        "reversed, (other success|failure)|.*, every row, none kept",
        "of an image that isn't stored: another machine's differs in last bits, and no number "
        "hangs on it",
    ),
    Rule(
        r"attack-.*\.safetensors",
        "a pixel by one level",
        "an image that is adversarial in the ball proves its row, whoever made it",
    ),
)
GRADED = r"(one|a little|much) (more|less)|zero|flipped|reversed|negative|another order"
UNKEPT = "other success|failure|every row, none kept"
TEXTS = "another|HTML|empty|very long|control characters|a huge power"
LISTS = "an item more|the last .*|reversed|empty"
AGAIN = "what an attack did not break, and what it spent, only doing it again can show"
SETTING = "another setting that this evidence would fit: only doing the jobs again can show"
# What ``--again`` alone can find, and must.
BY_AGAIN = (
    Rule(r"attack-.*\[.*\]", f"({GRADED}), ({UNKEPT})", AGAIN),
    Rule(r"attack-.*\[(forward|backward)_passes\]", f"({GRADED}), .*", AGAIN),
    Rule(r"attack-.*#told\.(notes|warnings)", LISTS, AGAIN),
    Rule(r"attack-.*#told\.(notes|warnings)\.\d+", TEXTS, AGAIN),
    Rule(r"attack-.*#told\.(lost|drifted)", "another|much more", AGAIN),
    Rule(
        r"diagnostics\.parquet#told\.(gradients|logits|passes|attack|wobble|growth|noise|square"
        r"|transfer)\..*",
        f"another|less|much more|{LISTS}",
        AGAIN,
    ),
    Rule(r"diagnostics\.parquet#told\.transfer", "null", AGAIN),
    Rule(r"run\.json:spec\.seed", "another|much more", SETTING),
    Rule(r"run\.json:spec\.transfer_source(\.\d)?", "another|empty", SETTING),
    Rule(r"run\.json:spec\.threats\.\d\.1", "another", SETTING),
    Rule(
        r"run\.json:spec\.suite\.attacks\.\d+\.(restarts|parameters|times_eps|attack)(\..*)?",
        ".*",
        SETTING,
    ),
    Rule("run", "successes hidden|one attack's successes hidden", AGAIN),
    Rule("run", "(margins of|another wrong class for) other successes.*", AGAIN),
    Rule("run", "a tenth of the passes|a million passes", AGAIN),
    Rule("run", "(notes|warnings) of the forger's|models that drift", AGAIN),
    Rule("run", "another seed|forms that are coarser|better diagnostics, .*", SETTING),
    Rule("attack-.* and attack-.*", ".* swapped", AGAIN),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one alteration.

    ``verdict``: refused (in one line), found (a check doesn't hold), again (found by ``--again``),
    excepted, and what must not be: holds, traceback, crash, hang, lines, other numbers, blocked.
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
    page: ("_environment", "accuracy_bars", "cost_curve", "distance_curve", "score_histograms"),
    summary: ("bootstrap_intervals",),
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
        return Outcome("traceback", f"report: {_last_lines()}")
    if alteration.after is not None:
        alteration.after(copy)
    outcome = _verified(copy)
    if outcome.verdict != "holds":
        return outcome
    if rule := next((r for r in EXCEPTED if r.fits(alteration)), None):
        return Outcome("excepted", rule.reason)
    seen = _seen(bench, copy)
    if any(rule.fits(alteration) for rule in BY_AGAIN):
        again = _verified(copy, "--again", str(ALL))
        return Outcome("again", again.told) if again.verdict == "found" else _with(again, seen)
    return Outcome("holds", seen)


def _with(outcome: Outcome, seen: str) -> Outcome:
    return Outcome(outcome.verdict, f"with --again too; {seen}{outcome.told}")


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
    ours = len(lines) == 1 and lines[0].startswith("robusteval: ")
    if result.exit_code in (1, 2) and not ours:
        return Outcome("lines", f"{verb}: {len(lines)} lines: {result.stderr[:90]!r}")
    return None


def _last_lines() -> str:
    lines = traceback.format_exc().splitlines()
    places = [line.strip() for line in lines if line.startswith("  File ")]
    return f"{lines[-1][:120]} ({places[-1].rpartition('/')[2]})"


def _damaged(bench: Bench, alteration: Alteration, copy: Path) -> Outcome:
    """No verb may raise; ``verify`` finds what reads otherwise; ``run`` tells the truth or none."""
    same = _reads_the_same(bench.run, copy)
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
    if result.exit_code != 0:
        return Outcome("blocked", f"exit {result.exit_code}: {result.stderr.strip()[:120]}")
    if _without_folder(result.stdout, copy) != bench.printed:
        return Outcome("other numbers", "run prints otherwise than it did")
    second = copy_of(bench.run, copy.parent)
    alteration.apply(second)
    options = api.Options(samples=SAMPLES, batch_size=BATCH, threads=1, out=second.parent)
    content = api.evaluate(MODEL, str(bench.suite), options=options).content
    places = list(differing(bench.content, content))
    return Outcome("other numbers", ", ".join(places[:3])) if places else Outcome("found")


# What differs


def differing(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """The places in which two tables differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            place = f"{at}.{key}" if at else str(key)
            if key in one and key in other:
                yield from differing(one[key], other[key], place)
            else:
                yield place
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differing(a, b, f"{at}.{number}")
    elif type(one) is not type(other) or one != other:
        yield at


def _reads_the_same(run: Path, copy: Path) -> bool:
    """Whether a copy holds the same, whatever its bytes, but for what can't be proven."""
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name == ".lock":
            continue
        name, other = path.relative_to(run), copy / path.relative_to(run)
        try:
            if not _same_file(path, other, str(name)):
                return False
        except Exception:  # noqa: BLE001  # can't be read
            return False
    return True


def _same_file(path: Path, other: Path, name: str) -> bool:
    if not other.is_file():
        return False
    if path.read_bytes() == other.read_bytes():
        return True
    if path.suffix == ".json":
        return _same_tables(read_json(path), read_json(other), f"{name}:")
    if path.suffix == ".safetensors":
        (a, about), (b, told) = read_images(path), read_images(other)
        arrays = a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)
        return arrays and about == told
    if path.suffix != ".parquet":
        return False
    a, b = (pq.read_table(p, memory_map=False) for p in (path, other))
    about, told = (json.loads(t.schema.metadata[ABOUT]) for t in (a, b))
    return bool(a.equals(b)) and _same_tables(about, told, f"{path.name}#")


def _same_tables(one: Any, other: Any, head: str) -> bool:
    changed = [
        Alteration("", f"{head}{place}", "another", Path.exists) for place in differing(one, other)
    ]
    return all(any(rule.fits(c) for rule in EXCEPTED) for c in changed)


# All of them


def try_all(
    bench: Bench, alterations: Sequence[Alteration], workers: int, tell: Callable[[int], None]
) -> list[Outcome]:
    """Every alteration in a process that may crash or hang, of which ``workers`` run at once."""
    outcomes: list[Outcome | None] = [None] * len(alterations)
    waiting = list(range(len(alterations)))[::-1]
    helpers = [Helper(bench, alterations, number) for number in range(workers)]
    while waiting or any(h.busy_with is not None for h in helpers):
        for helper in helpers:
            if helper.busy_with is None and waiting:
                helper.begin(waiting.pop())
            if (found := helper.look()) is not None:
                outcomes[found[0]] = found[1]
                tell(sum(o is not None for o in outcomes))
    for helper in helpers:
        helper.stop()
    return [o for o in outcomes if o is not None]


class Helper:
    """A process that tries alterations one by one; begun anew where one ends it."""

    def __init__(self, bench: Bench, alterations: Sequence[Alteration], number: int) -> None:
        self.bench, self.alterations = bench, alterations
        self.folder = bench.work / f"copies{number}"
        self.busy_with: int | None = None
        self.since = self.computed = 0.0
        self._start()

    def _start(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # alterations are closures
        given = (self.bench, self.alterations, self.folder, theirs)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, number: int) -> None:
        self.busy_with, self.since, self.computed = number, time.monotonic(), self._computed()
        self.connection.send(number)

    def look(self) -> tuple[int, Outcome] | None:
        """The outcome of what it is at, if there is one yet."""
        if (number := self.busy_with) is None:
            return None
        try:
            if self.connection.poll(0.02):
                outcome = self.connection.recv()
            elif not (told := self._hangs()):
                return None
            else:
                outcome = Outcome("hang", told)
        except (EOFError, OSError):
            outcome = Outcome("crash", "the process ended")
        if outcome.verdict in ("hang", "crash"):
            self.stop()
            self._start()
        self.busy_with = None
        return number, outcome

    def _computed(self) -> float:
        """Seconds of a processor that it has had; 0 where the process is gone."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _hangs(self) -> str:
        """Whether it computes without an end, or waits for something: by its own seconds, since
        others may keep the machine busy."""
        computed, passed = self._computed() - self.computed, time.monotonic() - self.since
        if computed > COMPUTING:
            return f"computes for more than {COMPUTING} s"
        return f"waits for more than {WAITING} s" if passed > WAITING + 20 * computed else ""

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(
    bench: Bench, alterations: Sequence[Alteration], folder: Path, connection: Connection
) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            alteration = alterations[connection.recv()]
        except EOFError:
            return
        try:
            outcome = try_out(bench, alteration, folder)
        except Exception:  # noqa: BLE001  # whatever it is, it is told
            outcome = Outcome("traceback", _last_lines())
        connection.send(outcome)


def promises(bench: Bench) -> list[str]:
    """What ``verify`` must say of an honest run, and doesn't."""
    plain, again = cli("verify", str(bench.run)), cli("verify", str(bench.run), "--again", str(ALL))
    wanted = {
        "an honest run holds": plain.exit_code == 0,
        "and with --again": again.exit_code == 0,
        'it prints what can\'t be proven "as the run says"': "as the run says" in plain.stdout,
        "without --again it says that failures were not looked at": plain.stdout != again.stdout
        and "--again" in plain.stdout,
    }
    return [promise for promise, kept in wanted.items() if not kept]


def show(alterations: Sequence[Alteration], outcomes: Sequence[Outcome], most: int) -> bool:
    """A row for each family, the exceptions with their reasons, and what is wrong; whether nothing
    is."""
    print("| family | tried | refused or found | by `--again` | can't be proven | wrong |")
    print("|---|---:|---:|---:|---:|---:|")
    pairs = list(zip(alterations, outcomes, strict=True))
    for family in dict.fromkeys(a.family for a in alterations):
        counts = Counter(o.verdict for a, o in pairs if a.family == family)
        tried = counts.total() - counts["not altered"]
        held = counts["refused"] + counts["found"] + counts["the same"]
        wrong = tried - held - counts["again"] - counts["excepted"]
        print(
            f"| {family} | {tried} | {held} | {counts['again']} | {counts['excepted']} | {wrong} |"
        )
    _show_exceptions(pairs)
    bad = [(a, o) for a, o in pairs if not o.right]
    _show_wrong(bad, most)
    return not bad


def _show_exceptions(pairs: Sequence[tuple[Alteration, Outcome]]) -> None:
    """Each reason, with what was changed and how."""
    reasons: dict[str, list[Alteration]] = {}
    for alteration, outcome in pairs:
        if outcome.verdict == "excepted":
            reasons.setdefault(outcome.told, []).append(alteration)
    for reason, members in reasons.items():
        print(f"\n{reason}:")
        for place, ways in _by_place(members).items():
            print(f"  {place}: {ways}")


def _show_wrong(bad: Sequence[tuple[Alteration, Outcome]], most: int) -> None:
    """Each kind of wrong, with one of what was seen."""
    kinds: dict[tuple[str, str], list[tuple[Alteration, Outcome]]] = {}
    for alteration, outcome in bad:
        kinds.setdefault((outcome.verdict, alteration.family), []).append((alteration, outcome))
    for (verdict, family), members in kinds.items():
        print(f"\n{verdict}, {family}: {len(members)}")
        seen = {_alike(a.place): o.told for a, o in members}
        for place, ways in [*_by_place([a for a, _ in members]).items()][:most]:
            print(f"  {place}: {ways} – {seen[place]}")


def _by_place(alterations: Sequence[Alteration]) -> dict[str, str]:
    """How each place was changed, with places that differ in numbers alone taken together."""
    found: dict[str, dict[str, None]] = {}
    for alteration in alterations:
        found.setdefault(_alike(alteration.place), {})[alteration.how] = None
    return {place: "; ".join(ways) for place, ways in found.items()}


def _alike(place: str) -> str:
    cell = re.sub(
        r"(attack|outliers|clean)-.*?(\.parquet|\.safetensors|\.failed)", r"\1-*\2", place
    )
    return re.sub(r"\b\d+\b", "N", cell)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="so many of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", nargs="+", default=[*FAMILIES], choices=[*FAMILIES])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", type=int, default=40, help="so many of each kind of wrong")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # processes are forked
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as work, remembered():
        bench = honest_run(Path(work))
        broken = promises(bench)
        alterations = every(bench.run, arguments.family, arguments.seed, arguments.limit)
        outcomes = try_all(bench, alterations, arguments.workers, partial(_tell, len(alterations)))
    print(f"{len(outcomes)} alterations in {time.monotonic() - started:.0f} s", file=sys.stderr)
    right = show(alterations, outcomes, arguments.show)
    for promise in broken:
        print(f"DOES NOT HOLD: {promise}")
    return 0 if right and not broken else 1


def _tell(total: int, done: int) -> None:
    if done % 100 == 0 or done == total:
        print(f"{done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
