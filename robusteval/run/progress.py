"""Who watches a run: how far each attack is, each other part, and the whole."""

import logging
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from robusteval.plan.plan import Cell


@runtime_checkable
class Progress(Protocol):
    """Told how far a run is: ``within`` a chunk by its share done, and after each chunk.

    ``doubt`` is told, before attacks run, what makes all that follows doubtful.
    """

    def doubt(self, told: str) -> None: ...

    def start(self, cell: Cell, samples: int) -> None: ...

    def within(self, cell: Cell, done: float) -> None: ...

    def advance(self, cell: Cell, done: int, robust: int, of: int) -> None: ...

    def finish(self, cell: Cell, status: str) -> None: ...


@dataclass(frozen=True)
class Standing:
    """How far a whole run is.

    ``seconds``: since it was begun or went on; ``left``: about, or None while nobody can know;
    ``running``: names of jobs at work, the first of many; ``budget``: seconds that it was planned
    for, if any.
    """

    done: int
    jobs: int
    seconds: float
    left: float | None
    running: tuple[str, ...]
    budget: float | None = None

    def resumed_text(self) -> str:
        """Such as "3 of 15 jobs are done already", of a run that goes on; else nothing."""
        return f"{self.done} of {self.jobs} jobs are done already" if self.done else ""


@runtime_checkable
class Watcher(Progress, Protocol):
    """A ``Progress`` that is told more than of attacks.

    ``part``: a part of the run that is no attack; it is over when it is ``done``, and nobody knows
    how long it takes where ``of`` is 0.  ``job``: one is finished, and what it ``found``, in words.
    ``standing``: of the whole run, whenever that changes.
    """

    def part(self, name: str, done: float, of: float) -> None: ...

    def job(self, name: str, found: str) -> None: ...

    def standing(self, now: Standing) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def doubt(self, told: str) -> None:
        """Logs a warning, which goes to stderr unless the caller's logging says otherwise."""
        logging.getLogger("robusteval").warning(told)

    def start(self, cell: Cell, samples: int) -> None:
        """Does nothing."""

    def within(self, cell: Cell, done: float) -> None:
        """Does nothing."""

    def advance(self, cell: Cell, done: int, robust: int, of: int) -> None:
        """Does nothing."""

    def finish(self, cell: Cell, status: str) -> None:
        """Does nothing."""

    def part(self, name: str, done: float, of: float) -> None:
        """Does nothing."""

    def job(self, name: str, found: str) -> None:
        """Does nothing."""

    def standing(self, now: Standing) -> None:
        """Does nothing."""


class _OfAttacksAlone(Silent):
    """One that is told of attacks alone, as ``Progress`` was before it had more methods."""

    def __init__(self, progress: Progress) -> None:
        self.doubt = progress.doubt  # type: ignore[method-assign]
        self.start = progress.start  # type: ignore[method-assign]
        self.within = progress.within  # type: ignore[method-assign]
        self.advance = progress.advance  # type: ignore[method-assign]
        self.finish = progress.finish  # type: ignore[method-assign]


def watcher(progress: Progress) -> Watcher:
    """The same, where it can be told of all parts; else what leaves out those that it can't."""
    return progress if isinstance(progress, Watcher) else _OfAttacksAlone(progress)
