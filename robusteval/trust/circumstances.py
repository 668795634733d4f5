"""What a reader should know of how a run was made, as findings."""

from robusteval.durations import duration_text
from robusteval.evidence.results import NOT_REACHED
from robusteval.plan.budget import Budget
from robusteval.plan.spec import RunSpec
from robusteval.trust.verdicts import Finding


def led_by_a_surrogate(spec: RunSpec) -> Finding:
    """Whose gradients ``adaptive`` followed after the model's own; success is the model's word."""
    name, digest = spec.surrogate or ("", "")
    led = ", ".join(one.title for one in spec.suite.attacks if one.follows_surrogates)
    whose = f"{name or 'a module given from Python'} ({digest[:8]})"
    return Finding("surrogate", "ok", f"{led} follows gradients of {whose}, too")


def cut_to_budget(budget: Budget, samples: int) -> Finding:
    """What was left out so that the run fits into a time."""
    measured = "; ".join(budget.told(samples)) or (
        f"the whole suite fits into the budget of {duration_text(budget.seconds)}"
    )
    if not budget.left_out:
        return Finding("budget", "ok", measured)
    advice = "what was left out might break more, or show why not: run it without --budget"
    return Finding("budget", "suspicious", measured, advice)


def unprobed(reason: str) -> Finding:
    """Diagnostics that are missing."""
    advice = "mend this, or set the suite's [diagnostics] samples = 0"
    if reason == NOT_REACHED:
        advice = "run the same command again: it does what is missing"
    return Finding("diagnostics", "suspicious", f"did not finish: {reason}", advice)


def accelerated(device: str) -> Finding:
    """Where the last bit may differ from a run elsewhere."""
    return Finding(
        "same numbers elsewhere",
        "ok",
        f"made on {device}: kernels there may differ in the last bit from other devices, so that "
        "near-ties can fall otherwise; TF32 is off",
    )
