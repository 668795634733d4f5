"""The diagnostics' measurements to verdicts: is the gradient masked?  Pure functions.

Every finding is a check with a verdict (``ok``, ``suspicious``, ``broken``), what was measured, and
a sentence on what to do.  Probes are made in a run's first threat model, and what they tell is told
of the model: gradients that mislead in one ball are trusted in no other.

Sources: AutoAttack's own checks (Croce and Hein 2020), the indicators of attack failure (Pintor et
al. 2022), the checklist of Carlini et al. (2019).
"""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from robusteval.types import ThreatModel

Verdict = Literal["ok", "suspicious", "broken"]
Measured = dict[str, Any]
STEADY = 1e-4  # relative change of logits that rounding explains; AutoAttack's own bound
WOBBLE = 0.25  # undefended and adversarially trained models of the zoo: 0.02 to 0.13
MORE = "more steps, restarts, other losses and an adaptive attack are due"


@dataclass(frozen=True)
class Finding:
    """One check: of one threat model's numbers, or, where that is None, of the whole run's.

    ``about``: robust accuracy, or the detectors alone, which casts no doubt on the worst case.
    """

    check: str
    verdict: Verdict
    measured: str
    advice: str = ""
    threat: ThreatModel | None = None
    about: Literal["robustness", "detection"] = "robustness"

    def to_json(self) -> Measured:
        return {**asdict(self), "threat": self.threat.to_json() if self.threat else None}

    def __str__(self) -> str:
        """In a line: check, verdict, what was measured, what to do."""
        check = f"{self.check}, {self.threat.title}" if self.threat else self.check
        said = f"{check}: {self.verdict}: {self.measured}"
        return f"{said}; {self.advice}" if self.advice else said


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
        "the backward pass (BPDA); until then trust gradient-free and transfer attacks alone"
        if verdict == "broken"
        else "attacks that climb these losses stall: trust those on margins, which do not"
    )
    return Finding(name, verdict, "; ".join(told), advice)


_SQUASHED = {
    "sigmoid": "as by a sigmoid",
    "tanh": "as by tanh",
    "ends": "many of them to the ends of their range",
}


def proper_logits(measured: Measured) -> Finding:
    """AutoAttack's check for probabilities, and what it misses: log-probabilities, sigmoids and
    their like, saturation."""
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
    if squashed := _SQUASHED.get(logits.get("squashed", "")):
        advice = (
            "give the logits before that function: it keeps their order, so that the model is no "
            "more robust, but margins saturate"
        )
        return Finding(name, "suspicious", f"they are squashed, {squashed}; {gap}", advice)
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
        advice = f"a single step breaks more than many: gradients are masked; {MORE}"
        return Finding("steps", "suspicious", told, advice)
    if a["twice"] > a["many"] + slack:
        return Finding(
            "steps", "suspicious", told, "more steps still break more samples: give attacks more"
        )
    return Finding("steps", "ok", told)


def grows_with_eps(measured: Measured) -> Finding:
    """Carlini: success rises with ε."""
    pairs = measured["growth"]["broken"]
    told = ", ".join(f"{count} at {radius:.3g}" for radius, count in pairs)
    falls = max(smaller - larger for (_, smaller), (_, larger) in pairwise(pairs))
    if falls <= _slack(measured):
        return Finding("success grows with ε", "ok", told)
    advice = f"a larger ball holds the smaller: the attack is misled, so {MORE}"
    return Finding("success grows with ε", "suspicious", told, advice)


def breaks_at_last(measured: Measured) -> Finding:
    """Indicator 6, Carlini: without a bound, every sample falls."""
    broken, n = measured["growth"]["whole_range"], measured["samples"]
    told = f"{broken} of {n} broken where ε is the whole range"
    if broken == n:
        return Finding("unbounded attack", "ok", told)
    verdict: Verdict = "broken" if broken < 0.9 * n else "suspicious"
    advice = f"an attack without a bound that fails is misled by the gradient: {MORE}"
    return Finding("unbounded attack", verdict, told, advice)


def _alone(name: str, measured: Measured, key: str, said: str) -> Finding:
    part = measured[key]
    told = f"{said} broke {part['broken']}, {part['alone']} of them no gradient did"
    if part["alone"] <= _slack(measured):
        return Finding(name, "ok", told)
    advice = f"what knows less breaks more: gradients are masked; {MORE}"
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


def probed(measured: Measured | None) -> list[Finding]:
    """A verdict on each probe that was made, in a fixed order."""
    if measured is None or not measured["samples"]:
        return []
    found = [check(measured) for check in PROBES]
    return [*found, transfer(measured)] if measured["transfer"] else found
