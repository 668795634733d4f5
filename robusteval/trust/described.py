"""What a run's record says of its model, its data, its attacks and its machine, checked.

What neither the model nor the data can tell is checked for its form when the record is read, and
said here to be the run's own word.
"""

import json
from importlib.metadata import version
from typing import Any

from robusteval.attacks.versions import others, version_then
from robusteval.evidence.pieces import canonical
from robusteval.evidence.results import RunResult
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry
from robusteval.plan.budget import Budget
from robusteval.plan.context import Access, Context, open_entry
from robusteval.plan.made_with import code_digests, library_versions, model_versions
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import STATIC, Suite, read_suite, suite_names
from robusteval.trust.verify import Check, model_as_told

AS_IT_SAYS = "commit, versions, hardware, date, seconds"


def description_holds(context: Context, record: dict[str, Any]) -> list[Check]:
    """Of the model's outputs, the data's classes, the attacks, and its entry if it has one."""
    now = json.loads(json.dumps(context.described()))
    stored: dict[str, Any] = {key: dict(record.get(key, {})) for key in now}
    for key in _of_other_code(context):  # then its version is the run's word
        for attacks in (stored["attacks"], now["attacks"]):
            attacks[key] = {**attacks.get(key, {}), "version": None}
    if stored["dataset"] and "shape" not in stored["dataset"]:  # an older run's
        del now["dataset"]["shape"]
    if "outliers" not in record:
        now.pop("outliers", None)
    now["model"] = model_as_told(stored["model"], now["model"])
    stored["versions"], now["versions"] = _packages(context)
    if context.spec.code:  # older runs have none
        due = code_digests(context.spec.suite)
        stored["code"], now["code"] = sorted(context.spec.code), sorted(due)
    checks = [_same("what the report describes", stored, now, f"{len(now['attacks'])} attacks")]
    if context.access.entry:
        checks.append(entry_holds(context.spec, context.access, record))
    return checks


def entry_holds(spec: RunSpec, access: Access, record: dict[str, Any]) -> Check:
    """What the run says of its model is what the entry says."""
    now = open_entry(spec, access).model_dump(mode="json")
    told = record["entry"] or {}
    earlier = spec.versions.get("robusteval") != version("robusteval")
    if told and earlier:  # it may lack later fields
        told = Entry(**told).model_dump(mode="json")
    return _same("the model's entry", told, now, spec.model)


def _same(name: str, told: dict[str, Any], now: dict[str, Any], fine: str) -> Check:
    # As JSON, where true is not 1.
    differ = [key for key in now if canonical(told.get(key)) != canonical(now[key])]
    said = f"{', '.join(differ)} of run.json differ from what is found now" if differ else fine
    return Check(name, not differ, said)


def _of_other_code(context: Context) -> list[str]:
    """The cells whose attacks' code isn't what this version has."""
    then, now = context.spec.code, code_digests(context.spec.suite)
    keys = {cell.key: cell.attack.key for cell in context.plan.cells}
    return [key for key, attack in keys.items() if then.get(attack) != now[attack]]


def _packages(context: Context) -> tuple[list[str], list[str]]:
    """The names of packages whose versions the run holds, and of those that it should; runs from
    before attacks had versions held none of pytorch-ood, and one digest for all attacks."""
    told, due = set(context.spec.versions), set(library_versions(context.spec.suite))
    entries = [context.access.entry] * bool(context.access.entry) + list(context.spec.sources)
    due |= set(model_versions(*map(find_entry, entries)))
    if not context.spec.code:
        told, due = told - {"attacks"}, due - {"pytorch-ood"}
    return sorted(told), sorted(due)


def _other_attacks(result: RunResult) -> list[str]:
    """Names of the attacks that this version has other versions of."""
    about = result.record["attacks"]
    older = version_then(result.spec.versions.get("attacks", ""))
    then = {key: told.get("version", older) for key, told in about.items()}
    return others(then, {cell.key: cell.attack for cell in result.plan.cells})


def _other_code(spec: RunSpec) -> list[str]:
    """Keys of attacks and detectors that other code computed; older runs can't tell."""
    now = code_digests(spec.suite)
    return [key for key, digest in spec.code.items() if now.get(key) != digest]


def as_the_run_says(result: RunResult) -> list[Check]:
    """What can't be checked against anything: where it was run, and a suite of the user's own."""
    about = result.record["provenance"]
    versions = " ".join(f"{k} {v}" for k, v in about["versions"].items())
    state = {True: " with changes", False: "", None: ""}[about["dirty"]]
    if others := _other_attacks(result):
        versions += f" (by other attacks than this version's: {', '.join(others)})"
    if changed := _other_code(result.spec):
        versions += f" (by other code than this version's: {', '.join(changed)})"
    told = (
        f"{about['commit'] or 'no commit'}{state}, {about['hardware']} ({about['device']}, "
        f"{about['threads']} threads), {about['date']}, {result.seconds:.0f} s; {versions}"
    )
    return [
        _suite(result.spec.suite, result.spec.budget),
        Check(AS_IT_SAYS, True, told, proven=False),
    ]


def _suite(suite: Suite, budget: Budget | None) -> Check:
    """Whether attacks, diagnostics and texts are those of the project's suite of that name, but for
    parts that were left out for a budget."""
    cut = budget.parts if budget else ()
    if suite.name not in suite_names():
        return Check("suite", True, f"{suite.name}, which is not the project's", proven=False)
    own = read_suite(suite.name)
    known = {attack.name: attack.model_dump_json() for attack in own.attacks}
    differ = [
        a.name
        for a in suite.attacks
        if known.get(a.name) != a.model_dump_json()
        and a.attack != "transfer"
        and not (a.source and a.name.startswith(STATIC))
    ]
    differ += ["description"] if suite.description != own.description else []
    if "diagnostics" not in cut and suite.diagnostics != own.diagnostics:
        differ.append("diagnostics")
    if "detection" not in cut and suite.detection.detectors != own.detection.detectors:
        differ.append("detection")
    if differ:
        told = f"{suite.name}, with other {', '.join(differ)} than the project's suite of that name"
        return Check("suite", True, told, proven=False)
    left_out = len(known) - sum(a.name in known for a in suite.attacks)
    some = f", {left_out} of its {len(known)} attacks left out" if left_out else ""
    some += f", {' and '.join(cut)} too" if cut else ""
    return Check("suite", True, f"the project's {suite.name}{some}")
