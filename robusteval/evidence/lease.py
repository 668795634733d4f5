"""A lock for places that have none: an object that its holder rewrites again and again.

    lock/<n>.json    the n-th process that took the lock, and how often it said that it is alive

A process that is killed leaves its object as it was.  Whoever sees one unchanged for a whole lease,
by a clock of their own, takes number n + 1, which only one of them can create.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from robusteval.errors import OutputError, RobustevalError
from robusteval.evidence.files import Files

_LOG = logging.getLogger("robusteval")
FOLDER = "lock"
_ADVICE = "see to the store's permissions, then run the same command again"


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
    who = secrets.token_hex(8)
    held = _Held(files, who, _taken(files, who, busy, times, clock, sleep))
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(times.beat):
            if not held.beat():
                return

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        held.release()


class _Held:
    """The lock, as long as nobody with a higher number took this process for gone."""

    def __init__(self, files: Files, who: str, number: int) -> None:
        self.files, self.who, self.number, self.beats = files, who, number, 0

    def beat(self) -> bool:
        """One sign of life; False where the lock is another's by now."""
        self.beats += 1
        try:
            if _latest(self.files) > self.number:
                _LOG.warning(
                    "%s: another process took this run over, since this one had been silent: both "
                    "go on, what they find is the same",
                    self.files.where(),
                )
                return False
            self.files.write(_name(self.number), _sign(self.who, self.beats), _ADVICE)
        except RobustevalError:  # the next one may get through
            pass
        return True

    def release(self) -> None:
        """With what those left who are gone."""
        with suppress(RobustevalError):
            for number in _numbers(self.files):
                if number <= self.number:
                    self.files.remove(_name(number), _ADVICE)


def _taken(
    files: Files,
    who: str,
    busy: RobustevalError,
    times: Times,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> int:
    """The number under which this process has the lock."""
    said = False
    while True:
        number = _latest(files)
        if number and not said:
            said = True
            _LOG.warning(
                "%s: looking for up to %.0f s whether another process is still at work there",
                files.where(),
                times.lease,
            )
        if number and not _is_gone(files, number, busy, times, clock, sleep):
            continue  # it was released, or somebody took it over
        if files.create(_name(number + 1), _sign(who, 0), _ADVICE):
            return number + 1


def _is_gone(
    files: Files,
    number: int,
    busy: RobustevalError,
    times: Times,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> bool:
    """Whether the holder was silent for a whole lease; False where the lock went elsewhere.
    Raises ``busy`` for a sign of life."""
    before, since = _content(files, number), clock()
    while clock() - since < times.lease:
        sleep(times.look)
        if _latest(files) > number:
            raise busy
        now = _content(files, number)
        if now is None:
            return False
        if now != before:
            raise busy
    return True


def _content(files: Files, number: int) -> bytes | None:
    try:
        return files.read(_name(number))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(
            f"{files.where(_name(number))} can't be read ({error.strerror}): {_ADVICE}"
        ) from None


def _numbers(files: Files) -> list[int]:
    stems = (name.removesuffix(".json") for name in files.names(FOLDER))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal())


def _latest(files: Files) -> int:
    return max(_numbers(files), default=0)


def _name(number: int) -> str:
    return f"{FOLDER}/{number}.json"


def _sign(who: str, beats: int) -> bytes:
    return json.dumps({"who": who, "beats": beats}).encode()
