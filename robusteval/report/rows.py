"""A report's rows, one per threat model: the same in ``row.csv``, in tables and on leaderboards.

A row holds what one run found of one model, with what is needed to doubt it: samples, intervals,
the claim, and the digests of entry, weights and evidence.
"""

import csv
import io
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robusteval.attacks.versions import version_then
from robusteval.errors import EvidenceError
from robusteval.inert import cell
from robusteval.report.wording import claimed_by, lowest_claim
from robusteval.storage import reason

FOUND = (
    "model",
    "method",
    "training",
    "dataset",
    "norm",
    "eps",
    "status",
    "clean",
    "worst_case",
    "worst_case_low",
    "worst_case_high",
    "robust_samples",
    "samples",
    "strongest_attack",
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
SURROGATE = "surrogate"  # whose gradients led, too: its name and the start of its digest
LATER = ("revisions", SURROGATE)  # columns that tables of earlier versions lack
REVISION = "([a-z0-9_]+)=([1-9][0-9]{0,5})"  # a part of ``revisions``
COLUMNS = 2  # the revision of the columns every run has; 1 had no ``revisions``
DOUBTS = "findings"  # the checks that were not ok, each with its verdict
ATTACK = "attack_"  # and its name in the suite: what it alone left, in percent
_ATTACKS = re.compile(rf"{ATTACK}[a-z0-9_]+")
Row = dict[str, str]


def rows_of(report: dict[str, Any]) -> list[Row]:
    """A report's rows; accuracies in percent, empty where there is no number."""
    return [_row(report, worst) for worst in report["worst_case"]]


def _row(report: dict[str, Any], worst: dict[str, Any]) -> Row:
    model, threat, rate = report["model"], worst["threat"], worst["robust_accuracy"] or {}
    here = [a for a in report["attacks"] if a["threat"] == threat and a["robust_accuracy"]]
    strongest = min(here, key=lambda a: a["robust_accuracy"]["value"], default=None)
    claim = lowest_claim(report["claims"], threat["norm"])
    row = {
        "model": model["name"],
        "method": model["method"],
        "training": model["training"],
        "dataset": report["dataset"]["name"],
        "norm": threat["norm"],
        "eps": threat["eps"],
        "status": "complete" if worst["complete"] else "incomplete",
        "clean": percent(report["clean"]["accuracy"]["value"]),
        "worst_case": percent(rate.get("value")),
        "worst_case_low": percent(rate.get("low")),
        "worst_case_high": percent(rate.get("high")),
        "robust_samples": str(rate.get("k", "")),
        "samples": str(report["samples"]),
        "strongest_attack": strongest["name"] if strongest else "",
        "claimed": f"{claim['accuracy']:g}" if claim else "",
        "claimed_by": claimed_by(claim),
        **{f"{ATTACK}{a['name']}": percent(a["robust_accuracy"]["value"]) for a in here},
        DOUBTS: doubts(report["findings"], threat),
        "suite": report["suite"]["name"],
        "seed": str(report["seed"]),
        "run": report["run"],
        "versions": " ".join(f"{k}={v}" for k, v in report["provenance"]["versions"].items()),
        "entry_sha256": model["digest"],
        "weights_sha256": model["weights_sha256"] or "",
        "evidence_sha256": report["evidence"]["digest"],
    }
    row |= _revisions(report, here) | _surrogate(report)
    return {name: cell(value) for name, value in row.items()}


def doubts(findings: Sequence[dict[str, Any]], threat: dict[str, Any]) -> str:
    """Such as "suspicious: same outputs, logits"; the broken ones first.

    What is about another threat model than the row's, or about detectors alone, casts no doubt on
    it.
    """
    meant = [found for found in findings if found.get("about") != "detection"]
    here = [found for found in meant if found["threat"] in (None, threat)]
    parts = []
    for verdict in ("broken", "suspicious"):
        if names := [found["check"] for found in here if found["verdict"] == verdict]:
            parts.append(f"{verdict}: {', '.join(names)}")
    return "; ".join(parts)


def broken(row: Row) -> list[str]:
    """The checks that a row's findings call broken, as ``doubts`` wrote them."""
    told = row.get(DOUBTS, "").partition("suspicious: ")[0].removesuffix("; ")
    return told.removeprefix("broken: ").split(", ") if told else []


def _revisions(report: dict[str, Any], attacks: Sequence[dict[str, Any]]) -> Row:
    """Of the columns, the entry, the suite and each attack; nothing for an older run, whose attacks
    had no versions."""
    versions = {f"{ATTACK}{a['name']}": a["version"] for a in attacks if a["version"]}
    if not versions:
        return {}
    parts = {"columns": COLUMNS, "entry": report["model"]["revision"]}
    parts |= {"suite": report["suite"]["revision"], **versions}
    return {"revisions": " ".join(f"{name}={value}" for name, value in parts.items() if value)}


def _surrogate(report: dict[str, Any]) -> Row:
    """Nothing for a run that none led."""
    if (led := report["surrogate"]) is None:
        return {}
    name = Path(led["name"]).stem or "module"  # an entry's name, or where a user has one
    return {SURROGATE: f"{name} {led['digest'][:8]}"}


def revisions(row: Row) -> dict[str, int]:
    """What a row says of its columns, its entry, its suite and its attacks, by part.

    A part that is none is left out: rows come from files, and ``boards.scrutiny`` tells of it.
    """
    parts = [re.fullmatch(REVISION, part) for part in row.get("revisions", "").split()]
    return {part[1]: int(part[2]) for part in parts if part}


def attack_versions(row: Row) -> dict[str, int]:
    """The version of each attack that a row has a number of, by its name in the suite.

    Rows of earlier tables hold one digest for all attacks.
    """
    if told := revisions(row):
        return {k.removeprefix(ATTACK): v for k, v in told.items() if k.startswith(ATTACK)}
    versions = dict(part.partition("=")[::2] for part in row["versions"].split())
    then = version_then(versions.get("attacks", ""))
    return {c.removeprefix(ATTACK): then for c in row if c.startswith(ATTACK) and row[c]}


PERCENT = r"[0-9]{1,3}\.[0-9]{2}"  # what ``percent`` writes of a share


def percent(value: float | None) -> str:
    """A share, such as 32.14; empty where there is none."""
    return "" if value is None else f"{100 * value:.2f}"


def as_csv(rows: Sequence[Row], first: Sequence[str] = (), last: Sequence[str] = ()) -> str:
    """Rows under one header, ``first`` before the other columns and ``last`` behind them; attacks
    that not all have are left empty.  Cells of an older table are made inert, too."""
    rows = [{cell(name): cell(value) for name, value in row.items()} for row in rows]
    attacks = dict.fromkeys(name for row in rows for name in row if name.startswith(ATTACK))
    later = [name for name in LATER if any(name in row for row in rows)]
    columns = [*first, *FOUND, *attacks, DOUBTS, *BACKING, *later, *last]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_rows(path: Path, first: Sequence[str] = (), last: Sequence[str] = ()) -> list[Row]:
    """The rows of such a table, without ``last`` where it is without; none if there is no file.

    Raises EvidenceError for another table.
    """
    names, *rows = _cells(path) or [[]]
    if not names:
        return []
    if any(len(row) != len(names) for row in rows):
        raise EvidenceError(f"{path}: a row has more or fewer cells than the header: restore it")
    known = [*first, *FOUND, DOUBTS, *BACKING]
    if lacking := [name for name in known if name not in names]:
        raise EvidenceError(f"{path} is not a leaderboard: it lacks {', '.join(lacking[:3])}")
    others = [name for name in names if name not in {*known, *LATER, *last}]
    odd = [name for name in others if not _ATTACKS.fullmatch(name)]
    odd += [name for name, times in Counter(names).items() if times > 1]
    if odd:
        raise EvidenceError(
            f"{path} is not a leaderboard: it has a column too many, {ascii(odd[0])[:60]}"
        )
    return [dict(zip(names, row, strict=True)) for row in rows]


def _cells(path: Path) -> list[list[str]]:
    """Every line that isn't empty, the header first; none if there is no file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise EvidenceError(f"{path} is not a file: remove it")
        text = path.read_bytes().decode("utf-8-sig")
        return [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        told = reason(error)
        raise EvidenceError(f"{path} can't be read as a table ({told}): restore it") from None
