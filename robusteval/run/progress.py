"""Who watches a run: how far each attack is."""

import logging
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
