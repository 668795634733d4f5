"""How far runs and trainings are, in a terminal, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from robusteval import inert
from robusteval.consoles import error_console
from robusteval.durations import duration_text
from robusteval.lines import DOUBTS

if TYPE_CHECKING:
    from robusteval.models.entry import Entry
    from robusteval.plan.plan import Cell
    from robusteval.run.progress import Standing
    from robusteval.training.loop import EpochLog


_ROOMY, _NARROW = 80, 60  # columns of a terminal: for all that is told, and for a bar at all


class Bars:
    """A bar for each part of a run that is at work, one for the whole run, and a line for each
    attack that is done.

    What is done leaves the bars, so that they fit into a terminal of any height; at the end none
    stays behind.
    """

    def __init__(self) -> None:
        self.bars = _bars(_columns(error_console.width), transient=True)
        self.parts: dict[str, TaskID] = {}
        self.cells: dict[str, TaskID] = {}
        self.whole: TaskID | None = None
        self.title = ""

    def open(self, title: str) -> None:
        """Shows that something is at work, before anybody knows how much there is."""
        self.close()
        self.title = title
        self.part(title, 0, 0)
        self.bars.start()

    def close(self) -> None:
        """Leaves a clean line."""
        for task in list(self.bars.task_ids):
            self.bars.remove_task(task)
        self.parts, self.cells, self.whole = {}, {}, None
        if self.bars.live.is_started:
            self.bars.stop()

    def doubt(self, told: str) -> None:
        """A line of its own, above the bars."""
        DOUBTS.append(told)
        self._say(f"robusteval: {told}", "yellow")

    def start(self, cell: "Cell", samples: int) -> None:
        """A new bar."""
        self._forget(self.title)
        self.cells[cell.key] = self.bars.add_task(_title(cell), total=samples, told="")

    def within(self, cell: "Cell", done: float) -> None:
        """Some passes were made."""
        self._update(cell, completed=done)

    def advance(self, cell: "Cell", done: int, robust: int, of: int) -> None:
        """A chunk is done."""
        self._update(cell, completed=done, told=f"{100 * robust / max(of, 1):.1f} % robust")

    def finish(self, cell: "Cell", status: str) -> None:
        """The attack is done, failed, or out of time: its bar gives way to a line."""
        if (task := self.cells.pop(cell.key, None)) is None:
            return
        (told,) = (one.fields["told"] for one in self.bars.tasks if one.id == task)
        told = told if status == "done" else status.replace("_", " ")
        self.bars.remove_task(task)
        self._say(f"{_title(cell)}: {told}", "" if status == "done" else "yellow")

    def part(self, name: str, done: float, of: float) -> None:
        """A bar, or a sign of life where nobody knows how much there is."""
        if of and done >= of:
            self._forget(name)
            return
        if name != self.title:
            self._forget(self.title)
        if name not in self.parts:
            self.parts[name] = self.bars.add_task(name, total=None, told="")
        self.bars.update(self.parts[name], completed=done, total=of or None)

    def job(self, name: str, found: str) -> None:
        """Its bar tells it."""

    def standing(self, now: "Standing") -> None:
        """The bar of the whole run; above it, what is done already of one that goes on."""
        if self.whole is None:
            if told := now.resumed_text():
                self._say(f"{self.title}: {told}", "")
            self.whole = self.bars.add_task("whole run", total=now.jobs, told="")
        told = "" if now.left is None else f"about {duration_text(now.left)} left"
        if now.budget is not None and now.seconds > now.budget:
            told = f"over its budget; {told}".rstrip("; ")
        self.bars.update(self.whole, completed=now.done, total=now.jobs, told=told)

    def _update(self, cell: "Cell", **changed: Any) -> None:
        """Not after its end: where a chunk fails, others of its attack may still be at work."""
        if cell.key in self.cells:
            self.bars.update(self.cells[cell.key], **changed)

    def _forget(self, name: str) -> None:
        if name in self.parts:
            self.bars.remove_task(self.parts.pop(name))

    def _say(self, line: str, style: str) -> None:
        self.bars.console.print(line, style=style or None, soft_wrap=True)


def _title(cell: "Cell") -> str:
    return inert.line(f"{cell.spec.title} {', '.join(t.title for t in cell.threats)}")


class _Count(ProgressColumn):
    """Such as 120/360; nothing where nobody knows how much there is."""

    def render(self, task: Task) -> Text:
        known = "" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}"
        return Text(known, no_wrap=True)


class _Left(TimeRemainingColumn):
    """The time left; nothing for a run as a whole, which tells its own."""

    def render(self, task: Task) -> Text:
        return Text("") if task.description == "whole run" else super().render(task)


def _columns(width: int) -> list[ProgressColumn]:
    """What fits into a line of a terminal that wide."""
    one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    sign = SpinnerColumn("line", finished_text=" ")
    name = TextColumn("{task.description}", markup=False, table_column=one_line)
    told = TextColumn("{task.fields[told]}", markup=False, table_column=Column(no_wrap=True))
    if width < _NARROW:
        return [sign, name, told] if width < _NARROW - 10 else [sign, name, _Count(), told]
    bar = BarColumn(bar_width=24 if width >= _ROOMY else 8)
    left = [_Left(compact=True, elapsed_when_finished=True)] if width >= _ROOMY else []
    return [sign, name, bar, _Count(), told, *left]


def _bars(columns: list[ProgressColumn], transient: bool = False) -> Progress:
    return Progress(
        *columns, console=error_console, transient=transient, expand=True, refresh_per_second=5
    )


@contextmanager
def epoch_progress(
    entry: "Entry",
) -> Iterator[tuple[Callable[["EpochLog"], None], Callable[[int, int, float], None]]]:
    """A bar per epoch, and a line of loss and accuracy after each."""
    total = entry.training.total_epochs if entry.training else 0
    bars = _bars(_columns(error_console.width))
    task = bars.add_task(inert.line(f"{entry.name} epoch"), total=1, told="")
    try:

        def progress(step: int, steps: int, loss: float) -> None:
            bars.start()
            bars.update(task, completed=step, total=steps, told=f"loss {loss:.3f}")

        def on_epoch(line: "EpochLog") -> None:
            kept = line.validation_robust
            robust = "" if kept is None else f" ({100 * kept:.2f} % under PGD)"
            bars.console.print(
                f"epoch {line.epoch}/{total}: loss {line.loss:.4f}, "
                f"train {100 * line.train_accuracy:.2f} %, "
                f"validation {100 * line.validation_accuracy:.2f} %{robust}, {line.seconds:.1f} s"
            )
            bars.reset(task, told="")

        yield on_epoch, progress
    finally:
        bars.remove_task(task)  # its lines have been printed
        if bars.live.is_started:
            bars.stop()
