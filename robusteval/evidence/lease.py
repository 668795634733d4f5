"""A lock for places that have none: the claim to the run as a whole, in a folder of its own.

Whoever finds it taken waits until its holder gives a sign of life, or is gone.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from robusteval.errors import RobustevalError
from robusteval.evidence.claims import Claims
from robusteval.evidence.files import Files

_LOG = logging.getLogger("robusteval")
FOLDER, _RUN = "lock", "run"


@dataclass(frozen=True)
class Times:
    """Seconds: ``lease``, after which a silent holder is gone; ``beat``, between two signs of life;
    ``look``, between two looks at another's."""

    lease: float = 60.0
    beat: float = 10.0
    look: float = 2.0


@contextmanager
def leased(
    files: Files,
    busy: RobustevalError,
    times: Times,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """One process at a time is within it.  Raises ``busy`` where another shows that it is alive."""
    mine = _Lock(files, times.lease, times.beat, clock, look=0.0, folder=FOLDER).arrive()
    try:
        mine.wait(busy, times.look, sleep)
        yield
    finally:
        mine.leave()


class _Lock(Claims):
    """The lock of one process."""

    is_lost = False

    def wait(self, busy: RobustevalError, pause: float, sleep: Callable[[float], None]) -> None:
        """Until this process has it."""
        self.look()
        if self.numbers:
            told = "%s: looking for up to %.0f s whether another process is still at work there"
            _LOG.warning(told, self.files.where(), self.lease)
        while not self.take(_RUN):
            if self.has_signed(self.holder(_RUN)):
                raise busy
            sleep(pause)
            self.look()

    def sign(self) -> None:
        """And tells once where another one took this process for gone."""
        super().sign()
        with suppress(RobustevalError):  # the next one may get through
            number = self.held.get(_RUN, math.inf)
            if not self.is_lost and self.listed()[0].get(_RUN, 0) > number:
                self.is_lost = True
                _LOG.warning(
                    "%s: another process took this run over, since this one had been silent: both "
                    "go on, what they find is the same",
                    self.files.where(),
                )
