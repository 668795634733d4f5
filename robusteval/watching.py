"""What a verb shows on stderr while it is at work, and before torch is loaded."""

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Protocol

from robusteval.lines import Lines
from robusteval.places import Place

if TYPE_CHECKING:
    from robusteval.api import Estimate, Options, Report
    from robusteval.plan.suite import Suite
    from robusteval.run.progress import Watcher

    class Display(Watcher, Protocol):
        """A watcher that people see: ``open`` begins to show what is at work, ``close`` ends it."""

        def open(self, title: str) -> None: ...

        def close(self) -> None: ...


P = ParamSpec("P")
_DUMB = ("dumb", "unknown")  # terminals without cursor control
_shown: "list[Display]" = []


def is_live() -> bool:
    """Whether bars can be drawn: stderr is a terminal that moves its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in _DUMB


@contextmanager
def shown(title: str) -> "Iterator[Display]":
    """Within it, people see what is at work; one within another takes its place."""
    display = _shown[-1] if _shown else _display()
    _shown[:] = [display]
    display.open(title)
    try:
        yield display
    finally:
        _shown.clear()
        display.close()


def _display() -> "Display":
    if is_live():
        from robusteval.bars import Bars

        return Bars()
    return Lines(greets=sys.stderr.isatty())


def watched(title: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """A verb that shows a sign of life at once: what it loads takes seconds."""

    def decorate(verb: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(verb)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            with shown(title):
                verb(*args, **kwargs)

        return run

    return decorate


def title_of(model: str) -> str:
    """What a model's lines begin with: its name, which the file of its entry has, too."""
    return Path(model).stem if model.endswith(".toml") else model


def evaluate(model: str, suite: "str | Suite", options: "Options") -> "Report":
    """``api.evaluate``, watched."""
    from robusteval import api

    with shown(title_of(model)) as display:
        return api.evaluate(model, suite, options=replace(options, progress=display))


def estimate(model: str, suite: str, options: "Options") -> "Estimate":
    """``api.estimate``, with a sign of life."""
    from robusteval import api

    with shown(title_of(model)):
        return api.estimate(model, suite, options=options)


def estimates(model: str, runs: "Iterable[tuple[Suite, Options]]") -> "Iterator[Estimate]":
    """``api.estimates``, with a sign of life."""
    from robusteval import api

    with shown(title_of(model)):
        yield from api.estimates(model, runs)


def begin(model: str, suite: str, options: "Options") -> Place:
    """``sharing.begin``, watched."""
    from robusteval import sharing

    with shown(title_of(model)) as display:
        return sharing.begin(model, suite, replace(options, progress=display))
