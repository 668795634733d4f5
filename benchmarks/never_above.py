"""What ``adaptive`` leaves today of every published row, beside AutoAttack and all attacks.

    python -m benchmarks.never_above [--board 'digits_*'] [--model 'ce_*']
                                     [--out benchmarks/results/never_above.csv] [--data-dir DIR]

Of each row of ``leaderboards/`` whose model is still the one that was published: ``adaptive``
alone, on the row's own samples and at its ε, with the budget that it has in ``full``.  What other
attacks left is read from the row; "all together" are all of the suite, an older ``adaptive`` among
them.  A result is stored as soon as it is known, and not measured again unless attack or model have
changed.

Holds where ``adaptive`` leaves no more samples than AutoAttack, and no more than all together.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from benchmarks import attacks, stored
from benchmarks.published import BOARDS
from robusteval.boards import board
from robusteval.errors import UnknownNameError
from robusteval.models.registry import find_entry
from robusteval.report.rows import ATTACK, Row
from robusteval.report.wording import threat_text
from robusteval.types import Norm, ThreatModel, parse_eps

OUT = Path(__file__).parent / "results" / "never_above.csv"
ATTACK_OF_FULL = f"{attacks.OURS}_1000"


@dataclass(frozen=True)
class Beside:
    """A published row, and what ``adaptive`` leaves of it today."""

    row: Row
    today: attacks.Result

    @property
    def autoattack(self) -> int | None:
        """How many samples AutoAttack left, if it ran."""
        left = self.row.get(f"{ATTACK}autoattack")
        return round(float(left) * int(self.row["samples"]) / 100) if left else None

    @property
    def together(self) -> int:
        """How many all attacks together left."""
        return int(self.row["robust_samples"])

    @property
    def wrong(self) -> str:
        """Whom ``adaptive`` is above, if it is."""
        others = {"AutoAttack": self.autoattack, "all together": self.together}
        below = [
            f"{n} by {k}" for k, n in others.items() if n is not None and n < self.today.robust
        ]
        place = f"{self.row['model']}, {threat_text(self.row)}"
        return f"{place}: {self.today.robust} left, {', '.join(below)}" if below else ""


def published(boards: Sequence[str], models: Sequence[str], folder: Path = BOARDS) -> list[Row]:
    """Rows of boards and models by patterns, whose model has weights still."""
    rows = [
        row
        for path in sorted(folder.glob("*.csv"))
        if any(fnmatch(path.stem, pattern) for pattern in boards)
        for row in board.read_board(path)
        if any(fnmatch(row["model"], pattern) for pattern in models)
    ]
    return [row for row in rows if _is_of_today(row)]


def _is_of_today(row: Row) -> bool:
    """Whether the model still has the weights that the row was made with."""
    try:
        weights = attacks.weights_of(find_entry(row["model"]))
    except UnknownNameError:
        return False
    return bool(weights) and weights == _weights(row)


def _weights(row: Row) -> str:
    """As ``attacks.weights_of`` tells them."""
    return attacks.start_of_digest(row["weights_sha256"])


def _place(row: Row) -> tuple[str, ...]:
    return row["model"], _weights(row), row["norm"], row["eps"], row["samples"]


def measured(row: Row, data_dir: Path | None) -> attacks.Result:
    """What ``adaptive`` leaves of a row's samples."""
    norm: Norm = "L2" if row["norm"] == "L2" else "Linf"
    threat = ThreatModel(norm, parse_eps(row["eps"]))
    return attacks.run(row["model"], ATTACK_OF_FULL, threat, int(row["samples"]), data_dir)


def beside(rows: Sequence[Row], results: Sequence[attacks.Result]) -> list[Beside]:
    """Rows that have been measured, with their results."""
    by_place = {r.place: r for r in results}
    return [Beside(row, by_place[_place(row)]) for row in rows if _place(row) in by_place]


def table(pairs: Sequence[Beside]) -> Iterator[str]:
    """A row for each board, and for all: on how many models ``adaptive`` leaves fewer samples, as
    many or more than the others; then each that it leaves more of than all together."""
    yield "| board | models | AutoAttack: fewer, as many, more | all together | left in sum |"
    yield "|---|---:|---:|---:|---|"
    boards: dict[tuple[str, ...], list[Beside]] = {}
    for pair in pairs:
        boards.setdefault((pair.row["dataset"], threat_text(pair.row)), []).append(pair)
    for (dataset, threat), own in boards.items():
        yield f"| {dataset}, {threat} | {_counts(own)} |"
    if len(boards) > 1:
        yield f"| all | {_counts(pairs)} |"
    if wrong := [p.wrong for p in pairs if p.wrong]:
        yield ""
        yield from (f"- {line}" for line in wrong)


def _counts(pairs: Sequence[Beside]) -> str:
    """The cells of a row of the table."""
    ran = [(p.today.robust, p.autoattack) for p in pairs if p.autoattack is not None]
    together = [(p.today.robust, p.together) for p in pairs]
    ours, theirs = sum(a for a, _ in together), sum(b for _, b in together)
    compared = f"{attacks.compared(ran)} | {attacks.compared(together)}"
    return f"{len(pairs)} | {compared} | {ours:,} of {theirs:,}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--board", nargs="+", default=["*"])
    parser.add_argument("--model", nargs="+", default=["*"])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args(argv)
    rows = published(asked.board, asked.model)
    results = [r for r in stored.read(asked.out, attacks.Result) if r.holds_today]
    done = {r.place for r in results}
    for row in rows:
        if _place(row) not in done:
            pair = Beside(row, measured(row, asked.data_dir))
            results.append(pair.today)
            stored.write(asked.out, results)
            told = f"{pair.today.robust} left, {pair.together} by all: {pair.wrong or 'holds'}"
            print(told, row["model"], threat_text(row), file=sys.stderr, flush=True)
    pairs = beside(rows, results)
    print(*table(pairs), sep="\n")
    return 1 if not pairs or any(p.wrong for p in pairs) else 0


if __name__ == "__main__":
    sys.exit(main())
