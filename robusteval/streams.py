"""Standard streams that never stop the program, and the words of libraries in one line each."""

import io
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from robusteval import inert

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LONGEST_LINE = 500  # of a traceback


def settle() -> None:
    """Makes stdout and stderr take every text, and what others print there inert.

    A closed descriptor is opened on nothing, so that no file of ours takes its number.
    """
    for descriptor in range(3):
        _require_open(descriptor)
    sys.stdout = _tolerant(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _tolerant(sys.stderr, sys.__stderr__, 2)
    warnings.formatwarning = _warning
    if logging.lastResort is not None:  # what no one has given a handler
        logging.lastResort.setFormatter(_OneLine())
    sys.excepthook = _crash


def _require_open(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


class _Outlived(io.FileIO):
    """Output whose reader may leave, as ``head`` does: the rest goes nowhere."""

    borne: type[OSError] = BrokenPipeError

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except self.borne:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            return super().write(content)


class _Unheard(_Outlived):
    """Complaints that may not arrive, on a full disk say: no word is left to say so."""

    borne = OSError


def _tolerant(stream: Any, original: Any, descriptor: int) -> TextIO:
    """The stream over its descriptor again; one that someone has put in its place stays."""
    if stream is None:  # it was closed
        return Path(os.devnull).open("w", encoding="utf-8")
    if stream is not original:
        return stream  # type: ignore[no-any-return]
    stream.flush()
    kind = _Unheard if descriptor == 2 else _Outlived
    return io.TextIOWrapper(
        io.BufferedWriter(kind(descriptor, "w", closefd=False)),
        stream.encoding,
        inert.NEAREST,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def one_line(message: object) -> str:
    """A message on stderr, in our name."""
    return f"robusteval: {inert.line(message)}"


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    return one_line(f"{category.__name__}: {message} ({filename}:{lineno})") + "\n"


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


def _crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of ours, line by line."""
    for part in traceback.format_exception(kind, error, trace):
        for line in part.splitlines():
            print(inert.line(line, _LONGEST_LINE), file=sys.stderr)
