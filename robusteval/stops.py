"""Being told to stop, by Ctrl-C or by SIGTERM: both unwind in the same way."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, where a KeyboardInterrupt is Ctrl-C."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the signal's number, as a shell has it."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The stop behind an error: what was being loaded may have made another one of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def saying(kept: Callable[[], str]) -> Iterator[None]:
    """Where its body is stopped, ``kept`` says what is kept of the work: for the verb's last line.

    >>> try:
    ...     with saying(lambda: "2 of 9 jobs are done"):
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt as stop:
    ...     said(stop)
    ['2 of 9 jobs are done']
    """
    try:
        yield
    except BaseException as error:
        if (stop := behind(error)) is not None and (told := kept()):
            stop.add_note(told)
        raise


def said(stop: KeyboardInterrupt) -> list[str]:
    """What is kept of the work, the innermost first."""
    return list(getattr(stop, "__notes__", []))


@contextmanager
def heeded() -> Iterator[None]:
    """Within it SIGTERM raises; after it both signals end the process at once and in silence."""
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # else someone has us ignore it
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
