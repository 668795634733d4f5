"""How a verb ends where something goes wrong: one line on stderr, and the right exit code."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, ParamSpec

import typer
from typer.core import TyperGroup

from robusteval import inert, stops, streams
from robusteval.errors import RobustevalError, cut

EXIT_NOT_HELD = 1
EXIT_BAD_INPUT = 2
EXIT_INCOMPLETE = 3

P = ParamSpec("P")
# The parser's errors, whichever of its versions typer brings along.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


class OneLine(TyperGroup):
    """A group of verbs that tells a usage error in one line, as all other errors."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with one_line():
            return super().invoke(ctx)


@contextmanager
def one_line() -> Iterator[None]:
    """Within it, a usage error ends the program with its line and exit code 2."""
    try:
        yield
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no error: its text is the help
            raise
        ctx = getattr(error, "ctx", None)
        verb = ctx.command_path if ctx else "robusteval"
        said = cut(str(error.format_message()).rstrip("."), 300)  # type: ignore[attr-defined]
        complain(f"{said[:1].lower()}{said[1:]} (see `{verb} --help`)")
        raise typer.Exit(EXIT_BAD_INPUT) from None


def guarded(verb: Callable[P, None]) -> Callable[P, None]:
    """Turns what a user can meet into one clear line on stderr and the right exit code."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            verb(*args, **kwargs)
        except RobustevalError as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as stop:
            _interrupted(stop)
        except OSError as error:  # what no one foresaw, and output that doesn't arrive
            complain(_failed(error))
            _discard_output()
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except Exception as error:
            if (stopped := stops.behind(error)) is None:
                raise
            _interrupted(stopped)

    return run


def _interrupted(stop: KeyboardInterrupt) -> NoReturn:
    kept = stops.said(stop)
    complain("; ".join([f"interrupted: {kept[0]}", *kept[1:]]) if kept else "interrupted")
    raise typer.Exit(stops.exit_code(stop)) from None


def complain(message: str) -> None:
    """One line on stderr, if that can be written."""
    with suppress(OSError):
        print(streams.one_line(message), file=sys.stderr)


def say(text: object) -> None:
    """One line on stdout, whatever the text holds."""
    print(inert.line(text))


def note(text: object) -> None:
    """One line on stderr beside what is for machines, if that can be written."""
    with suppress(OSError):
        print(inert.line(text), file=sys.stderr)


def _failed(error: OSError) -> str:
    """What the system said; without a file's name it was said of output."""
    if error.filename is None:
        return f"output can't be written ({error.strerror or error}): free space, or redirect it"
    return f"{error.filename} can't be used ({error.strerror}): check the path and its permissions"


def _discard_output() -> None:
    """So that what is left of it isn't tried again at the end."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


@contextmanager
def delivered() -> Iterator[None]:
    """What is printed within this arrives; else one line says why not, and the exit code is 2."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        complain(_failed(error))
        _discard_output()
        sys.exit(EXIT_BAD_INPUT)


class Told(logging.Handler):
    """What was passed over, such as a broken entry: each once, in one line on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.told:
            self.told.add(message)
            complain(message)
