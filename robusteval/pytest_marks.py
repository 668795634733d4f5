"""What marks of tests ask for, and whether a run's report gives it.  Nothing heavy is loaded."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robusteval.catalogue import near_names
from robusteval.errors import RobustevalError, ThreatError, shown
from robusteval.numerics import Z
from robusteval.report.wording import (
    check_text,
    count,
    incomplete_text,
    interval,
    percent,
    threat_text,
)
from robusteval.types import NORMS, Norm, ThreatModel, parse_eps, parse_float

if TYPE_CHECKING:
    import pytest

    from robusteval.api import Report

MARK = "robusteval"
# Of ``evaluate``; here by name, since its module loads torch.
KEYWORDS = (
    *("model", "images", "labels", "name", "suite", "dataset", "classes"),
    *("samples", "data", "seed", "eps", "only", "batch_size", "device", "workers", "threads"),
    *("ray_address", "gpus_per_worker"),
    *(
        "keep",
        "sources",
        "static_sources",
        "surrogate",
        "time_limit",
        "budget",
        "data_dir",
        "download",
        "outlier_folders",
        "fit_data",
        "fit_images",
        "fit_labels",
        "allow_code",
    ),
    "at_most",
)
OWN = ("norm", "at_least")
_MOST_SAMPLES = 10**6  # that are advised


@dataclass(frozen=True)
class Asked:
    """What a test's marks ask for: keywords of ``evaluate``, and what must be found.

    ``norms``: of the threat models that count.
    """

    keywords: Mapping[str, Any]
    norms: tuple[Norm, ...]
    at_least: float | None


def asked_by(item: "pytest.Item") -> Asked | None:
    """What a test's marks ask for, a module's and a class's among them; None without a mark.

    Raises RobustevalError for what can't be meant.
    """
    if not (marks := list(item.iter_markers(MARK))):
        return None
    if any(mark.args for mark in marks):
        raise RobustevalError(f"the mark {MARK} takes keywords alone, such as model=…")
    given = {name: value for mark in reversed(marks) for name, value in mark.kwargs.items()}
    _require_known(given)
    if isinstance(given.get("images"), str | Path):
        raise RobustevalError(f"images = {shown(given['images'])}: give a path as data=…")
    norm, eps = given.pop("norm", None), given.pop("eps", None)
    at_least = _share(given.pop("at_least", None))
    if norm is not None and norm not in NORMS:
        raise ThreatError(f"norm = {shown(norm)}: {near_names(str(norm), NORMS)}")
    norms = NORMS if norm is None else (norm,)
    if eps is not None:
        threats = [_threat(one, norms[0]) for one in (eps if _is_list(eps) else [eps])]
        given["eps"] = tuple(f"{threat.norm}:{threat.eps}" for threat in threats)
        norms = tuple(n for n in norms if n in {threat.norm for threat in threats})
    if not norms:
        raise ThreatError(f"norm = {shown(norm)}, but eps = {shown(eps)}: give an ε in that norm")
    return Asked(given, norms, at_least)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _require_known(given: Iterable[str]) -> None:
    for name in given:
        if name == "out":
            raise RobustevalError("out is for the whole session: give pytest --robusteval-out DIR")
        if name not in (*KEYWORDS, *OWN):
            hint = near_names(name, (*KEYWORDS, *OWN))
            raise RobustevalError(f"the mark {MARK} has no {shown(name)}: {hint}")


def _threat(eps: Any, norm: Norm) -> ThreatModel:
    """An ε as ``evaluate`` takes it: of this norm, or of its own, such as ``L2:0.5``."""
    own, _, value = eps.rpartition(":") if isinstance(eps, str) else ("", "", eps)
    return ThreatModel(own.strip() or norm, parse_eps(value))  # type: ignore[arg-type]


def _share(at_least: Any) -> float | None:
    if at_least is None:
        return None
    try:
        share = parse_float(at_least)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RobustevalError(f"at_least = {shown(at_least)}: give a share from 0 to 1, say 0.35")
    return share


# What was found, beside it


def counted(asked: Asked, report: "Report") -> list[dict[str, Any]]:
    """The worst cases under the threat models that count."""
    worst: list[dict[str, Any]] = report.content["worst_case"]
    return [case for case in worst if case["threat"]["norm"] in asked.norms]


def problems(asked: Asked, report: "Report") -> Iterator[str]:
    """Why a test must fail, a line each."""
    content, cases = report.content, counted(asked, report)
    for case in cases:
        rate, told = case["at_most"], _has(report, case)
        if asked.at_least is not None and rate["value"] < asked.at_least:
            less = f"{told}, less than {_percent(asked.at_least)}"
            yield less + (_too_few(rate, asked.at_least) if case["complete"] else "")
        elif not case["complete"]:
            yield f"{told}: how robust it is remains unknown"
    if not cases:
        yield f"no attack of this suite ran in {' or '.join(asked.norms)}"
    if not report.complete:
        yield f"the run is incomplete: {incomplete_text(content['missing'])}"
    elif not report.proven:
        yield "the run is not proven: stored images don't hold when predicted again"
    for finding in content["findings"]:
        if finding["verdict"] == "broken":
            yield f"numbers can't be trusted: {check_text(finding)}: {finding['measured']}"


def undecided(asked: Asked, report: "Report") -> Iterator[str]:
    """What chance may have lifted to ``at_least``, in a report without problems, a line each."""
    for case in counted(asked, report):
        if asked.at_least is not None and (few := _too_few(case["at_most"], asked.at_least)):
            yield f"{_has(report, case)}, at least {_percent(asked.at_least)}{few}"


def suspicions(asked: Asked, report: "Report") -> Iterator[str]:
    """Findings by which robustness may be overestimated, a line each."""
    for finding in report.content["findings"]:
        threat = finding["threat"]
        if finding["verdict"] == "suspicious" and (not threat or threat["norm"] in asked.norms):
            told = f"{check_text(finding)}: {finding['measured']}"
            yield f"{told}: robustness may be overestimated"


def told_of(case: Mapping[str, Any]) -> str:
    """Such as 31.2 % [24.5, 38.9] (50/160)."""
    rate = case["at_most"]
    bound = "" if case["complete"] else "at most "
    return " ".join(filter(None, [f"{bound}{percent(rate)}", interval(rate), f"({count(rate)})"]))


def _has(report: "Report", case: Mapping[str, Any]) -> str:
    name, under = report.content["model"]["name"], threat_text(case["threat"])
    return f"{name} has a robust accuracy of {told_of(case)} under {under}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _too_few(rate: Mapping[str, Any], at_least: float) -> str:
    """That the interval holds ``at_least``, if it does, and how many samples would be enough."""
    if not rate["low"] < at_least <= rate["high"]:
        return ""
    enough = samples_to_tell(rate["value"], at_least)
    more = "" if enough is None else f", about {enough} would do"
    return f", but the interval holds both answers: {rate['n']} samples are too few to tell{more}"


def samples_to_tell(found: float, at_least: float) -> int | None:
    """How many samples have an interval of ``found`` that leaves ``at_least`` out.

    A share is in Wilson's interval where it differs from what was found by no more than Z of its
    own standard errors.  None where it would take too many.
    """
    enough = Z * Z * at_least * (1 - at_least)
    apart = (found - at_least) ** 2
    return math.ceil(enough / apart) if enough < _MOST_SAMPLES * apart else None
