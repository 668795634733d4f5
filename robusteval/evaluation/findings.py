"""Measurements to verdicts: can these numbers be trusted, and what is to be done if not?

Every finding is a check with a verdict (``ok``, ``suspicious``, ``broken``), what was measured, and
a sentence on what to do.  Sources: AutoAttack's own checks (Croce and Hein 2020), the indicators of
attack failure (Pintor et al. 2022), the checklist of Carlini et al. (2019).  Pure functions.
"""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from robusteval.evaluation.outcomes import CellOutcome, RunResult
from robusteval.evaluation.verify import NEAR_TIE
from robusteval.types import ThreatModel

Verdict = Literal["ok", "suspicious", "broken"]
Measured = dict[str, Any]
STEADY = 1e-4  # relative change of logits that rounding explains; AutoAttack's own bound
MASKED_SHARE = 0.002  # of all samples: AutoAttack's own bound for what Square alone may break
WOBBLE = 0.25  # undefended and adversarially trained models of the zoo: 0.02 to 0.13
# Attacks that ask for no gradient: (library, attack).
WITHOUT_GRADIENT = {
    ("robusteval", "gaussian_noise"),
    *(("torchattacks", n) for n in ("Square", "GN", "OnePixel", "Pixle", "SPSA", "VANILA")),
}
_MORE = "more steps, restarts, other losses and an adaptive attack are due"


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    verdict: Verdict
    measured: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def findings_of(result: RunResult) -> list[Finding]:
    """Every check that the run allows, in a fixed order."""
    found = [
        steady_predictions(result),
        unchanged_model(result),
        *autoattack_checks(result),
        *(f for t in result.plan.threats for f in gradient_free(result, t)),
        stored_successes(result),
    ]
    if result.verification is not None:
        found.append(verification(result.verification))
    if result.spec.device != "cpu":
        found.append(accelerated(result.spec.device))
    measured = result.diagnostics
    if measured is not None and measured["samples"]:
        found += [check(measured) for check in PROBES]
        if measured["transfer"]:
            found.append(transfer(measured))
    if "diagnostics" in result.failures:
        reason = result.failures["diagnostics"]
        advice = "mend this, or set the suite's [diagnostics] samples = 0"
        found.append(Finding("diagnostics", "suspicious", f"did not finish: {reason}", advice))
    return found


# From the run's own evidence


def steady_predictions(result: RunResult) -> Finding:
    """A model whose clean predictions change between passes or with the batch size."""
    sure = result.gap > NEAR_TIE
    changed = int(((result.clean_prediction != result.second_prediction) & sure).sum())
    measured = (
        f"{changed} of {len(sure)} clean predictions changed between two passes at different "
        "batch sizes"
    )
    if not changed:
        return Finding("steady predictions", "ok", measured)
    return Finding(
        "steady predictions",
        "broken",
        measured,
        "the model is randomised or depends on its batch, so that one lucky success inflates an "
        "attack: average over passes before trusting a number",
    )


def unchanged_model(result: RunResult) -> Finding:
    """Parameters, buffers and clean predictions must be the same after every attack."""
    drifted = {o.cell.spec.title: o.drifted for o in result.outcomes if o.drifted}
    changed = [o.cell.spec.title for o in result.outcomes if "changed the model" in o.reason]
    if changed:
        return Finding(
            "unchanged model",
            "broken",
            f"{', '.join(changed)} changed parameters or buffers, which were put back",
            "those cells have no number: keep the model in eval mode and its parameters frozen",
        )
    if drifted:
        told = ", ".join(f"{count} after {title}" for title, count in drifted.items())
        return Finding(
            "unchanged model",
            "broken",
            f"clean predictions differ: {told}",
            "the model carries state from one pass to the next, or is randomised: no number of "
            "this run can be trusted",
        )
    return Finding(
        "unchanged model", "ok", "parameters, buffers and clean predictions after every attack"
    )


def autoattack_checks(result: RunResult) -> list[Finding]:
    """What AutoAttack's own checks said, and whether Square broke what its gradients left."""
    meant = [o for o in result.outcomes if o.cell.spec.library == "autoattack" and o.attacked.any()]
    found = []
    for outcome in meant:
        said = list(outcome.warnings)
        of_square = [n for n in outcome.notes if n.startswith("square broke ")]
        for note in of_square:
            broken = int(note.split()[2])
            if broken > MASKED_SHARE * len(result.labels):
                said.append(f"{note} samples that its gradient-based members left")
        name = f"AutoAttack's checks, {outcome.cell.threats[0]}"
        if said:
            advice = f"gradients may be masked, or the model randomised: {_MORE}"
            found.append(Finding(name, "suspicious", "; ".join(said), advice))
        else:
            found.append(Finding(name, "ok", "no warning"))
    return found


def gradient_free(result: RunResult, threat: ThreatModel) -> list[Finding]:
    """Carlini: gradient-free attacks must break no more than gradient-based ones do."""
    meant = [o for o in result.outcomes if threat in o.cell.threats and o.status == "done"]
    free = [o for o in meant if _is_free(o)]
    based = [o for o in meant if not _is_free(o)]
    if not free or not based:
        return []
    by_gradient = np.logical_or.reduce([o.success(threat) for o in based])
    alone = {o.cell.spec.title: int((o.success(threat) & ~by_gradient).sum()) for o in free}
    worst = max(alone.values())
    told = ", ".join(f"{title} {count}" for title, count in alone.items())
    measured = f"samples that only gradient-free attacks broke: {told}"
    name = f"gradient-free against gradient-based, {threat}"
    if worst <= max(1, MASKED_SHARE * len(result.labels)):
        return [Finding(name, "ok", measured)]
    return [Finding(name, "suspicious", measured, f"gradients may be masked: {_MORE}")]


def _is_free(outcome: CellOutcome) -> bool:
    return (outcome.cell.spec.library, outcome.cell.spec.attack) in WITHOUT_GRADIENT


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
        "successes hang on the last bits: the model's decision jumps at scales below 1/65535, as "
        "quantised or randomised inputs make it; the numbers err to the model's favour",
    )


def verification(held: Measured) -> Finding:
    """The float32 check at the run's end."""
    measured = (
        f"{held['held']} of {held['images']} stored images hold in float32 at batch size "
        f"{held['batch_size']}, {held['near_ties']} near-ties apart"
    )
    if held["failed"] == 0:
        return Finding("stored images predicted again", "ok", measured)
    return Finding(
        "stored images predicted again",
        "broken",
        f"{measured}; {held['failed']} do not",
        "what was counted does not hold: the model is randomised, depends on its batch, or the "
        "evidence was altered",
    )


def accelerated(device: str) -> Finding:
    """Where the last bit may differ from a run elsewhere."""
    return Finding(
        "same numbers elsewhere",
        "ok",
        f"made on {device}: kernels there may differ in the last bit from other devices, so that "
        "near-ties can fall otherwise; TF32 is off",
    )


# From the diagnostics' measurements


def _slack(measured: Measured) -> int:
    """Samples that chance may move: one, or 5 %."""
    return max(1, math.ceil(0.05 * int(measured["samples"])))


def usable_gradients(measured: Measured) -> Finding:
    """Indicator 1, and AutoAttack's zero-gradient check, for each loss."""
    name, n = "gradients", measured["samples"]
    told = []
    for loss, g in measured["gradients"].items():
        if g["unavailable"]:
            told.append(f"{loss}: none reaches the image")
        elif g["zero"] or g["non_finite"]:
            told.append(f"{loss}: {g['zero']} zero and {g['non_finite']} not finite of {n}")
    if not told:
        losses = ", ".join(measured["gradients"])
        return Finding(name, "ok", f"finite and not zero on {n} samples: {losses}")
    bad = [
        g["unavailable"] or g["non_finite"] > 0 or 2 * g["zero"] > n
        for g in measured["gradients"].values()
    ]
    verdict: Verdict = "broken" if bad[1] or all(bad) else "suspicious"
    advice = (
        "gradient-based attacks see nothing: replace the operation that stops the gradient in "
        "the backward pass (BPDA), and trust gradient-free and transfer attacks alone till then"
        if verdict == "broken"
        else "attacks that climb these losses stall: trust those on margins, which do not"
    )
    return Finding(name, verdict, "; ".join(told), advice)


def proper_logits(measured: Measured) -> Finding:
    """AutoAttack's check for probabilities, and what it misses: log-probabilities, saturation."""
    logits, n = measured["logits"], measured["samples"]
    name, gap = "logits", f"median gap between the two largest {logits['median_gap']:.3g}"
    if 2 * logits["probabilities"] > n:
        advice = "give the logits before the softmax: losses on probabilities vanish"
        return Finding(name, "suspicious", f"they are probabilities; {gap}", advice)
    if 2 * logits["log_probabilities"] > n:
        advice = (
            "give the logits before the log-softmax: losses that read signs or scales go astray, "
            "those on differences do not"
        )
        return Finding(name, "suspicious", f"they are log-probabilities; {gap}", advice)
    if 2 * logits["saturated"] > n:
        advice = (
            "cross-entropy rounds to 0 there, so FGSM, BIM and PGD on it may stall: trust attacks "
            "on margins, or rescale the logits"
        )
        told = f"{logits['saturated']} of {n} are saturated (a gap of 17 and more); {gap}"
        return Finding(name, "suspicious", told, advice)
    return Finding(name, "ok", f"{logits['saturated']} of {n} saturated; {gap}")


def same_outputs(measured: Measured) -> Finding:
    """Outputs that change between two passes, or with the batch's size."""
    changes = measured["passes"]
    between, batch = changes["between_passes"], changes["with_batch_size"]
    told = f"logits change by {between:.1e} between passes, by {batch:.1e} at batch size 1"
    if between > STEADY:
        advice = (
            "the model is randomised: use expectation over passes (EOT), and count a success only "
            "if it repeats"
        )
        return Finding("same outputs", "broken" if between > 0.01 else "suspicious", told, advice)
    if batch > STEADY:
        advice = "the model reads its batch: put it in eval mode, or evaluate image by image"
        return Finding("same outputs", "broken" if batch > 0.01 else "suspicious", told, advice)
    return Finding("same outputs", "ok", told)


def smooth_margin(measured: Measured) -> Finding:
    """Indicator 2: unstable predictions."""
    value = measured["wobble"]["relative"]
    told = f"the margin changes by {100 * value:.0f} % under noise of half the ball"
    if value <= WOBBLE:
        return Finding("stable under noise", "ok", told)
    advice = "the gradient of one point says little of its neighbourhood: average it over noise"
    return Finding("stable under noise", "suspicious", told, advice)


def best_iterate(measured: Measured) -> Finding:
    """Indicator 3: silent success."""
    silent, n = measured["attack"]["silent"], measured["samples"]
    told = f"{silent} of {n} were broken on the way but not by the last step"
    if silent <= 2 * _slack(measured):
        return Finding("last iterate", "ok", told)
    advice = "attacks that return their last iterate understate: keep the best one"
    return Finding("last iterate", "suspicious", told, advice)


def finished_ascent(measured: Measured) -> Finding:
    """Indicator 4: incomplete optimisation."""
    late = measured["attack"]["unfinished"]
    left = measured["samples"] - measured["attack"]["twice"]
    told = f"the margin of {late} of {left} unbroken samples still rose in the last 10 steps"
    if late <= max(_slack(measured), left / 2):
        return Finding("finished ascent", "ok", told)
    return Finding("finished ascent", "suspicious", told, "give attacks more steps")


def steps_pay(measured: Measured) -> Finding:
    """Carlini: iterating beats a single step, and doubling the steps changes nothing."""
    a, slack = measured["attack"], _slack(measured)
    told = (
        f"broken by 1, {a['steps']} and {2 * a['steps']} steps: {a['single_step']}, {a['many']}, "
        f"{a['twice']} of {measured['samples']}"
    )
    if a["single_step"] > a["many"] + slack:
        advice = f"a single step breaks more than many: gradients are masked; {_MORE}"
        return Finding("steps", "suspicious", told, advice)
    if a["twice"] > a["many"] + slack:
        return Finding("steps", "suspicious", told, "more steps still pay: give attacks more")
    return Finding("steps", "ok", told)


def grows_with_eps(measured: Measured) -> Finding:
    """Carlini: success rises with ε."""
    pairs = measured["growth"]["broken"]
    told = ", ".join(f"{count} at {radius:.3g}" for radius, count in pairs)
    falls = max(smaller - larger for (_, smaller), (_, larger) in pairwise(pairs))
    if falls <= _slack(measured):
        return Finding("success grows with ε", "ok", told)
    advice = f"a larger ball holds the smaller: the attack is misled, so {_MORE}"
    return Finding("success grows with ε", "suspicious", told, advice)


def breaks_at_last(measured: Measured) -> Finding:
    """Indicator 6, Carlini: without a bound, every sample falls."""
    broken, n = measured["growth"]["whole_range"], measured["samples"]
    told = f"{broken} of {n} broken where ε is the whole range"
    if broken == n:
        return Finding("unbounded attack", "ok", told)
    verdict: Verdict = "broken" if broken < 0.9 * n else "suspicious"
    advice = f"an attack without a bound that fails is misled by the gradient: {_MORE}"
    return Finding("unbounded attack", verdict, told, advice)


def _alone(name: str, measured: Measured, key: str, said: str) -> Finding:
    part = measured[key]
    told = f"{said} broke {part['broken']}, {part['alone']} of them no gradient did"
    if part["alone"] <= _slack(measured):
        return Finding(name, "ok", told)
    advice = f"what knows less breaks more: gradients are masked; {_MORE}"
    return Finding(name, "broken", told, advice)


def noise(measured: Measured) -> Finding:
    """Carlini: random noise does no better."""
    return _alone("random noise", measured, "noise", f"{measured['noise']['draws']} draws")


def queries(measured: Measured) -> Finding:
    """Carlini: gradient-free attacks do no better."""
    said = f"Square with {measured['square']['queries']} queries"
    return _alone("queries", measured, "square", said)


def transfer(measured: Measured) -> Finding:
    """Carlini: transferred adversarials do no better than white-box ones."""
    return _alone("transfer", measured, "transfer", "adversarials of another model")


PROBES = (
    usable_gradients,
    proper_logits,
    same_outputs,
    smooth_margin,
    best_iterate,
    finished_ascent,
    steps_pay,
    grows_with_eps,
    breaks_at_last,
    noise,
    queries,
)
