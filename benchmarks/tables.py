"""The tables of README.md and CONTRIBUTING.md, from entries, leaderboards and ``results/``.

    python -m benchmarks.tables [--check]

Each stands between two marks, ``<!-- name -->`` and ``<!-- /name -->``, and is written anew;
``--check`` writes nothing, and exits 1 where a document says something else.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import ablation, attacks, stored
from robusteval.boards import board
from robusteval.data.known import DATASETS
from robusteval.models.entry import Claim, Entry
from robusteval.models.registry import all_entries, find_entry
from robusteval.plan.suite import read_suite
from robusteval.report.rows import ATTACK, DOUBTS, Row
from robusteval.report.samples import columns
from robusteval.report.wording import threat_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SMALL = "digits"  # its models are too many for the README, and listed by `robusteval list models`
SHOWN = "pcl_cifar10"  # in full at the head of the README
Measured = TypeVar("Measured", attacks.Result, ablation.Result)
NAMED = 5  # more models than these are counted only


def models() -> Iterator[str]:
    """Every entry with its clean accuracy; those of the smallest data set in one line."""
    yield "| model | method | training | data | clean, whole test split | weights |"
    yield "|---|---|---|---|---:|---:|"
    for entry in entries():
        if entry.dataset == SMALL:
            continue
        clean, size = "–", "untrained"
        if entry.trained:
            told = entry.trained
            clean = f"{100 * told.clean_accuracy:.2f} % ({told.clean_correct}/{told.clean_total})"
        if entry.weights:
            size = f"{entry.weights_path.stat().st_size / 1e6:.2f} MB"
        yield (
            f"| `{entry.name}` | {entry.method} | {_kind(entry)} | {entry.dataset} | {clean} | "
            f"{size} |"
        )
    small = [e.trained.clean_accuracy for e in entries() if e.dataset == SMALL and e.trained]
    yield ""
    yield (
        f"And {len(small)} on `{SMALL}`, every method and baseline with and without adversarial "
        f"training (TLA only with it), {100 * min(small):.2f} to {100 * max(small):.2f} % clean: "
        "`robusteval list models` has them all."
    )


def trainings() -> Iterator[str]:
    """How each entry is trained, and how long it took."""
    yield "| entry | command | epochs | time | on | clean |"
    yield "|---|---|---:|---:|---|---:|"
    for entry in entries():
        if entry.training is None:
            continue
        command = f"`robusteval train {entry.name}`"
        if (told := entry.trained) is None:
            epochs = entry.training.total_epochs
            yield f"| `{entry.name}` | {command} | {epochs} | – | – | – |"
            continue
        yield (
            f"| `{entry.name}` | {command} | {told.epochs} | {told.seconds / 60:.1f} min | "
            f"{told.hardware}, {told.precision} | {100 * told.clean_accuracy:.2f} % |"
        )


def found(folder: Path = ROOT / "leaderboards") -> Iterator[str]:
    """What was claimed and what is left, from every published leaderboard, firmest first.

    In rows where papers claim something, else in words.
    """
    read = {path: board.read_board(path) for path in sorted(folder.glob("*.csv"))}
    boards = {path: rows for path, rows in read.items() if rows}
    if not boards:
        yield "Nothing is published yet."
    promised = {path for path, rows in boards.items() if any(row["claimed"] for row in rows)}
    for path, rows in sorted(boards.items(), key=lambda one: one[0] not in promised):
        yield from _in_rows(path, rows) if path in promised else _in_words(path, rows)
        yield ""
        yield f"{_beside_autoattack(rows)}{_doubted(rows)}"
        yield ""


def _in_words(path: Path, rows: list[Row]) -> Iterator[str]:
    told = []
    for row in (rows[0], rows[-1]):
        low, high = row["worst_case_low"], row["worst_case_high"]
        told.append(f"{row['worst_case']} % [{low}, {high}] (`{row['model']}`)")
    head = f"`{path.name}`, {_counts(rows)} samples"
    if len(rows) == 1:
        yield f"{head}: one model, worst case {told[0]}."
    else:
        yield f"{head}: {len(rows)} models, worst cases from {told[0]} down to {told[1]}."


def _beside_autoattack(rows: list[Row]) -> str:
    """On how many models ``adaptive`` leaves fewer, as many and more; of the latter, by how many
    samples."""
    ours, theirs = f"{ATTACK}adaptive", f"{ATTACK}autoattack"
    gaps = {
        row["model"]: round(int(row["samples"]) * (float(row[ours]) - float(row[theirs])) / 100)
        for row in rows
    }
    fewer, more = sum(gap < 0 for gap in gaps.values()), {m: g for m, g in gaps.items() if g > 0}
    named = f" ({', '.join(f'`{model}` by {gap}' for model, gap in more.items())})" if more else ""
    return (
        f"`adaptive` leaves fewer samples than AutoAttack on {fewer} of them, as many on "
        f"{len(rows) - fewer - len(more)}, more on {len(more)}{named}."
    )


def _doubted(rows: list[Row]) -> str:
    """On how many models that keep something a check was not ok; empty for none."""
    models = [r["model"] for r in rows if float(r["worst_case"]) > 0 and r[DOUBTS]]
    if not models:
        return ""
    few = ", ".join(f"`{model}`" for model in models)
    told = few if len(models) <= NAMED else f"{len(models)} of them"
    return f" Since a check is suspicious, the worst cases of {told} are upper bounds."


def _in_rows(path: Path, rows: list[Row]) -> Iterator[str]:
    yield f"`{path.name}`, {_counts(rows)} samples:"
    yield ""
    yield "| model | training | clean | claimed | AutoAttack | adaptive | worst case |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for row in rows:
        low, high = row["worst_case_low"], row["worst_case_high"]
        yield (
            f"| `{row['model']}` | {row['training']} | {row['clean']} % | {_claim(row)} | "
            f"{_attack(row, 'autoattack')} | {_attack(row, 'adaptive')} | "
            f"**{row['worst_case']} %** [{low}, {high}] |"
        )


def numbers(folder: Path = ROOT / "leaderboards") -> Iterator[str]:
    """One model attack by attack: what its paper claims, and what its published row has left."""
    entry, suite = find_entry(SHOWN), read_suite("full")
    threat = DATASETS.get(entry.dataset).default_threat("Linf")
    path = folder / board.file_name(
        {"dataset": entry.dataset, "norm": threat.norm, "eps": threat.eps_text}
    )
    row = next((row for row in board.read_board(path) if row["model"] == SHOWN), None)
    if row is None:
        yield f"`{SHOWN}` is not published yet."
        return
    yield (
        f"`{SHOWN}`, suite `full` on {row['samples']} samples, {threat_text(row)}; "
        "95 % intervals in brackets:"
    )
    yield ""
    yield "| attack | claimed | left here |"
    yield "|---|---:|---:|"
    told = {"clean": "none"} | {f"{ATTACK}{spec.name}": spec.title for spec in suite.attacks}
    claims = {claim.attack: claim for claim in entry.claims}
    for column, title in told.items():
        if row.get(column):
            promised = _promised(claims.get(column.removeprefix(ATTACK)))
            yield f"| {title} | {promised} | {_left(row, column)} |"
    yield f"| **worst case** | | **{_left(row, 'worst_case')}** |"


def _promised(claim: Claim | None) -> str:
    if claim is None:
        return "–"
    return f"{claim.accuracy:g} %" + (f" (ε = {claim.eps})" if claim.eps else "")


def _left(row: Row, column: str) -> str:
    """A share of a row's samples, with its interval and count."""
    samples = int(row["samples"])
    return attacks.share(round(float(row[column]) / 100 * samples), samples)


def contest(file: str = "attacks.csv") -> Iterator[str]:
    """``adaptive`` beside the others, for models that are as they were then."""
    current = _current(file, attacks.Result)
    if not current:
        yield "Not yet run."
        return
    yield from attacks.contest(current)
    yield ""
    version = attacks.versions(current)
    yield f"By version {version} of `adaptive`, on {attacks.machines(current)}."


def parts() -> Iterator[str]:
    """What each part of ``adaptive`` is worth, on models that are as they were then."""
    current = _current("ablation.csv", ablation.Result)
    if not current:
        yield "Not yet run."
        return
    yield from ablation.table(current)
    yield ""
    versions = sorted({str(result.version) for result in current})
    yield f"By version {', '.join(versions)} of `adaptive`."


def _current(file: str, kind: type[Measured]) -> list[Measured]:
    """The results of a file whose models are trained as they were then."""
    weights = {entry.name: attacks.weights_of(entry) for entry in entries()}
    return [r for r in stored.read(RESULTS / file, kind) if weights.get(r.model) == r.weights]


def _claim(row: Row) -> str:
    return f"{row['claimed']} % ({row['claimed_by']})" if row["claimed"] else "–"


def _counts(rows: list[Row]) -> str:
    counts = sorted({int(row["samples"]) for row in rows})
    return " or ".join(str(count) for count in counts)


def _attack(row: Row, name: str) -> str:
    value = row.get(f"attack_{name}")
    return f"{value} %" if value else "–"


def _kind(entry: Entry) -> str:
    return entry.training.kind if entry.training else "elsewhere"


def entries() -> list[Entry]:
    """Every entry of the registry that can be read, by name."""
    return [entry for entry in all_entries() if isinstance(entry, Entry)]


def samples() -> Iterator[str]:
    """The columns of per-sample results."""
    yield "| column | kind | |"
    yield "|---|---|---|"
    for column in columns():
        name = column.name.replace("<", "&lt;")
        yield f"| {name} | {column.kind_text} | {column.about} |"


TABLES = {
    "README.md": {
        "samples": samples,
        "numbers": numbers,
        "models": models,
        "found": found,
        "contest": contest,
        "contest of two classes": partial(contest, "attacks_cifar10_2.csv"),
        "contest on an accelerator": partial(contest, "attacks_h100.csv"),
    },
    "CONTRIBUTING.md": {"trainings": trainings, "ablation": parts},
}


def written_anew(text: str, name: str, lines: list[str]) -> str:
    """A document with the lines between the two marks replaced."""
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    start, end = text.index(first) + len(first), text.index(last)
    return text[:start] + "".join(line + "\n" for line in lines) + text[end:]


def main(root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if not equal")
    check, stale = parser.parse_args().check, []
    for document, tables in TABLES.items():
        before = after = (root / document).read_text("utf-8")
        for name, make in tables.items():
            after = written_anew(after, name, list(make()))
        if after != before:
            stale.append(document)
            if not check:
                (root / document).write_text(after, "utf-8")
    told = "don't say what entries, leaderboards and results say" if check else "written anew"
    print(f"{', '.join(stale)} {told}" if stale else "every table is as it should be")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
