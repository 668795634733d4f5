"""Whether a run that is asked for was finished before, and what it found."""

from robusteval.errors import EvidenceError
from robusteval.evidence.kept import image_balance
from robusteval.evidence.pictures import pick_examples, read_pictures
from robusteval.evidence.results import RunResult, load_result
from robusteval.evidence.store import Store
from robusteval.run.prepare import Prepared


def finished(prepared: Prepared, store: Store) -> RunResult | None:
    """What a finished run found, if this is one: its evidence says it, no report."""
    plan = prepared.context.plan
    if not all(map(store.has, plan.jobs())) or any(map(store.has, plan.probe_jobs())):
        return None
    try:
        result = load_result(store.files)
        pictures = read_pictures(store)
        balance = image_balance(result.plan, store, result).values()
    except EvidenceError:  # told, or mended, where the run goes on
        return None
    concluded = result.verification is not None and bool(pictures) == bool(pick_examples(result))
    concluded &= result.spec.digest == prepared.spec.digest
    return result if concluded and set(balance) <= {(0, 0)} else None
