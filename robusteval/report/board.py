"""Leaderboards: one CSV per data set and threat model, firmest model first.

A row holds what one run found of one model, with what is needed to doubt it: samples, intervals,
the claim, and the digests of entry, weights and evidence.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from robusteval.errors import EvidenceError
from robusteval.models.entry import Entry
from robusteval.numerics import wilson
from robusteval.report.wording import claimed_by, lowest_claim
from robusteval.types import ThreatModel

FOUND = (
    "rank",
    "model",
    "method",
    "training",
    "clean",
    "worst_case",
    "worst_case_low",
    "worst_case_high",
    "robust_samples",
    "samples",
    "claimed",
    "claimed_by",
)
BACKING = (
    "suite",
    "seed",
    "run",
    "versions",
    "entry_sha256",
    "weights_sha256",
    "evidence_sha256",
)
_ATTACK = "attack_"  # and its name in the suite
Row = dict[str, str]


def file_name(dataset: str, threat: ThreatModel) -> str:
    """Such as ``cifar10_Linf_8_255.csv``."""
    return f"{dataset}_{threat.norm}_{threat.eps_text.replace('/', '_')}.csv"


def rows_of(report: dict[str, Any], entry_digest: str) -> dict[str, Row]:
    """A complete report's row for each leaderboard, by file name."""
    entry = report["model"]
    rows = {}
    for worst in report["worst_case"]:
        threat = worst["threat"]
        here = [a for a in report["attacks"] if a["threat"] == threat]
        claim = lowest_claim(report["claims"], threat["norm"])
        rate = worst["robust_accuracy"]
        row = {
            "rank": "",
            "model": entry["name"],
            "method": entry["method"],
            "training": entry["training"],
            "clean": _percent(report["clean"]["accuracy"]),
            "worst_case": _percent(rate),
            "worst_case_low": f"{100 * rate['low']:.2f}",
            "worst_case_high": f"{100 * rate['high']:.2f}",
            "robust_samples": str(rate["k"]),
            "samples": str(rate["n"]),
            "claimed": f"{claim['accuracy']:g}" if claim else "",
            "claimed_by": claimed_by(claim),
            "suite": report["suite"]["name"],
            "seed": str(report["seed"]),
            "run": report["run"],
            "versions": " ".join(f"{k}={v}" for k, v in report["provenance"]["versions"].items()),
            "entry_sha256": entry_digest,
            "weights_sha256": entry["weights_sha256"] or "",
            "evidence_sha256": report["evidence"]["digest"],
        }
        row |= {f"{_ATTACK}{a['name']}": _percent(a["robust_accuracy"]) for a in here}
        eps = ThreatModel(threat["norm"], threat["eps"])
        rows[file_name(report["dataset"]["name"], eps)] = row
    return rows


def _percent(rate: dict[str, Any]) -> str:
    return f"{100 * rate['value']:.2f}"


def merged(rows: Sequence[Row], new: Row) -> list[Row]:
    """With the row of the same model replaced, ranked by worst case, then by clean accuracy."""
    kept = [row for row in rows if row["model"] != new["model"]]
    ordered = sorted([*kept, new], key=lambda r: (-_share(r), -float(r["clean"]), r["model"]))
    return [{**row, "rank": str(place)} for place, row in zip(ranks(ordered), ordered, strict=True)]


def ranks(ordered: Sequence[Row]) -> list[int]:
    """Places from 1; equal worst cases share one."""
    shares = [_share(row) for row in ordered]
    return [1 + sum(other > share for other in shares) for share in shares]


def _share(row: Row) -> float:
    return int(row["robust_samples"]) / int(row["samples"])


def read_rows(path: Path) -> list[Row]:
    """A leaderboard's rows; none if there is no file.  Raises EvidenceError for another table."""
    if not path.is_file():
        return []
    try:
        reader = csv.DictReader(path.read_text("utf-8").splitlines(), strict=True)
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvidenceError(f"{path} can't be read as a table ({error}): restore it") from None
    names = list(reader.fieldnames or [])
    if lacking := [c for c in (*FOUND, *BACKING) if c not in names]:
        raise EvidenceError(f"{path} is no leaderboard: it lacks {', '.join(lacking[:3])}")
    if any(None in row or None in row.values() for row in rows):
        raise EvidenceError(f"{path}: a row has more or fewer cells than the header: restore it")
    return rows


def as_csv(rows: Sequence[Row]) -> str:
    """Rows under one header; attacks that not all have are left empty."""
    attacks = dict.fromkeys(name for row in rows for name in row if name.startswith(_ATTACK))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*FOUND, *attacks, *BACKING], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def problems(rows: Sequence[Row], entries: dict[str, Entry]) -> Iterable[str]:
    """What is wrong with a leaderboard's rows, one line each.

    Numbers must follow from their counts, ranks from the numbers, and each model must be in the
    registry as it was when it was run.
    """
    for row in rows:
        try:
            yield from _wrong_numbers(row)
        except ValueError as error:
            yield f"{row['model']}: {error}"
            return
        entry = entries.get(row["model"])
        if entry is None:
            yield f"{row['model']}: not in the registry"
        elif (entry.digest, _weights(entry)) != (row["entry_sha256"], row["weights_sha256"]):
            yield f"{row['model']}: its entry or weights have changed since the run"
    names = [row["model"] for row in rows]
    yield from (f"{name}: twice" for name in sorted({n for n in names if names.count(n) > 1}))
    if [int(row["rank"]) for row in rows] != ranks(rows) or ranks(rows) != sorted(ranks(rows)):
        yield "ranks don't follow from the worst cases"


def _weights(entry: Entry) -> str:
    return entry.weights.sha256 if entry.weights else ""


def _wrong_numbers(row: Row) -> Iterable[str]:
    rate = wilson(int(row["robust_samples"]), int(row["samples"]))
    if rate is None:
        yield f"{row['model']}: no samples"
        return
    told = tuple(row[c] for c in ("worst_case", "worst_case_low", "worst_case_high"))
    if told != tuple(f"{100 * v:.2f}" for v in (rate.value, rate.low, rate.high)):
        yield f"{row['model']}: its worst case or interval is not {rate.k} of {rate.n}"
    attacks = [float(v) for c, v in row.items() if c.startswith(_ATTACK) and v]
    if float(row["worst_case"]) > min([float(row["clean"]), *attacks]):
        yield f"{row['model']}: its worst case is above one of its attacks"
