"""How numbers and threats of a report are worded, the same on pages and in the terminal."""

from collections.abc import Iterable
from typing import Any

from robusteval.types import NORM_SIGNS, Norm

# Said beside detectors' numbers on images of attacks that weren't told the detector.
UNAWARE = (
    "No attack in these tables was told the detectors: each was made to fool the model alone. How "
    "well a detector recognises its images says nothing about attacks that evade both"
)


def percent(rate: dict[str, Any] | None) -> str:
    """32.1 %, or a dash where there is no number."""
    return f"{100 * rate['value']:.1f} %" if rate else "–"


def fitted_to(fitting: dict[str, Any]) -> str:
    """What detectors were fitted to, and which settings were chosen for them.

    >>> fitted_to({"detectors": ["knn"], "split": "train", "samples": 5000})
    'knn: fitted to 5000 samples of the train split.'
    """
    whose = f"the {fitting['split']} split" if fitting["split"] else "your own"
    told = f"{', '.join(fitting['detectors'])}: fitted to {fitting['samples']} samples of {whose}."
    if "tuning" not in fitting:
        return told
    tuning = fitting["tuning"]
    chosen = "; ".join(
        f"{name} {', '.join(f'{key} = {value:g}' for key, value in setting.items())}"
        for name, setting in tuning["settings"].items()
    )
    by = f"{tuning['samples']} outliers of {tuning['outliers']}"
    return f"{told} Settings were chosen by {by}: {chosen}."


def interval(rate: dict[str, Any] | None) -> str:
    """[28.0, 36.5], in percent; nothing where samples are too few for one."""
    if rate is None or rate["low"] is None:
        return ""
    return f"[{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def count(rate: dict[str, Any] | None) -> str:
    """k/n."""
    return f"{rate['k']}/{rate['n']}" if rate else ""


def threat_text(threat: dict[str, Any]) -> str:
    """L∞ 8/255, from anything with a norm and an ε."""
    return f"{NORM_SIGNS[threat['norm']]} {threat['eps'] or ''}".strip()


_CHOSEN = {
    "all": "",
    "balanced": ", class-balanced",
    "first": ", the first ones",
    "listed": ", chosen by their indices",
}


def samples_text(report: dict[str, Any]) -> str:
    """Which samples ran: "60 of 397 samples of my photos, class-balanced"."""
    data = report["dataset"]
    if data["split"] != "own":
        how = data["chosen"]["how"]
        told = _CHOSEN[how] if how in ("first", "listed") else ""
        return f"{report['samples']} samples of {data['name']} ({data['split']}){told}"
    told = _CHOSEN[data["chosen"]["how"]]
    return f"{report['samples']} of {data['samples']} samples of {data['name']}{told}"


def usual_eps_text(report: dict[str, Any]) -> str:
    """Which ε nobody gave; nothing where all were given."""
    usual = report["dataset"]["usual_eps"]
    threats = [w["threat"] for w in report["worst_case"] if w["threat"]["norm"] in usual]
    return ", ".join(map(threat_text, threats))


def check_text(finding: dict[str, Any]) -> str:
    """A finding's check, and the threat model that it is about, if it is about one."""
    threat = finding.get("threat")  # reports of earlier versions have it in the check
    return f"{finding['check']}, {threat_text(threat)}" if threat else str(finding["check"])


def sentence(text: str) -> str:
    """With a capital and a full stop: "check the mean" becomes "Check the mean."."""
    return f"{text[:1].upper()}{text[1:]}."


def sign(norm: Norm) -> str:
    """L∞ or L2."""
    return NORM_SIGNS[norm]


def number(value: float | None, digits: int = 3) -> str:
    """A short number, or a dash."""
    return "–" if value is None else f"{value:.{digits}g}"


def parameters_text(parameters: dict[str, Any]) -> str:
    """name=value, name=value."""
    return ", ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in parameters.items()
    )


UNANSWERED = ("not_run", "no_number", "other_settings")  # what nothing here can be held against


def lowest_claim(claims: Iterable[dict[str, Any]], norm: Norm | None = None) -> Any:
    """The paper's claim under attack that promises least, in that norm or in any; None without
    one.  Those without an ε promise nothing that can be held.  Of a run's claims those count whose
    attack ran, with the paper's settings."""
    bound = [c for c in claims if c["norm"] and c["eps"] and not by_protocol(c)]
    meant = [c for c in bound if norm in (None, c["norm"])]
    meant = [c for c in meant if c.get("compared") not in UNANSWERED]
    return min(meant, key=lambda c: c["accuracy"], default=None)


def by_protocol(claim: dict[str, Any]) -> bool:
    """Whether a claim is what the paper's own attacks leave of this model, and not its number."""
    return claim.get("by") == "protocol"


_OF_PAPER = (
    "A paper's claim is about its own model. What was found is about this model, under the suite's "
    "attack of that name"
)
_BY_PROTOCOL = (
    "A claim by protocol is about this model: its robust accuracy under the attacks of the paper, "
    "measured by this project, because the paper has no number on this data set"
)


def claims_text(claims: list[dict[str, Any]]) -> str:
    """Whose numbers claims are, in a sentence or two."""
    protocol = [by_protocol(claim) for claim in claims]
    told = [_OF_PAPER] * (not all(protocol)) + [_BY_PROTOCOL] * any(protocol)
    return "".join(f"{sentence}. " for sentence in told).strip()


def claimed_by(claim: dict[str, Any] | None) -> str:
    """Such as "pgd10 Linf 0.03"."""
    if claim is None:
        return ""
    return " ".join(part for part in (claim["attack"], claim["norm"], claim["eps"]) if part)


def found_text(claim: dict[str, Any]) -> str:
    """What the claim's attack left here, and whether that was at the claim's ε."""
    if claim["compared"] == "not_run":
        return "not run here"
    if claim["compared"] == "no_number":
        return "no number here: it failed or did not finish"
    differs = "; ".join(claim.get("differs", ()))  # older reports have none
    if claim["compared"] == "other_settings":
        return f"not run here with the paper's settings ({differs})"
    if claim["compared"] == "clean":
        return percent(claim["found"])
    found = _at(claim["found"], claim["found_threat"], claim["compared"])
    return f"{found} ({differs})" if differs else found


def worst_text(claim: dict[str, Any]) -> str:
    """What all attacks together left here, and whether that was at the claim's ε."""
    if not claim["worst"]:
        return "–"
    return _at(claim["worst"], claim["worst_threat"], claim["worst_compared"])


def _at(rate: dict[str, Any], threat: dict[str, Any], compared: str) -> str:
    told = {
        "same": "at the same ε",
        "other_eps": f"at another ε, {threat_text(threat)}",
        "any_distance": "at any distance",
        "no_eps": f"at {threat_text(threat)}; the claim names no ε",
    }
    return f"{percent(rate)} {told[compared]}"


def incomplete_text(missing: list[dict[str, Any]]) -> str:
    """What a run lacks, and what is to be done; nothing where it lacks nothing."""
    failed = [m for m in missing if m["kind"] == "attack" and m["reached"]]
    parts = [f"{m['name']} has no number ({m['reason']})" for m in failed[:1]]
    if more := len(failed) - 1 if failed else 0:
        parts = [f"{parts[0]}, nor {'have' if more > 1 else 'has'} {more} more"]
    if rest := [_called(m) for m in missing if m not in failed]:
        again = "run the same command again, which does what is missing"
        parts.append(f"it lacks {_listed(rest)}: {again}")
    return "; ".join(parts)


def _called(missing: dict[str, Any]) -> str:
    name = f"outliers {missing['name']}" if missing["kind"] == "outliers" else missing["name"]
    return f"{name} ({missing['reason']})" if missing["reached"] else name


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" * (len(names) > most))


MOST_SCORES = 24  # rows of detectors beside each other


def score_rows(pair: dict[str, Any]) -> list[dict[str, Any]]:
    """AUROC of the detectors that two runs share; where there are many, those that differ most."""
    rows = pair["detection"]
    if len(rows) > MOST_SCORES:
        rows = sorted(rows, key=lambda row: -abs(row["difference"]))[:MOST_SCORES]
    return [
        {
            "detector": row["detector"],
            "against": row["against"],
            "reading": row["reading"].replace("_", " "),
            "first": percent({"value": row["first"]}),
            "second": percent({"value": row["second"]}),
            "difference": f"{100 * row['difference']:+.1f}",
        }
        for row in rows
    ]


def score_notes(pair: dict[str, Any]) -> list[str]:
    """What is not among ``score_rows``, in words."""
    notes = []
    if (more := len(pair["detection"]) - MOST_SCORES) > 0:
        notes.append(f"{more} more AUROCs differ less: --json, or a pipe, shows them")
    if apart := pair["detectors_apart"]:
        notes.append(f"not compared, by other code or in one of the two only: {', '.join(apart)}")
    return notes
