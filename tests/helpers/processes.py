"""The command line in a process of its own, forked from this one: what is imported stays so."""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, NoReturn

from robusteval.__main__ import main
from robusteval.vision import torchvision

# What a run imports, so that it is imported once.
HEAVY = (
    *("robusteval.api", "matplotlib.figure", "pyarrow.parquet"),
    *("scipy.stats", "sklearn.datasets", "torchattacks"),
)


@dataclass(frozen=True)
class Started:
    """A process that may still be at work."""

    pid: int
    out: IO[bytes]
    err: IO[bytes]

    def told(self) -> tuple[str, str]:
        """What it has printed so far, on stdout and on stderr."""
        files = (self.out, self.err)
        texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in files]
        return texts[0].decode("utf-8"), texts[1].decode("utf-8")

    def ended(self) -> "subprocess.CompletedProcess[str]":
        """Waits for its end."""
        _, status = os.waitpid(self.pid, 0)
        found = subprocess.CompletedProcess("robusteval", os.waitstatus_to_exitcode(status))
        found.stdout, found.stderr = self.told()
        self.out.close()
        self.err.close()
        return found

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.ended()


def forked(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What ``robusteval`` with these arguments returns and prints."""
    return started(*arguments, **environment).ended()


def started(*arguments: str, **environment: str) -> Started:
    """``robusteval`` with these arguments, begun."""
    torchvision()
    for name in HEAVY:
        importlib.import_module(name)
    out, err = map(tempfile.TemporaryFile, ("w+b", "w+b"))
    pid = os.fork()
    if pid == 0:
        _within(arguments, environment, out.fileno(), err.fileno())
    return Started(pid, out, err)


def _within(arguments: Sequence[str], environment: dict[str, str], out: int, err: int) -> NoReturn:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        os.environ.update(environment)
        sys.argv = ["robusteval", *arguments]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
