"""Processes that try alterations one by one, and may crash or hang."""

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.forgery.leaves import Alteration
from benchmarks.forgery.trial import Bench, Outcome, last_lines, try_out

COMPUTING, WAITING = 60, 60  # more seconds for one alteration are a hang
MEMORY = 12 << 30


def try_all(
    bench: Bench,
    alterations: Sequence[Alteration],
    workers: int,
    tell: Callable[[Alteration, Outcome], None],
) -> list[Outcome]:
    """Every alteration in a process that may crash or hang, of which ``workers`` run at once."""
    outcomes: list[Outcome | None] = [None] * len(alterations)
    waiting = list(range(len(alterations)))[::-1]
    helpers = [Helper(bench, alterations, number) for number in range(workers)]
    while waiting or any(h.busy_with is not None for h in helpers):
        for helper in helpers:
            if helper.busy_with is None and waiting:
                helper.begin(waiting.pop())
            if (found := helper.look()) is not None:
                outcomes[found[0]] = found[1]
                tell(alterations[found[0]], found[1])
    for helper in helpers:
        helper.stop()
    return [o for o in outcomes if o is not None]


class Helper:
    """A process that tries alterations one by one; begun anew where one ends it."""

    def __init__(self, bench: Bench, alterations: Sequence[Alteration], number: int) -> None:
        self.bench, self.alterations = bench, alterations
        self.folder = bench.work / f"copies{number}"
        self.busy_with: int | None = None
        self.since = self.computed = 0.0
        self._start()

    def _start(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # alterations are closures
        given = (self.bench, self.alterations, self.folder, theirs, self.connection)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, number: int) -> None:
        self.busy_with, self.since, self.computed = number, time.monotonic(), self._computed()
        self.connection.send(number)

    def look(self) -> tuple[int, Outcome] | None:
        """The outcome of what it is at, if there is one yet."""
        if (number := self.busy_with) is None:
            return None
        try:
            if self.connection.poll(0.02):
                outcome = self.connection.recv()
            elif not (told := self._hangs()):
                return None
            else:
                outcome = Outcome("hang", told)
        except (EOFError, OSError):
            outcome = Outcome("crash", "the process ended")
        if outcome.verdict in ("hang", "crash"):
            self.stop()
            self._start()
        self.busy_with = None
        return number, outcome

    def _computed(self) -> float:
        """Seconds of a processor that it has had; 0 where the process is gone."""
        try:
            fields = (
                Path(f"/proc/{self.process.pid}/stat")
                .read_text(encoding="utf-8")
                .rpartition(")")[2]
                .split()
            )
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _hangs(self) -> str:
        """Whether it computes without an end, or waits for something: by its own seconds, since
        others may keep the machine busy."""
        computed, passed = self._computed() - self.computed, time.monotonic() - self.since
        if computed > COMPUTING:
            return f"computes for more than {COMPUTING} s"
        return f"waits for more than {WAITING} s" if passed > WAITING + 20 * computed else ""

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(
    bench: Bench,
    alterations: Sequence[Alteration],
    folder: Path,
    connection: Connection,
    parents: Connection,
) -> None:
    parents.close()  # so that the parent's end is the end
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            alteration = alterations[connection.recv()]
        except EOFError:
            return
        try:
            outcome = try_out(bench, alteration, folder)
        except Exception:  # noqa: BLE001  # whatever it is, it is told
            outcome = Outcome("traceback", last_lines())
        connection.send(outcome)
