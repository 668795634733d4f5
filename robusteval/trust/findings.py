"""A run's findings: can its numbers be trusted, and what is to be done if not?

Verdicts on the run's own evidence stand here, those on the diagnostics' probes in ``verdicts``.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.data.known import DATASETS
from robusteval.evidence.images import LEVELS
from robusteval.evidence.results import CellOutcome, RunResult
from robusteval.evidence.telling import stage_text
from robusteval.numerics import drawn_alike, wilson
from robusteval.plan.spec import RunSpec
from robusteval.trust.circumstances import (
    accelerated,
    cut_to_budget,
    led_by_a_surrogate,
    unprobed,
)
from robusteval.trust.detectors import detector_findings
from robusteval.trust.verdicts import MORE, Finding, Measured, probed
from robusteval.types import Norm, Rate, ThreatModel

MASKED_SHARE = 0.002  # of all samples: AutoAttack's own bound for what Square alone may break
MASKED = f"gradients may be masked, or the model randomised: {MORE}"
STEADY, UNCHANGED = "steady predictions", "unchanged model"
AS_TRAINED = (
    "check the model's normalisation (mean and std), the order of its classes, and the range of "
    "its images ([0, 1], not [0, 255]): until then numbers under attack say little"
)
UNTRAINED = (
    "the entry names no [weights]: unless its factory loads some, this is an untrained network; "
    "otherwise "
)
# Of clean accuracy: what another machine's last bits explain, and the chance of a false alarm.
NUMERICS, BY_CHANCE = 0.001, 0.001
# Of clean samples: a classifier beside prototypes decides the rare close ones otherwise.
LIKE_THE_MODULE = 0.9


def findings_of(result: RunResult) -> list[Finding]:
    """Every check that the run allows, in a fixed order."""
    found = [
        clean_finding(result.spec, result.record, result.labels, result.clean_prediction),
        steady_predictions(result),
        unchanged_model(result),
        *autoattack_checks(result),
        *attacks_warnings(result),
        attacks_at_work(result),
        *(f for t in result.plan.threats for f in gradient_free(result, t)),
        *prototypes_agree(result.record["model"].get("prototypes")),
        stored_successes(result),
    ]
    if result.verification is not None:
        found.append(verification(result.verification))
    found += [led_by_a_surrogate(result.spec)] if result.spec.surrogate else []
    if result.spec.budget:
        found.append(cut_to_budget(result.spec.budget, result.spec.samples))
    if result.spec.device != "cpu":
        found.append(accelerated(result.spec.device))
    found += detector_findings(result)
    found += probed(result.diagnostics)
    if "diagnostics" in result.failures:
        found.append(unprobed(result.failures["diagnostics"]))
    return found


# From the run's own evidence


def clean_finding(
    spec: RunSpec,
    record: dict[str, Any],
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
) -> Finding:
    """``plausible_accuracy`` of a run's clean predictions; it needs no more than those, so that it
    can be told before attacks run."""
    entry = record["entry"] or {}
    trained = entry.get("trained") if entry.get("dataset") == spec.dataset else None
    counts = (trained["clean_correct"], trained["clean_total"]) if trained else None
    found = plausible_accuracy(labels, predictions, record["dataset"]["classes"], counts)
    if found.verdict != "ok" and entry.get("factory") and not entry.get("weights"):
        return replace(found, advice=UNTRAINED + found.advice)
    return found


def doubted(
    spec: RunSpec,
    record: dict[str, Any],
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
) -> str:
    """The same in words, where it isn't ok."""
    found = clean_finding(spec, record, labels, predictions)
    return "" if found.verdict == "ok" else str(found)


def plausible_accuracy(
    labels: NDArray[np.int64],
    predictions: NDArray[np.int64],
    classes: Sequence[str],
    trained: tuple[int, int] | None = None,
) -> Finding:
    """Whether clean accuracy is above chance, and what it was when the model was trained.

    At chance: the 95 % interval reaches down to 1/K, or one class is predicted for all.
    ``trained``: how many of the whole test split were right then, and of how many.  A run's samples
    are part of that split, so theirs may differ by as much as drawing so many explains (exact,
    two-sided, p < 0.001), and by 0.1 % for other numerics.  On the whole split nothing is drawn:
    only the 0.1 % are left.
    """
    rate = wilson(int((labels == predictions).sum()), len(labels))
    assert rate is not None, "a run has samples"
    interval = f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    told = f"{100 * rate.value:.1f} % {interval} of {rate.n} samples are right"
    then = _share(trained) if trained else None
    guessing = f"{100 / len(classes):.1f} %"
    if len(set(labels.tolist())) > 1 and len(set(predictions.tolist())) == 1:
        told += f", and all are taken for {dict(enumerate(classes)).get(int(predictions[0]))}"
    elif rate.low <= 1 / len(classes):
        told += f", where guessing among {len(classes)} classes gives {guessing}"
    elif then and not _agree(rate, then):
        told += f", where the entry's [trained] says {_of_split(then)}"
    else:
        so = f", as [trained] says: {_of_split(then)}" if then else f"; guessing gives {guessing}"
        return Finding("clean accuracy", "ok", told + so)
    return Finding("clean accuracy", "suspicious", told, AS_TRAINED)


def _share(trained: tuple[int, int]) -> Rate | None:
    """None for counts that are none."""
    k, n = trained
    return wilson(k, n) if 0 <= k <= n else None


def _of_split(then: Rate) -> str:
    return f"{100 * then.value:.1f} % ({then.k}/{then.n})"


def _agree(now: Rate, then: Rate) -> bool:
    """Whether the fewer samples may be drawn from the more."""
    few, many = sorted((now, then), key=lambda rate: rate.n)
    slack = max(1, round(NUMERICS * few.n))
    off = few.k - few.n * many.value
    if abs(off) <= slack:
        return True
    nearer = few.k - slack if off > 0 else few.k + slack
    return drawn_alike(nearer, few.n, many.k, many.n) >= BY_CHANCE


def steady_predictions(result: RunResult) -> Finding:
    """A model whose clean predictions change between passes or with the batch size."""
    sure = result.gap > result.tie
    changed = int(((result.clean_prediction != result.second_prediction) & sure).sum())
    measured = (
        f"{changed} of {len(sure)} clean predictions changed between two passes at different "
        "batch sizes"
    )
    if not changed:
        return Finding(STEADY, "ok", measured)
    return Finding(
        STEADY,
        "broken",
        measured,
        "the model is randomised, or depends on its batch, so an attack can succeed by luck: "
        "average over passes before trusting a number",
    )


def unchanged_model(result: RunResult) -> Finding:
    """Parameters, buffers and clean predictions must be the same after every attack."""
    drifted = {o.cell.spec.title: o.drifted for o in result.outcomes if o.drifted}
    changed = [o.cell.spec.title for o in result.outcomes if o.failure == "changed"]
    if changed:
        return Finding(
            UNCHANGED,
            "broken",
            f"{', '.join(changed)} changed parameters or buffers, which were put back",
            "these attacks have no number: keep the model in eval mode and its parameters frozen",
        )
    if drifted:
        told = ", ".join(f"{count} after {title}" for title, count in drifted.items())
        return Finding(
            UNCHANGED,
            "broken",
            f"clean predictions differ: {told}",
            "the model carries state from one pass to the next, or is randomised: no number of "
            "this run can be trusted",
        )
    return Finding(UNCHANGED, "ok", "parameters, buffers and clean predictions after every attack")


def autoattack_checks(result: RunResult) -> list[Finding]:
    """What AutoAttack's own checks said, and whether Square broke what its gradients left."""
    meant = [o for o in result.outcomes if o.cell.spec.library == "autoattack" and o.attacked.any()]
    found = []
    for outcome in meant:
        said = [str(raised) for raised in outcome.warned]
        for stage in outcome.stages:
            if stage.name == "square" and stage.broke > MASKED_SHARE * len(result.labels):
                said.append(f"{stage_text(stage)} samples that its gradients did not break")
        name, threat = "AutoAttack's checks", outcome.cell.threats[0]
        if said:
            found.append(Finding(name, "suspicious", "; ".join(said), MASKED, threat))
        else:
            found.append(Finding(name, "ok", "no warning", threat=threat))
    return found


def attacks_warnings(result: RunResult) -> list[Finding]:
    """What the other attacks warned of: ``adaptive``, of gradients that are masked."""
    return [
        Finding(
            f"{outcome.cell.spec.title}'s checks",
            "suspicious",
            "; ".join(str(raised) for raised in outcome.warned),
            MASKED,
            threat,
        )
        for outcome in result.outcomes
        for threat in outcome.cell.threats
        if outcome.warned and outcome.cell.spec.library != "autoattack"
    ]


def attacks_at_work(result: RunResult) -> Finding:
    """An attack that asks the model nothing, and returns every image as it was, is no attack.

    Noise asks nothing either, and in a tiny ball 16 bits round it away.
    """
    still = [o for o in result.outcomes if _moves_nothing(result, o)]
    idle = [o for o in still if not (o.forward_passes + o.backward_passes).any()]
    name = "attacks at work"
    if not still:
        return Finding(name, "ok", "every attack changed an image")
    if not idle:
        return Finding(
            name,
            "suspicious",
            f"asked the model, and returned every image as it was: {_called(still)}",
            "its robust accuracy is clean accuracy: look at its step size, and at the gradients",
        )
    return Finding(
        name,
        "broken",
        f"returned every image as it was and spent no pass: {_called(idle)}",
        "it did nothing, so its robust accuracy is clean accuracy: mend its parameters",
    )


def _moves_nothing(result: RunResult, outcome: CellOutcome) -> bool:
    """Whether an attack returned all as it was; the noise control may."""
    spec = outcome.cell.spec
    if outcome.status != "done" or not outcome.attacked.any() or spec.attack == "gaussian_noise":
        return False
    least = _of_storing(result, outcome.cell.threats[0].norm)
    return bool((outcome.norm[outcome.attacked] <= least).all())


def _called(outcomes: Sequence[CellOutcome]) -> str:
    return ", ".join(f"{o.cell.spec.title} ({o.cell.threats[0].title})" for o in outcomes)


def _of_storing(result: RunResult, norm: Norm) -> float:
    """The norm that an image gets by being stored alone: at most half a level in each pixel."""
    level = (0.5 + 1e-6) / LEVELS
    return level if norm == "Linf" else level * math.sqrt(_pixels(result))


def _pixels(result: RunResult) -> int:
    """Of an image, all its channels; 1 where an older run is of data that aren't known here."""
    if shape := result.record["dataset"].get("shape"):
        return math.prod(shape)
    if result.spec.dataset not in DATASETS:
        return 1
    known = DATASETS.get(result.spec.dataset).shape
    return known.channels * known.height * known.width


def gradient_free(result: RunResult, threat: ThreatModel) -> list[Finding]:
    """Carlini: gradient-free attacks must break no more than gradient-based ones do."""
    meant = [o for o in result.outcomes if threat in o.cell.threats and o.status == "done"]
    free = [o for o in meant if o.cell.gradients == "none"]
    based = [o for o in meant if o.cell.gradients == "uses"]
    if not free or not based:
        return []
    by_gradient = np.logical_or.reduce([o.success(threat) for o in based])
    alone = {o.cell.spec.title: int((o.success(threat) & ~by_gradient).sum()) for o in free}
    worst = max(alone.values())
    told = ", ".join(f"{title} {count}" for title, count in alone.items())
    measured = f"samples that only gradient-free attacks broke: {told}"
    name = "gradient-free against gradient-based"
    if worst <= max(1, MASKED_SHARE * len(result.labels)):
        return [Finding(name, "ok", measured, threat=threat)]
    return [Finding(name, "suspicious", measured, f"gradients may be masked: {MORE}", threat)]


def prototypes_agree(told: Measured | None) -> list[Finding]:
    """Whether prototypes that were given beside a module name the classes that it says itself."""
    if told is None or told["same"] is None:
        return []
    name, same, of = "nearest prototype and module", told["same"], told["of"]
    measured = f"the nearest prototype's class is the module's own on {same} of {of} clean samples"
    if same >= LIKE_THE_MODULE * of:
        return [Finding(name, "ok", measured)]
    return [
        Finding(
            name,
            "suspicious",
            measured,
            "check whether they are this module's prototypes: the order of classes, the layer and "
            "the similarity; until then attacks and detectors by prototypes say little",
        )
    ]


def stored_successes(result: RunResult) -> Finding:
    """Indicator 5: a success on the attack's side that the counted image doesn't keep."""
    lost = sum(o.lost for o in result.outcomes)
    kept = sum(int(o.fooled.sum()) for o in result.outcomes)
    measured = f"{lost} successes did not survive storing in 16 bits, {kept} did"
    if lost <= max(1, 0.01 * (lost + kept)):
        return Finding("stored successes", "ok", measured)
    return Finding(
        "stored successes",
        "suspicious",
        measured,
        "successes depend on the last bits: the model's decision changes within 1/65535, as with "
        "quantised or randomised inputs; so robust accuracy may be too high",
    )


def verification(held: Measured) -> Finding:
    """The float32 check at the run's end.

    Near-ties show nothing false, since images on the boundary are what attacks that minimise a norm
    look for, so that they are never ``broken``.  But where they outnumber what holds, little or
    nothing is shown at all.
    """
    name = "stored images predicted again"
    measured = (
        f"{held['held']} of {held['images']} stored images hold in float32 at batch size "
        f"{held['batch_size']}, {held['near_ties']} near-ties apart"
    )
    if held["failed"]:
        return Finding(
            name,
            "broken",
            f"{measured}; {held['failed']} do not",
            "what was counted does not hold: the model is randomised, depends on its batch, or the "
            "evidence was altered",
        )
    if held["near_ties"] > held["held"]:
        return Finding(
            name,
            "suspicious",
            measured,
            "another machine may count near-ties otherwise: unless attacks that minimise a norm "
            "made them, the model's outputs differ by no more than rounding, so scale its logits "
            "up or compute its head in float64",
        )
    return Finding(name, "ok", measured)
