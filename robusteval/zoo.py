"""Several models under one suite, into one table: what ``robusteval run --model all`` does."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from robusteval import api, stops
from robusteval.errors import RobustevalError, UnknownNameError
from robusteval.models.entry import read_entry
from robusteval.models.registry import entry_paths
from robusteval.places import Place
from robusteval.report.files import write_table
from robusteval.report.rows import as_csv, rows_of


@dataclass(frozen=True)
class Refused:
    """A model that could not be run, and why."""

    name: str
    reason: str
    exit_code: int


Outcome = api.Report | Refused
T = TypeVar("T")


def is_several(models: Sequence[str]) -> bool:
    """Whether these name another number of models than one, or a pattern that may."""
    return len(models) != 1 or any(m == "all" or _is_pattern(m) for m in models)


def models_called(models: Sequence[str]) -> list[str]:
    """Names and paths as they are; "all" and patterns such as ``*_cifar10`` as the models of the
    registry that have weights, and those whose entry can't be read.  Each once, in order.

    Raises UnknownNameError for no name, a pattern that fits no model, or where none is trained.
    """
    if not models:
        raise UnknownNameError("no model is named: see `robusteval list models`")
    found: list[str] = []
    for model in models:
        pattern = "*" if model == "all" else model
        fits = [n for n in entry_paths() if fnmatchcase(n, pattern)]
        if _is_pattern(pattern) and not fits:
            raise UnknownNameError(f"no model fits {model!r}: see `robusteval list models`")
        found += [n for n in fits if _can_be_run(n)] if _is_pattern(pattern) else [model]
    if not found:
        raise UnknownNameError(
            f"{', '.join(models)}: none of these models is trained; see `robusteval list models`"
        )
    return list(dict.fromkeys(found))


def _is_pattern(model: str) -> bool:
    return any(sign in model for sign in "*?[") and not os.path.isfile(model)


def _can_be_run(name: str) -> bool:
    """False for an entry that was never trained; an unreadable one is refused later, aloud."""
    try:
        entry = read_entry(entry_paths()[name])
    except RobustevalError:
        return True
    return entry.stored is not None or entry.factory is not None


def evaluate(
    models: Sequence[str],
    suite: str = "full",
    options: api.Options = api.Options(),
    evaluate_one: Callable[[str, str, api.Options], api.Report] | None = None,
) -> list[Outcome]:
    """Runs a suite against each model; ``evaluate_one`` is ``api.evaluate``, or what watches it.

    The rest is as with ``for_each``.
    """
    each = evaluate_one or (lambda name, suite, options: api.evaluate(name, suite, options=options))
    done: list[str] = []

    def run(name: str, options: api.Options) -> api.Report:
        report = each(name, suite, options)
        done.append(name)
        return report

    with stops.saying(lambda: f"models finished before: {len(done)}" if done else ""):
        return for_each(models, options, run)


def for_each(
    models: Sequence[str], options: api.Options, act: Callable[[str, api.Options], T]
) -> list[T | Refused]:
    """What ``act`` gives of each model; one that can't be run doesn't hold up the others.

    ``models`` as ``models_called`` takes them.  Where a data set has fewer than
    ``options.samples``, all of it is used.
    """
    options = replace(options, at_most=True)
    found: list[T | Refused] = []
    for name in models_called(models):
        try:
            found.append(act(name, options))
        except RobustevalError as error:
            found.append(Refused(name, str(error), error.exit_code))
    return found


def write(reports: Sequence[api.Report], path: Place) -> None:
    """Every report's leaderboard rows in one CSV."""
    write_table(path, as_csv([row for report in reports for row in rows_of(report.content)]))
