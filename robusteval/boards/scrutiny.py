"""What can be held against a row of a leaderboard without its run: each yields one line a fault."""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache

from robusteval import inert
from robusteval.errors import ThreatError
from robusteval.hardware import PACKAGES
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Claim
from robusteval.numerics import wilson
from robusteval.plan.suite import AttackSpec, read_suite
from robusteval.report.claims import is_other
from robusteval.report.rows import (
    ATTACK,
    DOUBTS,
    PERCENT,
    REVISION,
    SURROGATE,
    Row,
    percent,
    revisions,
)
from robusteval.report.wording import claimed_by, lowest_claim
from robusteval.types import Rate, ThreatModel

_FORMS = {
    "run": "[0-9a-f]{8}",
    "entry_sha256": "[0-9a-f]{64}",
    "evidence_sha256": "[0-9a-f]{64}",
}
_COUNT = re.compile("[0-9]{1,15}")
_SUITE = re.compile(r"[A-Za-z0-9_.\-]+")
_DOUBTS = re.compile("(broken: [^;]+)?((^|; )suspicious: [^;]+)?")
_SURROGATE = re.compile(r"([A-Za-z0-9_.:@\-]+ [0-9a-f]{8})?")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!\-]*")
_COUNTS = ("samples", "robust_samples", "seed", "rank")
_ROUNDED = 0.01  # percent: two decimals, of two numbers that are compared


def model_of(row: Row) -> str:
    """A row's model, as a message can name it."""
    name = row["model"]
    return name if re.fullmatch(r"[\w.\-]{1,100}", name) else _shown(name)


def uncountable(row: Row) -> Iterable[str]:
    """Counts that are none."""
    for column in _COUNTS:
        if not _COUNT.fullmatch(row[column]):
            yield f"its {column} is {_shown(row[column])}, no count"
            return
    if int(row["samples"]) == 0:
        yield "no samples"


def no_percents(row: Row, columns: Iterable[str]) -> Iterable[str]:
    """Numbers that are none."""
    for column in columns:
        if not re.fullmatch(PERCENT, row[column]):
            yield f"its {column} is {_shown(row[column])}, no number of percent"


def _shown(cell: str) -> str:
    return ascii(cell)[:60]


def wrong_origin(row: Row) -> Iterable[str]:
    """Where a row doesn't say, in the form of a run's rows, what it comes from and what casts
    doubt on it."""
    for column, form in _FORMS.items():
        if not re.fullmatch(form, row[column]):
            yield f"its {column} is not a digest"
    if not (row["suite"] and row["versions"]):
        yield "its suite or versions are missing"
    elif not _SUITE.fullmatch(row["suite"]):
        yield "its suite is not a suite's name"
    elif not _are_versions(row["versions"], row.get("revisions", "")):
        yield "its versions are not those of a run"
    if int(row["seed"]) >= 2**32:
        yield "its seed is larger than a run's"
    if not _SURROGATE.fullmatch(row.get(SURROGATE, "")):
        yield "its surrogate is not a model's name and digest"
    if not _DOUBTS.fullmatch(row[DOUBTS]):
        yield "its findings name no verdict"


def _are_versions(text: str, revisions: str) -> bool:
    """Whether each is ``name=value``, of what a run notes, and none is missing that decides.

    Attacks have one digest, or versions of their own.
    """
    pairs = [part.partition("=") for part in text.split(" ")]
    versions = {name: value for name, _, value in pairs}
    known = {"python", *PACKAGES, "attacks"}
    attacks = versions.pop("attacks", "")
    return (
        len(pairs) == len(versions) + bool(attacks)
        and {"robusteval", "torch"} <= set(versions) <= known
        and all(_VERSION.fullmatch(value) for value in versions.values())
        and re.fullmatch("[0-9a-f]{8}" if not revisions else "", attacks) is not None
        and re.fullmatch(f"({REVISION}( |$))*", revisions) is not None
    )


def wrong_numbers(row: Row) -> Iterable[str]:
    """Where numbers don't follow from counts, or can't stand beside each other."""
    try:
        rate = wilson(int(row["robust_samples"]), int(row["samples"]))
    except ValueError as error:
        yield str(error)
        return
    assert rate is not None, "there are samples"
    told = tuple(row[c] for c in ("worst_case", "worst_case_low", "worst_case_high"))
    if told != tuple(percent(v) for v in (rate.value, rate.low, rate.high)):
        yield f"its worst case or interval is not {rate.k} of {rate.n}"
    attacks = {c: row[c] for c in row if c.startswith(ATTACK) and row[c]}
    shares = {"clean": row["clean"], **attacks}
    no_shares = [column for column, cell in shares.items() if not _is_share(cell, rate.n)]
    if no_shares:
        first, others = no_shares[0], len(no_shares) - 1
        more = f", nor are {others} other cells" if others else ""
        value = _shown(shares[first])[1:-1]
        yield f"its {first} of {value} is not a share of {rate.n} samples{more}"
    else:
        left = {column: float(cell) for column, cell in attacks.items()}
        yield from _contradictions(row["strongest_attack"], rate, float(row["clean"]), left)


def _is_share(cell: str, samples: int) -> bool:
    """Whether so many percent, to two decimals, are a number of the samples."""
    if not re.fullmatch(PERCENT, cell):
        return False
    count = round(float(cell) / 100 * samples)
    return count <= samples and percent(count / samples) == cell


def _contradictions(
    strongest: str, worst: Rate, clean: float, left: Mapping[str, float]
) -> Iterable[str]:
    """``left``: what each attack leaves, in percent, as ``clean`` is."""
    shown = float(percent(worst.value))
    if shown > min([clean, *left.values()]):
        yield "its worst case is above one of its attacks"
    if shown < _least(clean, left.values()):
        yield "its worst case is below what its attacks together can explain"
    if left and clean < max(left.values()):
        yield "robust accuracy under an attack is above its clean accuracy"
    if left and left.get(ATTACK + strongest, math.inf) != min(left.values()):
        yield "its strongest attack is another"


def _least(clean: float, left: Iterable[float]) -> float:
    """The lowest worst case, in percent: where no two attacks break the same sample."""
    broken = [clean - value + _ROUNDED for value in left]
    return clean - sum(broken) - _ROUNDED


REQUIRED = "full"  # the suite whose attacks a published run must have made


class Known:
    """What entries say of their models, each asked once."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self.known: dict[tuple[str, str, str, tuple[str, ...]], dict[str, str]] = {}

    def differences(self, row: Row) -> Iterable[str]:
        """Where a row differs from its model's entry."""
        entry = self.entries.get(row["model"])
        if entry is None:
            yield "not in the registry"
            return
        if revisions(row).get("entry", 1) < entry.revision and row["entry_sha256"] != entry.digest:
            return  # it is held to an entry that is no more
        made = tuple(name for name, cell in row.items() if name.startswith(ATTACK) and cell)
        key = row["model"], row["norm"], row["eps"], made
        if key not in self.known:
            self.known[key] = _cells_of(entry, row)
        differ = [column for column, cell in self.known[key].items() if row[column] != cell]
        if {"entry_sha256", "weights_sha256"} & set(differ):
            yield "its entry or weights have changed since the run"
        yield from (f"its {c} is not its entry's" for c in differ if not c.endswith("_sha256"))


def _cells_of(entry: Entry, row: Row) -> dict[str, str]:
    """What such a row must hold of its entry."""
    cells = {
        "entry_sha256": entry.digest,
        "weights_sha256": entry.weights.sha256 if entry.weights else "",
        "dataset": entry.dataset,
        "method": entry.method,
        "training": entry.training.kind if entry.training else "",
    }
    return {column: inert.cell(value) for column, value in cells.items()} | claim_of(entry, row)


def claim_of(entry: Entry, row: Row) -> Row:
    """The cells of a row that tell what its entry claims, of the attacks that the row has."""
    answered = [claim.model_dump() for claim in entry.claims if _is_answered(claim, row)]
    claim = lowest_claim(answered, row["norm"])  # type: ignore[arg-type]
    claimed = f"{claim['accuracy']:g}" if claim else ""
    return {"claimed": inert.cell(claimed), "claimed_by": inert.cell(claimed_by(claim))}


def _is_answered(claim: Claim, row: Row) -> bool:
    """Whether the claim's attack stands in a row, with the paper's settings where the suite that
    published runs have made says which it has."""
    if not row.get(ATTACK + claim.attack):
        return False
    spec = _required().get(claim.attack)
    if spec is None:
        return True
    try:
        threat = ThreatModel(row["norm"], row["eps"])  # type: ignore[arg-type]
    except ThreatError:  # which is told elsewhere
        return False
    return not is_other(claim, spec.parameters_for(threat), spec.restarts, threat.radius)


@cache
def _required() -> dict[str, AttackSpec]:
    """The attacks of the suite that a published run must have made, by name."""
    return {attack.name: attack for attack in read_suite(REQUIRED).attacks}
