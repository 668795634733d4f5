"""How far attacks and trainings are, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from robusteval import inert
from robusteval.consoles import error_console

if TYPE_CHECKING:
    from robusteval.api import Options, Report
    from robusteval.models.entry import Entry
    from robusteval.plan.plan import Cell
    from robusteval.training.loop import EpochLog


class AttackBars:
    """One progress bar per attack, with a running robust accuracy and the time left."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def doubt(self, told: str) -> None:
        """A line of its own, above the bars."""
        self.bars.console.print(f"robusteval: {told}", style="yellow", soft_wrap=True)

    def start(self, cell: "Cell", samples: int) -> None:
        """A new bar."""
        self.bars.start()
        threats = ", ".join(t.title for t in cell.threats)
        name = inert.line(f"{cell.spec.title} {threats}")
        self.tasks[cell.key] = self.bars.add_task(name, total=samples, robust="")

    def within(self, cell: "Cell", done: float) -> None:
        """Some passes were made."""
        self.bars.update(self.tasks[cell.key], completed=done)

    def advance(self, cell: "Cell", done: int, robust: int, of: int) -> None:
        """A chunk is done."""
        self.bars.update(
            self.tasks[cell.key], completed=done, robust=f"{100 * robust / of:.1f} % robust"
        )

    def finish(self, cell: "Cell", status: str) -> None:
        """The attack is done, failed, or out of time."""
        if status != "done":
            said = status.replace("_", " ")
            self.bars.update(self.tasks[cell.key], robust=f"[yellow]{said}[/yellow]")


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[robust]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=error_console,
    )


@contextmanager
def attack_progress() -> Iterator[AttackBars]:
    """Bars on stderr while a run goes on; without any, not even an empty line."""
    bars = _bars()
    try:
        yield AttackBars(bars)
    finally:
        if bars.live.is_started:
            bars.stop()


def evaluate_watched(model: str, suite: str, options: "Options") -> "Report":
    """``api.evaluate`` with a bar for each attack."""
    from robusteval import api

    with attack_progress() as progress:
        return api.evaluate(model, suite, options=replace(options, progress=progress))


@contextmanager
def epoch_progress(
    entry: "Entry",
) -> Iterator[tuple[Callable[["EpochLog"], None], Callable[[int, int, float], None]]]:
    """A bar per epoch, and a line of loss and accuracy after each."""
    total = entry.training.total_epochs if entry.training else 0
    bars = _bars()
    task = bars.add_task(inert.line(f"{entry.name} epoch"), total=1, robust="")
    try:

        def progress(step: int, steps: int, loss: float) -> None:
            bars.start()
            bars.update(task, completed=step, total=steps, robust=f"loss {loss:.3f}")

        def on_epoch(line: "EpochLog") -> None:
            kept = line.validation_robust
            robust = "" if kept is None else f" ({100 * kept:.2f} % under PGD)"
            bars.console.print(
                f"epoch {line.epoch}/{total}: loss {line.loss:.4f}, "
                f"train {100 * line.train_accuracy:.2f} %, "
                f"validation {100 * line.validation_accuracy:.2f} %{robust}, {line.seconds:.1f} s"
            )
            bars.reset(task, robust="")

        yield on_epoch, progress
    finally:
        bars.remove_task(task)  # its lines have been printed
        if bars.live.is_started:
            bars.stop()
