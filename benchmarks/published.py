"""The documents' tables of published leaderboards: what papers claim, and what was found."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks import attacks
from robusteval.boards import board
from robusteval.data.known import DATASETS
from robusteval.models.entry_tables import Claim
from robusteval.models.registry import find_entry
from robusteval.plan.suite import read_suite
from robusteval.report.rows import ATTACK, DOUBTS, Row
from robusteval.report.wording import threat_text

BOARDS = Path(__file__).resolve().parent.parent / "leaderboards"
SHOWN = "pcl_cifar10"  # the model that is shown attack by attack
IN_README = "cifar10_Linf_8_255.csv"
NAMED = 5  # more models than these are counted only
WEAK = {"Linf": "pgd10", "L2": "pgd_l2"}  # what a paper would have stopped at


def found(folder: Path = BOARDS) -> Iterator[str]:
    """Every published leaderboard, highest worst case first; boards with claims come first."""
    read = {path: board.read_board(path) for path in sorted(folder.glob("*.csv"))}
    boards = {path: rows for path, rows in read.items() if rows}
    if not boards:
        yield "Nothing is published yet."
    promised = {path for path, rows in boards.items() if any(row["claimed"] for row in rows)}
    for path, rows in sorted(boards.items(), key=lambda one: one[0] not in promised):
        yield f"## {_head(rows[0])}"
        yield ""
        yield f"`{path.name}`, {_counts(rows)} samples for each model."
        yield ""
        yield from _table(rows, path in promised)
        yield ""
        yield from _sentences(rows)


def _head(row: Row) -> str:
    return f"{row['dataset']}, {threat_text(row)}"


def _table(rows: list[Row], is_claimed: bool) -> Iterator[str]:
    weak = WEAK[rows[0]["norm"]]
    heads = ["model", "training", "clean"] + ["claimed"] * is_claimed
    heads += [_titles()[weak], "AutoAttack", "`adaptive`", "`smallest`", "worst case"]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|---|{'---:|' * (len(heads) - 2)}"
    for row in rows:
        cells = [f"`{row['model']}`", row["training"], f"{row['clean']} %"]
        cells += [_claim(row)] * is_claimed
        cells += [_attack(row, name) for name in (weak, "autoattack", "adaptive", "smallest")]
        low, high = row["worst_case_low"], row["worst_case_high"]
        cells.append(f"**{row['worst_case']} %** [{low}, {high}]")
        yield f"| {' | '.join(cells)} |"


def _sentences(rows: list[Row]) -> Iterator[str]:
    """How the project's attacks stand beside others here, and which numbers are doubted."""
    gaps = _gaps(rows, "autoattack")
    lower, higher = sum(gap < 0 for gap in gaps.values()), {m: g for m, g in gaps.items() if g > 0}
    named = f" ({', '.join(f'`{model}` by {n}' for model, n in higher.items())})" if higher else ""
    yield (
        f"- Robust samples under `adaptive`, compared with AutoAttack: fewer for {lower} of "
        f"{len(rows)} models, as many for {len(gaps) - lower - len(higher)}, more for "
        f"{len(higher)}{named}."
    )
    points = [
        round(float(row[f"{ATTACK}smallest"]) - float(row[f"{ATTACK}adaptive"]), 1)
        for row in rows
        if row.get(f"{ATTACK}smallest") and row.get(f"{ATTACK}adaptive")
    ]
    if points:
        least, most = f"{min(points):+.1f}", f"{max(points):+.1f}"
        told = f"differs by {least} to {most} points from" if {least, most} != {"+0.0"} else "is"
        yield f"- Robust accuracy under `smallest` {told} that under `adaptive`."
    doubted = [r["model"] for r in rows if float(r["worst_case"]) > 0 and r[DOUBTS]]
    if doubted:
        few = ", ".join(f"`{model}`" for model in doubted)
        told = few if len(doubted) <= NAMED else f"{len(doubted)} models"
        yield f"- A check is suspicious for {told}: those worst cases are upper bounds."
    yield ""


def _gaps(rows: list[Row], other: str) -> dict[str, int]:
    """By model, how many more samples are robust under ``adaptive`` than under another attack."""
    ours, theirs = f"{ATTACK}adaptive", f"{ATTACK}{other}"
    return {
        row["model"]: round(int(row["samples"]) * (float(row[ours]) - float(row[theirs])) / 100)
        for row in rows
    }


def numbers(folder: Path = BOARDS) -> Iterator[str]:
    """One model attack by attack: what its paper claims, and what its published row says."""
    entry, titles = find_entry(SHOWN), _titles()
    threat = DATASETS.get(entry.dataset).default_threat("Linf")
    path = folder / board.file_name(
        {"dataset": entry.dataset, "norm": threat.norm, "eps": threat.eps_text}
    )
    row = next((row for row in board.read_board(path) if row["model"] == SHOWN), None)
    if row is None:
        yield f"`{SHOWN}` is not published yet."
        return
    yield (
        f"`{SHOWN}`, suite `full` on {row['samples']} samples, {threat_text(row)}, with 95 % "
        "intervals:"
    )
    yield ""
    yield "| attack | claimed by its paper | robust accuracy found |"
    yield "|---|---:|---:|"
    told = {"clean": "none"} | {f"{ATTACK}{name}": title for name, title in titles.items()}
    claims = {claim.attack: claim for claim in entry.claims}
    for column, title in told.items():
        if row.get(column):
            promised = _promised(claims.get(column.removeprefix(ATTACK)))
            yield f"| {title} | {promised} | {_share(row, column)} |"
    yield f"| **worst case** | | **{_share(row, 'worst_case')}** |"


def in_readme() -> Iterator[str]:
    """One board in few columns."""
    rows = board.read_board(BOARDS / IN_README)
    weak = WEAK[rows[0]["norm"]]
    yield f"| {_head(rows[0])} | training | claimed | {_titles()[weak]} | AutoAttack | worst case |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in rows:
        claimed = _claim(row)
        kind = row["training"].split(" at ")[0]
        yield (
            f"| `{row['model']}` | {kind} | {claimed} | {_short(row, weak)} | "
            f"{_short(row, 'autoattack')} | **{float(row['worst_case']):.1f} %** |"
        )


def _short(row: Row, name: str) -> str:
    value = row.get(f"{ATTACK}{name}")
    return f"{float(value):.1f} %" if value else "–"


def _titles() -> dict[str, str]:
    """The attacks of ``full`` by name, in its order, with their titles."""
    return {spec.name: spec.title for spec in read_suite("full").attacks}


def _promised(claim: Claim | None) -> str:
    if claim is None:
        return "–"
    return f"{claim.accuracy:g} %" + (f" (ε = {claim.eps})" if claim.eps else "")


def _share(row: Row, column: str) -> str:
    """A share of a row's samples, with its interval and count."""
    samples = int(row["samples"])
    return attacks.share(round(float(row[column]) / 100 * samples), samples)


def _claim(row: Row) -> str:
    return f"{row['claimed']} % ({row['claimed_by']})" if row["claimed"] else "–"


def _counts(rows: list[Row]) -> str:
    counts = sorted({int(row["samples"]) for row in rows})
    return " or ".join(str(count) for count in counts)


def _attack(row: Row, name: str) -> str:
    value = row.get(f"{ATTACK}{name}")
    return f"{value} %" if value else "–"
