"""What earlier versions of this project wrote into a run, in today's form.

Nothing else knows the earlier form, and nothing else takes a sentence apart.  It is checked as
strictly as today's: a file that says it is old has to be what an old version wrote.

Schema 5 and older: a warning had no counts (``right`` and ``of``).

Schema 2: attacks told in sentences what their stages broke and what they warned of, a failure had a
status in the place of its kind, and the digest in a file left its schema out.
"""

import json
import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

OLDEST = 2  # the first with checksums
_IN_SENTENCES = 2
_WITHOUT_COUNTS = 5
_COUNTS: dict[str, Any] = {"right": [], "of": 0}  # of a warning that counts nothing


class _InSentences(TypedDict):
    """What an attack's job told of its chunk in schema 2."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]
    notes: list[str]
    warnings: list[str]
    lost: Annotated[int, Field(ge=0)]
    drifted: Annotated[int, Field(ge=0)]


_FORM = TypeAdapter(_InSentences)
_STAGE = re.compile(r"(?P<name>.+) broke (?P<broke>[0-9]{1,9}) of (?P<of>[0-9]{1,9})")
_NO_GRADIENT = "no gradient reaches the images: the model detaches, or leaves torch, on the way"
_WENT_ON = r"(; went on with (?P<stages>.+))?"
_SHARE, _COSINE = r"(?P<number>[0-9]{1,3}) %", r"(?P<number>-?[0-9]\.[0-9]{2})"
# Each kind's sentence; the first that fits is meant.
_SENTENCES = {
    kind: re.compile(sentence, re.DOTALL)
    for kind, sentence in {
        "random": f"adaptive: outputs change between passes{_WENT_ON}",
        "no_gradient": f"adaptive: {_NO_GRADIENT}{_WENT_ON}",
        "dead": f"adaptive: {_SHARE} of samples have no gradient{_WENT_ON}",
        "turning": "adaptive: gradients turn at a step of ε/10 "
        rf"\(their cosine is {_COSINE}\){_WENT_ON}",
        "searched": f"adaptive: random search found the way that gradients did not{_WENT_ON}",
        "queried": f"adaptive: a few gradient-free queries broke what gradients did not{_WENT_ON}",
        "outdone": f"adaptive: {_SHARE} of samples break only by ascents through larger balls"
        f"{_WENT_ON}",
        "no_autoattack": "AutoAttack can't run: (?P<text>.+)",
        "blind": f"(?P<stages>.+) can't run: {_NO_GRADIENT}",
        "zero_gradient": "there are (?P<number>[0-9]{1,9}) points with zero gradient!(?P<text>.*)",
    }.items()
}


def sealed_with(schema: int, about: Any) -> Any:
    """What the digest in a job's file is over, beside its columns."""
    return about if schema <= _IN_SENTENCES else {"schema": schema, "about": about}


def attack_facts(schema: int, told: Any) -> Any:
    """What an attack's job told of its chunk, as today's would.

    Raises ValueError for what no version of that schema told.
    """
    if schema > _WITHOUT_COUNTS:
        return told
    if schema > _IN_SENTENCES:
        return _with_counts(told)
    try:
        old = _FORM.validate_json(json.dumps(told))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ValueError(f"what it says of its chunk is no such job's ({where})") from None
    matches = [(note, _STAGE.fullmatch(note)) for note in old["notes"]]
    stages = [
        {"name": m["name"], "broke": int(m["broke"]), "of": int(m["of"])} for _, m in matches if m
    ]
    return {
        "stages": stages,
        "warned": [_warned(sentence) for sentence in old["warnings"]],
        "notes": [note for note, match in matches if not match],
        "lost": old["lost"],
        "drifted": old["drifted"],
    }


def _warned(sentence: str) -> dict[str, Any]:
    """A warning that is none of ours is AutoAttack's, in its own words."""
    for kind, form in _SENTENCES.items():
        if match := form.fullmatch(sentence):
            parts = {"number": None, "stages": None, "text": "", **match.groupdict()}
            stages = parts["stages"].split(", ") if parts["stages"] else []
            number = None if parts["number"] is None else float(parts["number"])
            if number is not None and kind in ("dead", "outdone"):
                number /= 100  # was told in percent
            found = {"kind": kind, "number": number, "stages": stages, "text": parts["text"]}
            return {**found, **_COUNTS}
    return {"kind": "library", "number": None, "stages": [], "text": sentence, **_COUNTS}


def _with_counts(told: Any) -> Any:
    """Where what was told has another form than that, today's check says so."""
    if not isinstance(told, dict) or not isinstance(told.get("warned"), list):
        return told
    warned = []
    for one in told["warned"]:
        if not isinstance(one, dict) or one.keys() & _COUNTS.keys():
            raise ValueError("what it says of its chunk is no such job's (warned)")
        warned.append({**one, **_COUNTS})
    return {**told, "warned": warned}


def failure(content: dict[str, Any]) -> dict[str, Any]:
    """Why a job has no evidence, as today's version would say it."""
    if content.keys() != {"status", "reason"} or not isinstance(content["reason"], str):
        return content
    kinds = {"failed": "error", "not_finished": "time_limit"}
    status, reason = content["status"], content["reason"]
    kind = kinds.get(status, "") if isinstance(status, str) else ""
    if kind == "error" and reason == (
        "it changed the model's parameters or buffers; they were put back"
    ):
        kind = "changed"
    return {"kind": kind, "reason": reason}
