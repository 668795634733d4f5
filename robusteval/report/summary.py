"""Outcomes to numbers: the content of ``report.json`` (schema ``robusteval.report/1``)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.attacks.record import Attack
from robusteval.data.entry import usual_threats
from robusteval.data.known import DATASETS
from robusteval.durations import duration_text
from robusteval.evidence.results import NOT_REACHED, CellOutcome, RunResult
from robusteval.evidence.separations import Bools
from robusteval.evidence.telling import stage_text
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Claim
from robusteval.numerics import rate_json
from robusteval.plan.spec import RunSpec
from robusteval.report.attackers import attackers_of
from robusteval.report.claims import claim_row
from robusteval.report.curves import curves_of
from robusteval.report.detection import detection_of
from robusteval.report.prototypes import prototypes_of
from robusteval.trust.findings import findings_of
from robusteval.types import ThreatModel, parse_eps

SCHEMA = "robusteval.report/1"


def summarise(result: RunResult) -> dict[str, Any]:
    """The whole report as plain data, from evidence alone."""
    correct, record = result.clean_correct, result.record
    entry = Entry(**record["entry"]) if record["entry"] else None
    attacks = [
        _attack_row(result, outcome, threat)
        for outcome in result.outcomes
        for threat in outcome.cell.threats
    ]
    worst = [_worst_case(result, threat) for threat in result.plan.threats]
    suite = result.spec.suite
    return {
        "schema": SCHEMA,
        "status": "complete" if result.complete else "incomplete",
        "run": result.spec.digest[:8],
        "model": {**_model(result, entry), "notes": record["model"].get("notes", [])},
        "suite": {
            "name": suite.name,
            "description": suite.description,
            "revision": suite.revision,
        },
        "dataset": _dataset(result),
        "samples": result.spec.samples,
        "budget": _budget(result),
        "seed": result.spec.seed,
        "surrogate": _surrogate(result.spec),
        "missing": _missing(result),
        "findings": [f.to_json() for f in findings_of(result)],
        "clean": {"accuracy": rate_json(correct.sum(), len(correct))},
        "attacks": attacks,
        "left_out": _left_out(result),
        "worst_case": worst,
        "prototypes": prototypes_of(result),
        "curves": curves_of(result),
        **detection_of(result),
        **attackers_of(result),
        "fitting": _fitting(result),
        "claims": [claim_row(c, attacks, worst, correct) for c in _claims(result, entry)],
        "evidence": {
            "digest": result.evidence_digest,
            "keep": result.spec.keep,
            "verification": result.verification,
        },
        "diagnostics": result.diagnostics,
        "seconds": round(result.seconds, 2),
        "provenance": record["provenance"],
    }


def _dataset(result: RunResult) -> dict[str, Any]:
    """The data and which of its samples ran; ``usual_eps``: norms whose ε is what such images get
    where nobody gives one."""
    spec, about = result.spec, result.record["dataset"]
    own, total = spec.own_data, _total(result)
    how = "all" if spec.samples == total else "listed"
    if how != "all" and isinstance(spec.chosen, str):
        how = spec.chosen
    usual = usual_threats(about["shape"][0]).items() if own else []
    return {
        "name": spec.dataset,
        "split": "own" if own else "test",
        "digest": spec.data_digest,
        "classes": about["classes"],
        "samples": total,
        "chosen": {"how": how, "indices": _ranges(result.indices)},
        "usual_eps": [
            norm
            for norm, eps in usual
            if norm not in spec.suite.threats
            and [n for n, e in spec.threats if n == norm] == [norm]
            and (norm, str(parse_eps(eps))) in spec.threats
        ],
    }


def _surrogate(spec: RunSpec) -> dict[str, str] | None:
    """Whose gradients ``adaptive`` followed, too: an entry, or a module given from Python, whose
    name is empty."""
    return dict(zip(("name", "digest"), spec.surrogate, strict=True)) if spec.surrogate else None


def _total(result: RunResult) -> int | None:
    """Samples there were to choose from; None for a known data set that isn't known here."""
    if result.spec.own_data:
        return int(result.record["dataset"]["samples"])
    name = result.spec.dataset
    return DATASETS.get(name).test_samples if name in DATASETS else None


def _ranges(indices: NDArray[np.int64]) -> str:
    """Ascending indices as text.

    >>> _ranges(np.array([0, 1, 2, 7, 9, 10]))
    '0-2,7,9-10'
    """
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    ends = [(int(run[0]), int(run[-1])) for run in runs if len(run)]
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ends)


def _claims(result: RunResult, entry: Entry | None) -> list[Claim]:
    """What a paper reports of the model, on the data that it is about."""
    return entry.claims if entry and entry.dataset == result.spec.dataset else []


def _left_out(result: RunResult) -> list[dict[str, str]]:
    """What this model can't have, and why; and detectors whose fit failed."""
    failed = {name: f"its fit failed: {reason}" for name, reason in result.unfitted.items()}
    detectors = {**result.plan.detectors_left_out, **failed}
    attacks, budget = dict(result.plan.left_out), result.spec.budget
    cut: dict[str, str] = {}
    if budget:
        reason = f"it did not fit into the budget of {duration_text(budget.seconds)}"
        attacks |= dict.fromkeys(budget.attacks, reason)
        cut = dict.fromkeys(budget.parts, reason)
    return [
        {"kind": kind, "name": name, "reason": reason}
        for kind, reasons in (("attack", attacks), ("detector", detectors), ("part", cut))
        for name, reason in reasons.items()
    ]


def _budget(result: RunResult) -> dict[str, Any] | None:
    """What the run was cut to; null where no budget was given."""
    budget = result.spec.budget
    if budget is None:
        return None
    return {
        "seconds": budget.seconds,
        "planned_seconds": budget.planned,
        "samples_asked": budget.samples,
        "left_out": [*budget.attacks, *budget.parts],
    }


def _fitting(result: RunResult) -> dict[str, Any] | None:
    """What detectors were fitted to, by no split where a user gave it; null where none was."""
    fitted = [name for name in result.plan.fits if name not in result.unfitted]
    if not result.spec.training or not fitted:
        return None
    samples, digest = result.spec.training
    split = "" if result.spec.own_training else "train"
    told = {"detectors": fitted, "split": split, "samples": samples, "digest": digest}
    return {**told, **_tuning(result)}


def _tuning(result: RunResult) -> dict[str, Any]:
    """Which settings were chosen, by which outliers; nothing where none were."""
    if not result.spec.tuning:
        return {}
    name, samples, digest = result.spec.tuning
    outliers = {"outliers": name, "samples": samples, "digest": digest}
    return {"tuning": {**outliers, "settings": result.settings}}


def _missing(result: RunResult) -> list[dict[str, Any]]:
    """What has no evidence, or not all of it, and why; ``reached`` is what was tried."""
    attacks = [
        ("attack", f"{o.cell.spec.title}, {threat.title}", o.reason)
        for o in result.outcomes
        for threat in o.cell.threats
        if o.status != "done"
    ]
    others = [
        ("diagnostics" if name == "diagnostics" else "outliers", name, reason)
        for name, reason in result.failures.items()
    ]
    return [
        {"kind": kind, "name": name, "reason": reason, "reached": reason != NOT_REACHED}
        for kind, name, reason in (*attacks, *others)
    ]


def _model(result: RunResult, entry: Entry | None) -> dict[str, Any]:
    """The model's entry in short; a module given from Python has a name and a digest."""
    if entry is None:
        digest = result.spec.model_digest
        return {
            "name": result.spec.model,
            "method": "",
            "training": "",
            "description": "A module given from Python.",
            "reading": "module",
            "prototype_layers": result.record["model"]["layers"],
            "digest": digest,
            "weights_sha256": digest,
            "revision": None,
            "license": "",
            "paper": None,
            "trained": None,
        }
    return {
        "name": entry.name,
        "method": entry.method,
        "training": entry.training.kind if entry.training else "",
        "description": entry.description,
        "reading": "factory" if entry.factory else "onnx" if entry.onnx else entry.head.reading,
        "prototype_layers": result.record["model"]["layers"],
        "digest": entry.digest,
        "weights_sha256": entry.stored.sha256 if entry.stored else None,
        "revision": entry.revision,
        "license": entry.license,
        "paper": entry.paper.model_dump() if entry.paper else None,
        "trained": entry.trained.model_dump() if entry.trained else None,
    }


def _attack_row(result: RunResult, outcome: CellOutcome, threat: ThreatModel) -> dict[str, Any]:
    spec, attack, correct = outcome.cell.spec, outcome.cell.attack, result.clean_correct
    about = result.record["attacks"][outcome.cell.key]
    success = outcome.success(threat)
    done = outcome.status == "done"
    row: dict[str, Any] = {
        "name": spec.name,
        "title": spec.title,
        "library": attack.library.name,
        "library_version": about["library_version"],
        "attack": spec.attack,
        "source": spec.source,
        "version": about.get("version"),
        "threat": threat.to_json(),
        "parameters": {**_told_eps(attack, threat), **about["parameters"]},
        "restarts": spec.restarts,
        "status": outcome.status,
        "reason": outcome.reason,
        "attacked": int(outcome.attacked.sum()),
        "robust_accuracy": rate_json(correct.sum() - success.sum(), len(correct)) if done else None,
        "success_rate": rate_json(success.sum(), correct.sum()) if done else None,
        "passes": {
            "forward": round(float(outcome.forward_passes.sum())),
            "backward": round(float(outcome.backward_passes.sum())),
        },
        "seconds": round(outcome.seconds, 3),
        "verified": _verified(outcome, success, result.tie),
        "note": spec.note,
        "findings": [
            *outcome.notes,
            *(stage_text(stage) for stage in outcome.stages),
            *(str(raised) for raised in outcome.warned),
        ],
        "evidence": outcome.evidence,
    }
    if not attack.knows_eps:
        row["unbounded"] = _unbounded(outcome, correct, done)
    return row


def _told_eps(attack: Attack, threat: ThreatModel) -> dict[str, Any]:
    return {"eps": threat.eps_text} if attack.knows_eps else {}


def _unbounded(outcome: CellOutcome, correct: Bools, done: bool) -> dict[str, Any]:
    """The papers' reading of an attack that knows no ε: success at any distance."""
    fooled = outcome.fooled
    median = float(np.median(outcome.norm[fooled])) if fooled.any() else None
    return {
        "success_rate": rate_json(fooled.sum(), correct.sum()) if done else None,
        "accuracy": rate_json(correct.sum() - fooled.sum(), len(correct)) if done else None,
        "median_norm": median,
        "meaning": "success at any distance; not robust accuracy",
    }


def _verified(outcome: CellOutcome, success: Bools, tie: float) -> dict[str, Any]:
    """What was checked of the counted images: predicted again, measured, rounded."""
    norms, margins = outcome.norm[success], outcome.margin[success]
    return {
        "counted": int(success.sum()),
        "largest_norm": float(norms.max()) if len(norms) else None,
        "near_ties": int((margins < tie).sum()),
        "survive_8_bit": int((outcome.survives_8_bit & success).sum()),
    }


def _worst_case(result: RunResult, threat: ThreatModel) -> dict[str, Any]:
    """A sample is robust only if no attack under this threat model broke it.

    Where a budget left attacks out, what is left of them is an upper bound as if they had failed.
    """
    correct, budget = result.clean_correct, result.spec.budget
    robust, complete = result.robust(threat)
    complete = complete and not (budget and budget.attacks)
    per_class = []
    for k, name in enumerate(result.record["dataset"]["classes"]):
        of_class = result.labels == k
        rate = rate_json((robust & of_class).sum(), of_class.sum())
        row = {"class": name, "robust_accuracy": rate if complete else None, "at_most": rate}
        per_class.append(row)
    return {
        "threat": threat.to_json(),
        "complete": complete,
        "robust_accuracy": rate_json(robust.sum(), len(robust)) if complete else None,
        "at_most": rate_json(robust.sum(), len(robust)),
        "success_rate": rate_json((correct & ~robust).sum(), correct.sum()) if complete else None,
        "per_class": per_class,
    }
