"""Robustness as a test: ``@pytest.mark.robusteval(…)`` and the fixture ``robusteval_report``.

For example:

    @pytest.mark.robusteval(
        model="pcl_digits", suite="quick", samples=100, norm="Linf", eps=0.15, at_least=0.35
    )
    def test_model_is_robust(robusteval_report):
        assert robusteval_report.complete

Keywords are those of ``robusteval.evaluate``, and these:

``norm``      which threat models count; without it all that ran
``eps``       as in ``evaluate``, or a single one in ``norm``; without it the data set's own
``at_least``  the least robust accuracy, from 0 to 1, under each threat model that counts

``model``, ``images`` and ``labels`` may be functions, classes or fixtures that give them;
``images`` may give a pair of both.  A model that no mark names comes from a fixture
``robusteval_model``, images from one ``robusteval_data``, if they are defined.  Marks of a module
and of a class hold for their tests, whose own come first.

``at_least`` is compared with what was found on the run's samples.  They are the same each time, so
no test passes today and fails tomorrow by chance.  Other samples could give another answer where
the interval holds ``at_least``: then the samples are too few to tell, and the failure's message or
a ``TooFewSamplesWarning`` says so (``-W error::robusteval.pytest_plugin.TooFewSamplesWarning`` lets
the test fail).  Either way the number is an upper bound: stronger attacks may leave less.

A test fails, too, where an attack has no number, where stored images don't hold, and where a
finding says that numbers can't be trusted.

A run is made once, and kept in ``--robusteval-out``, a folder or a store's URL (by default in
pytest's cache): one that was finished is read, one that was interrupted goes on.  Of several
workers that ask for the same run one makes it, and the others wait.
"""

import functools
import hashlib
import inspect
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robusteval.errors import BusyError, EvidenceError, OutputError, RobustevalError, reason
from robusteval.inert import line
from robusteval.pytest_marks import (
    MARK,
    Asked,
    asked_by,
    counted,
    problems,
    suspicions,
    told_of,
    undecided,
)
from robusteval.report.wording import threat_text

if TYPE_CHECKING:
    from robusteval.api import Report
    from robusteval.places import Place

FIXTURE = "robusteval_report"
_PAUSE = 0.2  # seconds between two looks at a run that another process makes
_GIVEN = ("model", "images", "labels")  # what functions and fixtures may give
_ADVICE = "name another with --robusteval-out"
_PROPERTY = f"{MARK} "  # with which a test's properties begin


class TooFewSamplesWarning(pytest.PytestWarning):
    """A test passed that other samples may have failed."""


class SuspiciousWarning(pytest.PytestWarning):
    """A finding by which robustness may be overestimated."""


@dataclass(frozen=True)
class Found:
    """What a run of this session found; ``given`` is kept so that nothing else gets its ids."""

    given: Any
    report: "Report"


_REPORTS = pytest.StashKey[dict[tuple[Any, ...], Found]]()
_MARKED = pytest.StashKey[tuple[Asked, "Report"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup(MARK).addoption(
        "--robusteval-out",
        metavar="DIR|URL",
        help="Where runs of tests marked with robusteval are kept; by default in pytest's cache.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARK}(model, suite, samples, norm, eps, at_least, …): the test needs a model to have "
        "this robust accuracy; the other keywords are those of robusteval.evaluate.",
    )
    config.stash[_REPORTS] = {}


# While tests are collected: nothing is loaded


def pytest_itemcollected(item: pytest.Item) -> None:
    """A marked test has the fixture whether it names it or not."""
    if isinstance(item, pytest.Function) and item.get_closest_marker(MARK):
        # A list of its own: cases of the same function share one, and may not be marked.
        item.fixturenames = list(dict.fromkeys([*item.fixturenames, FIXTURE]))


# While a test is set up: the run is made, or read


@pytest.fixture
def robusteval_model() -> Any:
    """The model of marks that name none: to be defined anew where they stand."""


@pytest.fixture
def robusteval_data() -> Any:
    """The images of marks that name none, as for evaluate: to be defined anew where they stand."""


@pytest.fixture
def robusteval_report(
    request: pytest.FixtureRequest, robusteval_model: Any, robusteval_data: Any
) -> "Report":
    """What ``robusteval.evaluate`` returns of the run that the test's mark asks for."""
    try:
        if (asked := asked_by(request.node)) is None:
            raise RobustevalError(f"{FIXTURE} needs a mark: @pytest.mark.{MARK}(model=…)")
        keywords = _keywords(request, asked, robusteval_model, robusteval_data)
        report = _report(request, keywords)
    except RobustevalError as error:
        refused = str(error)
    else:
        request.node.stash[_MARKED] = asked, report
        return report
    pytest.fail(f"robusteval: {refused}", pytrace=False)  # out here, so that no error is shown


def _keywords(
    request: pytest.FixtureRequest, asked: Asked, model: Any, data: Any
) -> dict[str, Any]:
    """Those of ``evaluate``, with what fixtures give.  Raises RobustevalError without a model."""
    keywords = {"model": model, **asked.keywords}
    if data is not None and not {"data", "images"} & set(keywords):
        keywords["data" if isinstance(data, str | Path) else "images"] = data
    for name in _GIVEN:
        if (fixture := _fixture_name(keywords.get(name))) is not None:
            keywords[name] = request.getfixturevalue(fixture)
    if keywords["model"] is None:
        raise RobustevalError(
            f"the mark {MARK} names no model: give model=…, or define a fixture robusteval_model"
        )
    return keywords


def _fixture_name(value: Any) -> str | None:
    """What a fixture is asked for by, if it is one; pytest before 8.4 marks a function."""
    for name in ("_fixture_function_marker", "_pytestfixturefunction"):
        if (marker := getattr(value, name, None)) is not None:
            return str(marker.name or value.__name__)
    return None


def _report(request: pytest.FixtureRequest, keywords: dict[str, Any]) -> "Report":
    """The run's report, made once in a session."""
    reports = request.config.stash[_REPORTS]
    key = tuple((name, _same(value)) for name, value in sorted(keywords.items()))
    if key not in reports:
        out = _place(request)
        locks = out if isinstance(out, Path) else _own_folder(request)
        try:
            with _alone(locks, keywords), _share_of_threads(request.config):
                reports[key] = Found(keywords, _evaluated(keywords, out))
        except (EvidenceError, OutputError) as error:
            mend = "in tests: --robusteval-out or --cache-clear"
            raise RobustevalError(f"{error} ({mend})") from None
    return reports[key].report


def _same(value: Any) -> Any:
    """What is equal for the same value: text and numbers by themselves, all else by identity, and
    modules, which may be trained between two tests, by what they hold as well."""
    if isinstance(value, list | tuple):
        return tuple(map(_same, value))
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)
    return id(value), _state(value) if "torch" in sys.modules else ""


def _state(value: Any) -> Any:
    from torch import nn

    from robusteval.evidence.judge import state_digest

    try:
        return state_digest(value) if isinstance(value, nn.Module) else ""
    except (RuntimeError, ValueError):  # tensors without values: evaluate says it
        return object()


def _evaluated(keywords: Mapping[str, Any], out: "Place") -> "Report":
    import robusteval

    given = {name: _made(value) if name in _GIVEN else value for name, value in keywords.items()}
    images = given.get("images")
    if isinstance(images, tuple) and len(images) == 2 and given.get("labels") is None:
        given["images"], given["labels"] = images
    while True:
        try:
            return robusteval.evaluate(**given, out=out)
        except BusyError:  # asked for in other words by another process
            time.sleep(_PAUSE)


def _made(value: Any) -> Any:
    """What a function or a class gives; a module, which can be called as well, is itself meant."""
    is_maker = inspect.isroutine(value) or isinstance(value, type | functools.partial)
    return value() if is_maker else value


def _place(request: pytest.FixtureRequest) -> "Place":
    """Where runs are kept, the same for all workers.  Raises OutputError."""
    from robusteval.places import named_place
    from robusteval.storage import require_writable

    config = request.config
    place: Place
    if given := config.getoption("robusteval_out"):
        place = named_place(given, "--robusteval-out", OutputError)
        place = config.invocation_params.dir / place if isinstance(place, Path) else place
    elif cache := getattr(config, "cache", None):
        try:
            place = Path(cache.mkdir(MARK))
        except OSError as error:
            told = f"pytest's cache can't be written ({reason(error)})"
            raise OutputError(f"{told}: name a folder with --robusteval-out") from None
    else:  # pytest is to keep nothing
        place = _own_folder(request)
    if isinstance(place, Path):
        require_writable(place, _ADVICE)
    return place


def _own_folder(request: pytest.FixtureRequest) -> Path:
    """One of this session's, the same for all workers."""
    own: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    return (own.parent if hasattr(request.config, "workerinput") else own) / MARK


def _alone(folder: Path, keywords: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Within it no other process makes a run that is asked for in the same words.

    A run's own lock comes too late: what the run is called hangs on what this machine is timed at.
    """
    from robusteval.storage import locked

    told = repr(sorted((name, _described(value)) for name, value in keywords.items()))
    name = f".{hashlib.sha256(told.encode('utf-8', 'replace')).hexdigest()[:16]}.lock"
    folder.mkdir(parents=True, exist_ok=True)
    busy = BusyError(f"another process is at work in {folder}")
    return locked(folder / name, busy, make=True, patience=math.inf)


def _described(value: Any) -> Any:
    """The same in each process: what stands in the source, or else its kind."""
    if isinstance(value, list | tuple):
        return [_described(one) for one in value]
    if (name := getattr(value, "__qualname__", None)) is not None:
        return f"{value.__module__}.{name}"
    is_plain = value is None or isinstance(value, str | int | float | Path)
    return str(value) if is_plain else type(value).__qualname__


@contextmanager
def _share_of_threads(config: pytest.Config) -> Iterator[None]:
    """Workers share the cores: where each took all of them, each would be many times slower."""
    import torch

    from robusteval.hardware import cores

    before = torch.get_num_threads()
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    torch.set_num_threads(min(before, max(1, cores() // workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


# While a test is called: what was found is looked at first


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fails a marked test whose model is not as robust as it must be."""
    if (marked := item.stash.get(_MARKED, None)) is None:
        return
    asked, report = marked
    item.user_properties += _properties(asked, report)
    if failed := list(problems(asked, report)):
        pytest.fail("\n".join(map(line, [*failed, f"report: {report.page}"])), pytrace=False)
    for told in undecided(asked, report):
        item.warn(TooFewSamplesWarning(line(f"robusteval: {told}")))
    for told in suspicions(asked, report):
        item.warn(SuspiciousWarning(line(f"robusteval: {told}")))


def _properties(asked: Asked, report: "Report") -> Iterator[tuple[str, str]]:
    """What a test's report keeps, in JUnit's XML as well."""
    model, suite = (report.content[kind]["name"] for kind in ("model", "suite"))
    yield f"{_PROPERTY}run", line(f"{model} under {suite}")
    for case in counted(asked, report):
        yield f"{_PROPERTY}{threat_text(case['threat'])}", told_of(case)
    yield f"{_PROPERTY}report", line(report.page)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """What was found, a line for each run, also where all tests passed."""
    every = (report for reports in terminalreporter.stats.values() for report in reports)
    called = [report for report in every if getattr(report, "when", None) == "call"]
    lines = _summary(report.user_properties for report in called)
    if lines and terminalreporter.verbosity >= 0:
        terminalreporter.section(MARK)
        for told in lines:
            terminalreporter.line(told)


def _summary(tests: Iterable[list[tuple[str, Any]]]) -> list[str]:
    """Such as "pcl_digits under quick: L∞ 0.15 31.2 % [24.5, 38.9] (50/160): runs/…"."""
    runs: dict[tuple[str, str], dict[str, str]] = {}
    for properties in tests:
        own = {n.removeprefix(_PROPERTY): told for n, told in properties if n.startswith(_PROPERTY)}
        if own:
            runs.setdefault((own.pop("run"), own.pop("report")), {}).update(own)
    return [
        f"{run}: {', '.join(f'{threat} {told}' for threat, told in found.items())}: {page}"
        for (run, page), found in runs.items()
    ]
