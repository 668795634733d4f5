"""How far a run is where stderr is no terminal: plain lines, for a batch job's log."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from robusteval import inert
from robusteval.durations import duration_text

if TYPE_CHECKING:
    from robusteval.plan.plan import Cell
    from robusteval.run.progress import Standing

_QUIET = 60.0  # seconds without a line, at most
DOUBTS: list[str] = []  # that this verb has told: what it prints last repeats their heads alone


class Lines:
    """A line for each job that is done, and one a minute at least; none where nothing is to do.

    ``every``: seconds between two lines, at most; ``greets``: whether it says at once that it is at
    work, as people at a terminal expect.
    """

    def __init__(
        self,
        every: float = _QUIET,
        clock: Callable[[], float] = time.monotonic,
        greets: bool = False,
    ) -> None:
        self.every, self.clock, self.greets = every, clock, greets
        self.now: Standing | None = None
        self.title = self.at_work = ""
        self.over = False  # whether it was told that the budget is used up
        self.begun = self.last = clock()
        self.lock = threading.Lock()
        self.ended: threading.Event | None = None

    def open(self, title: str) -> None:
        """Begins to watch the time."""
        self.close()
        self.title, self.at_work, self.now, self.over = title, "", None, False
        self.begun = self.last = self.clock()
        if self.greets:
            self.greets = False
            self._say("at work")
        self.ended = threading.Event()
        threading.Thread(target=self._watch, args=(self.ended,), daemon=True).start()

    def close(self) -> None:
        """Is silent from now on."""
        if self.ended is not None:
            self.ended.set()
            self.ended = None

    def doubt(self, told: str) -> None:
        """In our name, as every complaint."""
        DOUBTS.append(told)
        self._say(f"robusteval: {told}", "")

    def start(self, cell: "Cell", samples: int) -> None:
        """Its jobs tell."""

    def within(self, cell: "Cell", done: float) -> None:
        """Its jobs tell."""

    def advance(self, cell: "Cell", done: int, robust: int, of: int) -> None:
        """Its jobs tell."""

    def finish(self, cell: "Cell", status: str) -> None:
        """Its jobs tell."""

    def part(self, name: str, done: float, of: float) -> None:
        """What is at work where no job is."""
        self.at_work = "" if of and done >= of else name

    def job(self, name: str, found: str) -> None:
        """A line for each."""
        self._say(f"{self._done()}: {name}: {found}; {self._times()}")

    def standing(self, now: "Standing") -> None:
        """Is told with the next line; at once, what is done already of a run that goes on."""
        if self.now is None and (told := now.resumed_text()):
            self._say(told)
        self.now = now
        if now.budget is not None and now.seconds > now.budget and not self.over:
            self.over = True
            self._say(
                f"the budget of {duration_text(now.budget)} is used up: what was planned goes on; "
                f"{self._times()}"
            )

    def tick(self) -> None:
        """Once in a while: a line, where the last one is too old."""
        if self.clock() - self.last >= self.every:
            self._say(f"{self._done()}: at work on {self._work()}; {self._times()}")

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(max(self.every - (self.clock() - self.last), 0.05)):
            self.tick()

    def _done(self) -> str:
        return f"{self.now.done} of {self.now.jobs} jobs done" if self.now else "nothing done yet"

    def _work(self) -> str:
        running = self.now.running if self.now else ()
        return " and ".join(running) or self.at_work or "the start"

    def _times(self) -> str:
        so_far = f"{duration_text(self.clock() - self.begun)} so far"
        left = self.now.left if self.now else None
        return so_far if left is None else f"{so_far}, about {duration_text(left)} left"

    def _say(self, line: str, title: str | None = None) -> None:
        title = self.title if title is None else title
        with self.lock, suppress(OSError, ValueError):
            self.last = self.clock()
            print(inert.line(f"{title}: {line}" if title else line), file=sys.stderr, flush=True)
