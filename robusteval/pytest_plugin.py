"""Robustness as a test: ``@pytest.mark.robusteval(…)`` and the fixture ``robusteval_report``.

For example:

    @pytest.mark.robusteval(
        model="pcl_digits", suite="quick", samples=100, norm="Linf", eps=0.15, at_least=0.35
    )
    def test_model_is_robust(robusteval_report):
        assert robusteval_report.complete

Keywords are those of ``robusteval.evaluate``, and these:

``model``     a name, a path, a model, or a function or class that gives one, called when the first
              test needs it; without it the fixture ``robusteval_model`` gives one
``norm``, ``eps``
              one threat model; without ``eps`` the data set's own, of which ``norm`` names those
              that count
``at_least``  the least robust accuracy, from 0 to 1, under each threat model that counts.  It is
              compared with what was found, not with an end of its interval, which the message shows

Functions for ``images`` and ``labels`` are called, too.  Marks of a module and a class hold for
their tests, whose own come first.  A test fails, too, where an attack has no number, where stored
images don't hold, and where a finding says that numbers can't be trusted.

A run is made once in a session, and kept in ``--robusteval-out`` (by default in pytest's cache):
one that was finished is read, one that was interrupted goes on.  Of several workers that ask for
the same run one makes it, and the others wait.
"""

import functools
import hashlib
import inspect
import math
import os
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from robusteval.catalogue import near_names
from robusteval.errors import BusyError, RobustevalError, ThreatError, shown
from robusteval.report.wording import (
    check_text,
    count,
    incomplete_text,
    interval,
    percent,
    threat_text,
)
from robusteval.storage import locked, require_writable
from robusteval.types import NORMS, ThreatModel, parse_eps, parse_float

if TYPE_CHECKING:
    from robusteval.api import Report

MARK, FIXTURE, MODEL = "robusteval", "robusteval_report", "robusteval_model"
_PAUSE = 0.2  # seconds between two looks at a run that another process makes
_CALLED = ("model", "images", "labels")  # what a function may give
_ADVICE = "choose another with --robusteval-out"


@dataclass(frozen=True)
class Asked:
    """What a test's marks ask for: keywords of ``evaluate``, and what must be found."""

    keywords: Mapping[str, Any]
    norm: str | None
    at_least: float | None


@dataclass(frozen=True)
class Found:
    """What a run of this session found; ``model`` is kept so that no other gets its id."""

    model: Any
    report: "Report"


_REPORTS = pytest.StashKey[dict[tuple[Any, ...], Found]]()
_MARKED = pytest.StashKey[tuple[Asked, "Report"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("robusteval").addoption(
        "--robusteval-out",
        metavar="DIR",
        help="Where runs of marked tests are kept; by default in pytest's cache.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARK}(model, suite, samples, norm, eps, at_least, …): the test needs this robust "
        "accuracy of a model; the other keywords are those of robusteval.evaluate.",
    )
    config.stash[_REPORTS] = {}


# While tests are collected: nothing is loaded


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Marks that can't be meant are told before any test runs."""
    found = yield
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, pytest.Function):
            try:
                asked_by(item)
            except RobustevalError as error:
                raise collector.CollectError(f"{item.nodeid}: {error}") from None
    return found


def pytest_itemcollected(item: pytest.Item) -> None:
    """A marked test has the fixture whether it names it or not."""
    if isinstance(item, pytest.Function) and item.get_closest_marker(MARK):
        item.fixturenames += [FIXTURE] if FIXTURE not in item.fixturenames else []


def asked_by(item: pytest.Item) -> Asked | None:
    """What a test's marks ask for, a module's and a class's among them; None without a mark.

    Raises RobustevalError for what can't be meant.
    """
    marks = list(item.iter_markers(MARK))
    if any(mark.args for mark in marks):
        raise RobustevalError(f"the mark {MARK} takes keywords, such as model=…")
    given = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    if "out" in given:
        raise RobustevalError("out is for the whole session: give pytest --robusteval-out DIR")
    norm, eps = given.pop("norm", None), given.pop("eps", None)
    at_least = _share(given.pop("at_least", None))
    if norm is not None and norm not in NORMS:
        raise ThreatError(f"norm = {shown(norm)}: {near_names(str(norm), NORMS)}")
    if eps is not None:
        norm = norm or NORMS[0]
        given["eps"] = f"{norm}:{ThreatModel(norm, parse_eps(eps)).eps}"
    return Asked(given, norm, at_least) if marks else None


def _share(at_least: Any) -> float | None:
    if at_least is None:
        return None
    try:
        share = parse_float(at_least)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RobustevalError(f"at_least = {shown(at_least)}: give a share from 0 to 1, say 0.35")
    return share


# While a test is set up: the run is made, or read


@pytest.fixture
def robusteval_model() -> Any:
    """The model of marks that name none: to be defined where they stand."""
    _refuse(f"the mark {MARK} names no model: give model=…, or define a fixture {MODEL}")


@pytest.fixture
def robusteval_report(request: pytest.FixtureRequest) -> "Report | None":
    """What ``robusteval.evaluate`` returns of the run that the test's mark asks for."""
    report, refused = None, ""
    try:
        if (asked := asked_by(request.node)) is not None:
            report = _report(request, asked)
            request.node.stash[_MARKED] = asked, report
        elif FIXTURE in inspect.signature(request.function).parameters:
            refused = f"{FIXTURE} needs a mark: @pytest.mark.{MARK}(model=…)"
    except RobustevalError as error:
        refused = str(error)
    if refused:
        _refuse(refused)
    return report  # None where another case of the same function is marked


def _refuse(told: str) -> NoReturn:
    pytest.fail(f"robusteval: {told}", pytrace=False)


def _report(request: pytest.FixtureRequest, asked: Asked) -> "Report":
    """The run's report, made once in a session."""
    keywords = dict(asked.keywords)
    model = keywords.pop("model") if "model" in keywords else request.getfixturevalue(MODEL)
    reports = request.config.stash[_REPORTS]
    key = (_same(model), *((name, _same(value)) for name, value in sorted(keywords.items())))
    if key not in reports:
        out = _folder(request)
        with _alone(out, model, keywords):
            reports[key] = Found((model, keywords), _evaluated(model, keywords, out))
    return reports[key].report


def _same(value: Any) -> Any:
    """What is equal for the same value: text and numbers by themselves, all else by identity."""
    if isinstance(value, list | tuple):
        return tuple(map(_same, value))
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)
    return id(value)


def _evaluated(model: Any, keywords: Mapping[str, Any], out: Path) -> "Report":
    import robusteval

    given = {name: _made(value) if name in _CALLED else value for name, value in keywords.items()}
    model = _made(model)
    while True:
        try:
            return robusteval.evaluate(model, **given, out=out)
        except BusyError:  # asked for in other words by another process
            time.sleep(_PAUSE)


def _made(value: Any) -> Any:
    """What a function or a class gives; a module, which can be called as well, is itself meant."""
    is_maker = inspect.isroutine(value) or isinstance(value, type | functools.partial)
    return value() if is_maker else value


def _folder(request: pytest.FixtureRequest) -> Path:
    """Where runs are kept, the same for all workers."""
    config = request.config
    if given := config.getoption("robusteval_out"):
        folder: Path = config.invocation_params.dir / given
    elif cache := getattr(config, "cache", None):
        folder = Path(cache.mkdir(MARK))
    else:  # pytest is to keep nothing
        own = request.getfixturevalue("tmp_path_factory").getbasetemp()
        folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / MARK
    require_writable(folder, _ADVICE)
    return folder


def _alone(out: Path, model: Any, keywords: Mapping[str, Any]) -> Any:
    """Within it no other process makes a run that is asked for in the same words.

    A run's own lock comes too late: what it is called may hang on what this machine is timed at.
    """
    words = {"model": model, **keywords}
    told = repr(sorted((name, _described(value)) for name, value in words.items()))
    name = f".{hashlib.sha256(told.encode()).hexdigest()[:16]}.lock"
    busy = BusyError(f"another process is at work in {out}")
    return locked(out / name, busy, make=True, patience=math.inf)


def _described(value: Any) -> str:
    """The same in each process: what stands in the source, or else its kind."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}.{name}"
    plain = value is None or isinstance(value, str | int | float | Path | list | tuple)
    return repr(value) if plain else type(value).__qualname__


# While a test is called: what was found is looked at first


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fails a marked test whose model is not as robust as it must be."""
    if (marked := item.stash.get(_MARKED, None)) is None:
        return
    asked, report = marked
    counted = [w for w in report.content["worst_case"] if asked.norm in (None, w["threat"]["norm"])]
    for worst in counted:
        item.user_properties.append((f"robusteval {threat_text(worst['threat'])}", _told(worst)))
    item.user_properties.append(("robusteval report", str(report.page)))
    if problems := list(_problems(asked, report, counted)):
        pytest.fail("\n".join([*problems, f"report: {report.page}"]), pytrace=False)
    for finding in report.content["findings"]:
        about = finding["threat"] is None or asked.norm in (None, finding["threat"]["norm"])
        if about and finding["verdict"] == "suspicious":
            told = f"{check_text(finding)}: {finding['measured']}: robustness may be overestimated"
            item.warn(pytest.PytestWarning(f"robusteval: {told}"))


def _problems(asked: Asked, report: "Report", counted: list[dict[str, Any]]) -> Iterable[str]:
    content = report.content
    least = None if asked.at_least is None else f"{100 * asked.at_least:g} %"
    for worst in counted:
        rate, threat = worst["at_most"], threat_text(worst["threat"])
        if asked.at_least is not None and rate["value"] < asked.at_least:
            yield f"robust accuracy under {threat} is {_told(worst)}, less than {least}"
        elif not worst["complete"]:
            yield f"robust accuracy under {threat} is unknown: {_told(worst)}"
    if not counted:
        yield f"no attack of this suite ran in {asked.norm or 'any norm'}"
    if not report.complete:
        yield f"the run is incomplete: {incomplete_text(content['missing'])}"
    elif not report.proven:
        yield "the run is not proven: stored images don't hold when predicted again"
    for finding in content["findings"]:
        if finding["verdict"] == "broken":
            yield f"numbers can't be trusted: {check_text(finding)}: {finding['measured']}"


def _told(worst: dict[str, Any]) -> str:
    """Such as 31.2 % [24.5, 38.9] (50/160)."""
    rate = worst["at_most"]
    bound = "" if worst["complete"] else "at most "
    return " ".join(
        [f"{bound}{percent(rate)}", *filter(None, [interval(rate)]), f"({count(rate)})"]
    )
