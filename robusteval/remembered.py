"""Reports that were asked for before, printed without torch.

Whoever asks for a finished run again gets its report as it stands, if nothing has changed since:
neither what decides how the run comes out (see ``inputs``), nor its evidence, nor the report.  What
these were, as digests, stands in the user's cache, where a run leaves it that ends complete.  It is
no evidence: without it, and wherever anything differs, the ordinary way decides by the run's spec
and its evidence.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robusteval.evidence.files import Local
from robusteval.inputs import digest_of_run
from robusteval.installed import file_digest, installation
from robusteval.places import Place, Url
from robusteval.reading import read_file
from robusteval.report.returned import Report
from robusteval.storage import cache_dir, write_cache

_EVIDENCE, _RECORD = "evidence", "run.json"
_REPORT = ("row.csv", "report.md", "report.html", "report.json")
_WITH_DETECTORS = ("detection.csv",)
_MOST = 2**14  # bytes of what is remembered of a run
_NOT_DECISIVE = ("as_json", "dry_run")


@dataclass(frozen=True)
class Question:
    """What was asked: where its answer is remembered, and what decides it, as a digest.

    ``evidence``: of a run's report alone, which is decided by it.
    """

    place: Path
    digest: str
    evidence: str = ""


def run_question(params: Mapping[str, Any]) -> Question | None:
    """Of ``robusteval run``'s parameters; None where files don't tell what decides."""
    if isinstance(params["out"], Url):  # asking a store takes as long as the ordinary way
        return None
    place, digest = _place("run", params), digest_of_run(params)
    return Question(place, digest) if place and digest else None


def report_question(run: Place) -> Question | None:
    """Of ``robusteval report``; None for what is not a run's folder."""
    if isinstance(run, Url):
        return None
    place, evidence = _place("report", {"run": run}), _evidence_digest(run)
    return Question(place, installation(), evidence) if place and evidence else None


def recall(question: Question | None) -> Report | None:
    """The report, if the same was asked before and nothing has changed since."""
    if question is None:
        return None
    with suppress(OSError, ValueError, TypeError, LookupError):
        known = json.loads(read_file(question.place, _MOST))
        folder = Path(known["folder"])
        now = {"question": question.digest, "folder": str(folder), **_state(folder)}
        if known == now and question.evidence in ("", now["evidence"]):
            return Report(json.loads(Local(folder).read("report.json")), folder)
    return None


def remember(question: Question | None, again: Question | None, report: Report) -> None:
    """Notes that this was the answer, if the question, asked ``again``, is still the same."""
    if isinstance(report.folder, Url):
        return
    state = _state(report.folder)
    if question is None or question != again or not all(state.values()):
        return
    known = {"question": question.digest, "folder": str(report.folder), **state}
    write_cache(question.place, json.dumps(known).encode())


def _place(verb: str, params: Mapping[str, Any]) -> Path | None:
    """One for each way to ask: the parameters, the folder, and what the environment names."""
    if (folder := cache_dir()) is None:
        return None
    named = {name: os.environ[name] for name in os.environ if name.startswith("ROBUSTEVAL_")}
    asked = {name: params[name] for name in params if name not in _NOT_DECISIVE}
    what = json.dumps([verb, os.getcwd(), named, asked], sort_keys=True, default=str)
    key = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
    return folder / "reports" / f"{key[:24]}.json"


def _state(folder: Path) -> dict[str, str]:
    names = (*_REPORT, *filter(lambda name: (folder / name).exists(), _WITH_DETECTORS))
    return {"evidence": _evidence_digest(folder), "report": _files_digest(folder, names)}


def _evidence_digest(folder: Path) -> str:
    """SHA-256 over all that a report is made from; empty where there is no run."""
    names = [f"{_EVIDENCE}/{name}" for name in Local(folder).names(_EVIDENCE)]
    return _files_digest(folder, (_RECORD, *names))


def _files_digest(folder: Path, names: tuple[str, ...]) -> str:
    try:
        told = [(name, file_digest(folder / name)) for name in names]
    except OSError:
        return ""
    return hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).hexdigest()
