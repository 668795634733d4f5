"""Leaderboards: one CSV per data set and threat model, firmest model first."""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from robusteval.errors import EvidenceError, ThreatError
from robusteval.inert import cell
from robusteval.models.entry import Entry
from robusteval.numerics import wilson
from robusteval.report import rows as tables
from robusteval.report.rows import ATTACK, Row, percent
from robusteval.report.wording import claimed_by, lowest_claim
from robusteval.types import ThreatModel, parse_eps

RANK = ("rank",)
_DIGESTS = {"run": 8, "entry_sha256": 64, "evidence_sha256": 64}
_COUNTS = ("samples", "robust_samples", "seed", "rank")
_ROUNDED = 0.01  # percent: two decimals, of two numbers that are compared


def file_name(row: Row) -> str:
    """Such as ``cifar10_Linf_8_255.csv``.  Raises ThreatError for a row without a threat."""
    threat = ThreatModel(row["norm"], parse_eps(row["eps"]))  # type: ignore[arg-type]
    return f"{row['dataset']}_{threat.norm}_{threat.eps_text.replace('/', '_')}.csv"


def read_board(path: Path) -> list[Row]:
    """A leaderboard's rows; none if there is no file.  Raises EvidenceError for another table."""
    return tables.read_rows(path, RANK)


def as_csv(rows: Sequence[Row]) -> str:
    """A leaderboard."""
    return tables.as_csv(rows, RANK)


def merged(rows: Sequence[Row], new: Row) -> list[Row]:
    """With the row of the same model replaced, ranked by worst case, then by clean accuracy.

    Raises EvidenceError where the new row's run has fewer samples than the old one's, and for a
    board whose counts can't be read.
    """
    _require_counts(rows)
    for old in rows:
        if old["model"] == new["model"] and int(old["samples"]) > int(new["samples"]):
            raise EvidenceError(
                f"{new['model']} stands on {file_name(new)} with {old['samples']} samples, the run "
                f"has {new['samples']}: run as many, or remove that row first"
            )
    kept = [row for row in rows if row["model"] != new["model"]]
    ordered = sorted([*kept, new], key=lambda r: (-_share(r), -float(r["clean"]), r["model"]))
    return [{**row, "rank": str(place)} for place, row in zip(ranks(ordered), ordered, strict=True)]


def _require_counts(rows: Sequence[Row]) -> None:
    """Raises EvidenceError for rows that can't be ranked."""
    for row in rows:
        try:
            int(row["rank"]), float(row["clean"]), _share(row)
        except (ValueError, ZeroDivisionError):
            raise EvidenceError(
                f"{file_name(row)}: the row of {row['model']} holds what is no number: restore it"
            ) from None


def ranks(ordered: Sequence[Row]) -> list[int]:
    """Places from 1; equal worst cases share one."""
    shares = [_share(row) for row in ordered]
    return [1 + sum(other > share for other in shares) for share in shares]


def _share(row: Row) -> float:
    return int(row["robust_samples"]) / int(row["samples"])


def problems(name: str, rows: Sequence[Row], entries: dict[str, Entry]) -> Iterable[str]:
    """What is wrong with the rows of the leaderboard of that file name, one line each.

    Numbers must follow from their counts, ranks from the numbers, and each model must be in the
    registry as it was when it was run.  What the evidence says only the run can show.
    """
    for row in rows:
        if uncountable := [c for c in _COUNTS if not re.fullmatch("[0-9]+", row[c])]:
            yield f"{row['model']}: its {uncountable[0]} is {row[uncountable[0]]!r}, no count"
            return
        if int(row["samples"]) == 0:
            yield f"{row['model']}: no samples"
            return
        try:
            found = [*_wrong_numbers(row), *_wrong_place(row, name)]
        except (ValueError, ThreatError) as error:
            yield f"{row['model']}: {error}"
            return
        yield from (f"{row['model']}: {one}" for one in found)
        yield from (f"{row['model']}: {one}" for one in _wrong_model(row, entries))
    names = [row["model"] for row in rows]
    yield from (f"{name}: twice" for name in sorted({n for n in names if names.count(n) > 1}))
    if [int(row["rank"]) for row in rows] != ranks(rows) or ranks(rows) != sorted(ranks(rows)):
        yield "ranks don't follow from the worst cases"


def _wrong_model(row: Row, entries: dict[str, Entry]) -> Iterable[str]:
    """Where a row differs from its model's entry."""
    entry = entries.get(row["model"])
    if entry is None:
        yield "not in the registry"
        return
    weights = entry.weights.sha256 if entry.weights else ""
    if (entry.digest, weights) != (row["entry_sha256"], row["weights_sha256"]):
        yield "its entry or weights have changed since the run"
    claim = lowest_claim([c.model_dump() for c in entry.claims], row["norm"])  # type: ignore[arg-type]
    told = {
        "dataset": entry.dataset,
        "method": entry.method,
        "training": entry.training.kind if entry.training else "",
        "claimed": f"{claim['accuracy']:g}" if claim else "",
        "claimed_by": claimed_by(claim),
    }
    yield from (f"its {k} is not its entry's" for k, v in told.items() if row[k] != cell(v))


def _wrong_place(row: Row, name: str) -> Iterable[str]:
    """Where a row doesn't belong, or names nothing that could be looked up."""
    if file_name(row) != name:
        yield f"belongs on {file_name(row)}"
    if row["status"] != "complete":
        yield "its run is not complete"
    for column, length in _DIGESTS.items():
        if not re.fullmatch(rf"[0-9a-f]{{{length}}}", row[column]):
            yield f"its {column} is no digest"
    if not (row["suite"] and row["versions"]):
        yield "its suite or versions are missing"


def _wrong_numbers(row: Row) -> Iterable[str]:
    """Where numbers don't follow from counts, or can't stand beside each other."""
    rate = wilson(int(row["robust_samples"]), int(row["samples"]))
    assert rate is not None, "there are samples"
    told = tuple(row[c] for c in ("worst_case", "worst_case_low", "worst_case_high"))
    if told != tuple(percent(v) for v in (rate.value, rate.low, rate.high)):
        yield f"its worst case or interval is not {rate.k} of {rate.n}"
    attacks = {c: row[c] for c in row if c.startswith(ATTACK) and row[c]}
    for column, value in {"clean": row["clean"], **attacks}.items():
        share = float(value) / 100
        if not math.isfinite(share) or percent(round(share * rate.n) / rate.n) != value:
            yield f"its {column} of {value} is no share of {rate.n} samples"
    left = [float(value) for value in attacks.values()]
    if float(row["worst_case"]) > min([float(row["clean"]), *left]):
        yield "its worst case is above one of its attacks"
    if float(row["worst_case"]) < _least(float(row["clean"]), left):
        yield "its worst case is below what its attacks can leave together"
    if left and float(row["clean"]) < max(left):
        yield "an attack leaves more than its clean accuracy"
    if left and float(attacks.get(ATTACK + row["strongest_attack"], math.inf)) != min(left):
        yield "its strongest attack is another"


def _least(clean: float, left: Sequence[float]) -> float:
    """The lowest worst case, in percent: where no two attacks break the same sample."""
    return clean - sum(clean - value for value in left) - _ROUNDED * (1 + len(left))
