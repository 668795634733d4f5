"""A run's stored evidence, checked against the model and the data themselves.

What the run wrote down is made anew: predictions at other batch sizes and precisions, margins,
norms in float64, digests, labels and scores.  What only doing jobs once more could tell (what they
failed to break, passes, notes) stands in ``repeat``; what nothing can tell (the hardware, the
commit, the date) in ``described``.
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robusteval.attacks.losses import logit_margin
from robusteval.attacks.steps import norms
from robusteval.errors import EvidenceError
from robusteval.evidence.judge import TOLERANCE, VERIFY_BATCH, near_tie, predict_again, to_8_bits
from robusteval.evidence.kept import (
    PROOF_BATCH,
    Tally,
    altered,
    float32_tally,
    image_balance,
    kept_images,
)
from robusteval.evidence.pictures import make_pictures, read_pictures
from robusteval.evidence.pieces import canonical
from robusteval.evidence.record import read_record
from robusteval.evidence.results import RunResult
from robusteval.evidence.store import (
    EVIDENCE,
    EXAMPLES,
    VERIFICATION,
    Store,
    beside_name,
    failure_name,
    rows_name,
)
from robusteval.plan.context import Context
from robusteval.plan.plan import Plan
from robusteval.run.attacking import clean_chunk
from robusteval.run.jobs import OTHER_BATCH
from robusteval.run.progress import Watcher
from robusteval.trust.nearest import nearest_hold
from robusteval.trust.pursuits import pursuits_hold
from robusteval.trust.scores import SAME_SCORE, scores_hold

FLOAT64_SAMPLES = 128
_MARGINS_APART = 10  # near-ties by which other kernels may move a margin


@dataclass(frozen=True)
class Check:
    """One thing that was checked, whether it holds, and what was seen.

    ``proven``: whether it was looked at; else it stands as the run says.
    """

    name: str
    held: bool
    told: str
    proven: bool = True

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


Seen = tuple[bool, str]  # whether it holds, and what was seen


def whole(store: Store, plan: Plan) -> Check:
    """Every finished job's files can be read and are this run's."""
    name, problems = "evidence can be read", []
    if not (there := store.names()):
        told = f"{store.where(EVIDENCE)} is missing: run the same command again"
        return Check(name, False, told)
    known = {f"{EVIDENCE}/{conclusion}" for conclusion in (VERIFICATION, EXAMPLES)}
    parts = [] if all(map(store.has, plan.diagnostics_jobs())) else plan.probe_jobs()
    for job in [*plan.jobs(), *parts]:
        if not store.has(job):
            known.add(failure_name(job))
            continue
        known.add(rows_name(job))
        try:
            store.read(job)
            if job.kind in ("attack", "pursuit") and len(store.read_images(job).rows):
                known.add(beside_name(job))
            if job.kind == "fit":
                known.add(beside_name(job))
                store.read_state(job)
        except EvidenceError as error:
            problems.append(str(error))
            known.add(beside_name(job))
    strange = [found for found in there if f"{EVIDENCE}/{found}" not in known]
    problems += [f"{found} belongs to no job of this run" for found in strange]
    done, jobs = plan.counted_done(store.has), plan.counted_jobs()
    told = "; ".join(problems) or f"{len(done)} of {len(jobs)} jobs"
    return Check(name, not problems, told)


def require_same_model(context: Context, store: Store) -> None:
    """Raises EvidenceError where begun evidence is of a model with other outputs.

    A digest of tensors doesn't know what a module given from Python, or a factory, does with them.
    A model that contradicts itself is left to the findings.
    """
    job = context.plan.clean_jobs()[0]
    if not store.has(job):
        return
    columns, rows = store.read(job).columns, context.plan.chunks[0]
    first, second = (gaps_of(context, rows, VERIFY_BATCH) for _ in range(2))
    slack = near(near_tie(columns["spread"]), columns["gap"])
    same = (first[0] == columns["prediction"]) | (first[1] <= slack)
    same &= np.abs(first[1] - columns["gap"]) <= slack
    steady = np.abs(first[1] - second[1]).max() <= slack
    told = read_record(store.files)["model"]
    now = model_as_told(told, json.loads(json.dumps(context.described()["model"])))
    if (steady and not same.all()) or canonical(told) != canonical(now):
        raise EvidenceError(
            f"{store.folder} holds a run of a model with the same name and tensors that computes "
            "otherwise: give this one another name, or name another folder with --out"
        )


def model_as_told(told: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is found of a model now, with the distance to its prototypes that was told, where the
    two differ by no more than kernels do; without its layers' prototypes where a run is from before
    they were told, or it would not have been read."""
    then, found = (about.get("prototypes") or {} for about in (told, now))
    if math.isclose(then.get("distance", 0), found.get("distance", 0), rel_tol=SAME_SCORE):
        found = {
            name: then.get(name, value) if name == "distance" else value
            for name, value in found.items()
        }
    now = {**now, "prototypes": found} if found else dict(now)
    if "prototype_layers" not in told:
        now.pop("prototype_layers", None)
    return now


def near(tie: float, values: Any) -> float:
    """What gaps between logits may differ by: kernels differ in the last bits."""
    return float(tie + SAME_SCORE * np.abs(values).max(initial=0.0))


def gaps_of(context: Context, rows: range, batch_size: int) -> tuple[Any, Any, Any]:
    """Predictions (B,) on clean images, the gaps (B,) between their two largest logits, and the
    logits' spreads (B,)."""
    logits = predict_again(context.model, context.images(rows), batch_size)
    first, second = logits.topk(2, dim=1).values.T
    found = logits.argmax(1), first - second, first - logits.amin(1)
    return tuple(part.cpu().numpy() for part in found)  # type: ignore[return-value]


def prove(context: Context, store: Store, result: RunResult, told: Watcher) -> list[Check]:
    """Every check that needs the model or the data, but for doing jobs again."""
    found = []
    checks = {n: c for n, c in CHECKS.items() if c is not pursuits_hold or context.plan.pursuits}
    for place, (name, check) in enumerate(checks.items()):
        told.part("checks", place, len(checks))
        try:
            found.append(Check(name, *check(context, store, result)))
        except EvidenceError as error:
            found.append(Check(name, False, str(error)))
    told.part("checks", len(checks), len(checks))
    return found


def labels_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """Indices and labels are the data set's."""
    wrong = int((result.labels != context.data.labels.numpy()).sum())
    indices = np.concatenate([store.read(j).columns["index"] for j in context.plan.clean_jobs()])
    wrong += int((indices != context.data.indices.numpy()).sum())
    for job in context.plan.attack_jobs():
        if store.has(job):
            columns = store.read(job).columns
            chunk, _ = clean_chunk(context, store, job.chunk)
            same = np.array_equal(columns["index"], context.data.indices[chunk.rows].numpy())
            same = same and np.array_equal(columns["label"], chunk.labels.cpu().numpy())
            wrong += not same
    told = f"{len(result.labels)} samples of {context.spec.dataset}"
    return wrong == 0, told if not wrong else f"{wrong} differ"


def clean_holds(context: Context, store: Store, result: RunResult) -> Seen:
    """Clean predictions, both of each sample, and what tells how sure they are, made again."""
    slack = near(0.0, result.gap), near(0.0, result.spread)
    ties, wrong = (np.zeros(len(result.gap), bool) for _ in range(2))
    for size, claimed in (
        (PROOF_BATCH, result.clean_prediction),
        (OTHER_BATCH, result.second_prediction),
    ):
        found = [gaps_of(context, chunk, size) for chunk in context.plan.chunks]
        now, gap, spread = (np.concatenate(parts) for parts in zip(*found, strict=True))
        tie = near_tie(spread)
        tied = (now != claimed) & (gap <= tie)
        ties |= tied
        wrong |= (now != claimed) & ~tied
        wrong |= ~(np.abs(gap - result.gap) <= tie + slack[0])
        wrong |= ~(np.abs(spread - result.spread) <= tie + slack[1])
    told = (
        f"{int((~wrong).sum())} of {len(wrong)}, {int((ties & ~wrong).sum())} near-ties among them"
    )
    return not wrong.any(), told


def rows_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """Each row agrees with itself: a success is mispredicted, in the ball, with its margin."""
    wrong: list[str] = []
    for job in context.plan.attack_jobs():
        if not store.has(job):
            continue
        columns = store.read(job).columns
        if len(columns["label"]) == 0:
            continue
        cell = context.plan.cells[job.part]
        mispredicted = columns["prediction"] != columns["label"]
        inside = np.ones(len(mispredicted), bool)
        if cell.attack.knows_eps:  # then every image was put in the ball before it counted
            inside = columns["norm"] <= cell.threats[0].radius + TOLERANCE
        margin = columns["margin"]
        agree = ((margin > 0) == mispredicted) | (np.abs(margin) <= result.tie)
        agree &= inside & (columns["fooled"] == mispredicted)
        agree &= columns["fooled"] | ~columns["survives_8_bit"]
        if not agree.all():
            wrong.append(f"{job.stem}: {int((~agree).sum())} rows contradict themselves")
    return not wrong, "; ".join(wrong) or "all"


def kept_are_those(context: Context, store: Store, result: RunResult) -> Seen:
    """There is an image for each success that is to be proven, and for nothing else."""
    balance = image_balance(context.plan, store, result).values()
    missing, extra = sum(gone for gone, _ in balance), sum(more for _, more in balance)
    told = f"{missing} images missing, {extra} too many" if missing or extra else "all"
    return not missing and not extra, told


def digests_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """The stored images are those that were counted."""
    found = [(altered(batch), len(batch.images)) for batch in kept_images(context, store)]
    wrong, total = (sum(counts) for counts in zip(*found, strict=True)) if found else (0, 0)
    return wrong == 0, f"{total - wrong} of {total}"


def balls_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """Every counted image lies in its ball and in [0, 1], measured in float64."""
    wrong, largest = 0, 0.0
    for batch in kept_images(context, store):
        cell = context.plan.cells[batch.job.part]
        threat = cell.threats[0]
        distance = norms(batch.images.double() - batch.clean.double(), threat.norm).cpu()
        claimed = torch.from_numpy(batch.columns["norm"][batch.places].copy())
        bad = (distance - claimed).abs() > TOLERANCE
        if cell.attack.knows_eps:
            bad |= distance > threat.radius + TOLERANCE
            largest = max(largest, float(distance.max() / threat.radius))
        bad |= ((batch.images < 0) | (batch.images > 1)).flatten(1).any(1).cpu()
        wrong += int(bad.sum())
    told = f"largest {largest:.7f} of ε" if not wrong else f"{wrong} images are outside"
    return wrong == 0, told


def float32_holds(context: Context, store: Store, result: RunResult) -> Seen:
    """Every counted success holds in float32, and as many do as the run says."""
    tally = float32_tally(context, kept_images(context, store), result.tie)
    claimed, now = result.verification, tally.to_json()
    if claimed is None:
        return False, f"{tally.told}; {VERIFICATION} is missing: run the same command again"
    alike = all(claimed[name] == now[name] for name in ("images", "batch_size"))
    alike &= all(abs(claimed[n] - now[n]) <= tally.unsure for n in ("held", "near_ties", "failed"))
    told = tally.told if alike else f"{tally.told}; {VERIFICATION} says otherwise"
    return alike and tally.failed == 0, told


def predictions_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """The classes and margins of stored images, near-ties among them, are those that rows say."""
    wrong = total = 0
    tie = result.tie
    for batch in kept_images(context, store):
        logits = predict_again(context.model, batch.images, PROOF_BATCH)
        margin = logit_margin(logits, batch.labels).cpu().numpy()
        first, second = logits.topk(2, dim=1).values.T.cpu().numpy()
        claimed = batch.columns["margin"][batch.places]
        other = batch.columns["prediction"][batch.places] != logits.argmax(1).cpu().numpy()
        bad = other & (first - second > tie)
        bad |= np.abs(margin - claimed) > _MARGINS_APART * tie
        bad |= (claimed >= tie) & (margin < tie / 2)
        bad |= (claimed < tie) & (margin > 2 * tie)
        wrong, total = wrong + int(bad.sum()), total + len(bad)
    told = f"{total} images" + (f", {wrong} other than claimed" if wrong else "")
    return wrong == 0, told


def float64_holds(context: Context, store: Store, result: RunResult) -> Seen:
    """A sample of the successes holds in float64."""
    total = sum(len(store.read_images(job).rows) for job in context.plan.attack_jobs())
    every = max(1, -(-total // FLOAT64_SAMPLES))
    tally, seen = Tally(result.tie), 0
    try:
        model = copy.deepcopy(context.model).double().cpu()
        for batch in kept_images(context, store):
            chosen = [i for i in range(len(batch.images)) if (seen + i) % every == 0]
            seen += len(batch.images)
            if chosen:
                with torch.no_grad():
                    logits = model(batch.images[chosen].double().cpu())
                tally = tally.plus(logits, batch.labels[chosen].cpu())
    except (RuntimeError, TypeError) as error:
        return True, f"not checked: the model doesn't run in float64 ({error})"
    return tally.failed == 0, tally.told


def eight_bits_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """After rounding to 8 bits as many survive as the run says."""
    survive = total = wrong = 0
    for batch in kept_images(context, store):
        logits = predict_again(context.model, to_8_bits(batch.images), PROOF_BATCH)
        margin = logit_margin(logits, batch.labels).cpu()
        now = (margin > 0).numpy()
        claimed = batch.columns["survives_8_bit"][batch.places]
        wrong += int(((now != claimed) & (margin.abs().numpy() > result.tie)).sum())
        survive, total = survive + int(now.sum()), total + len(now)
    told = f"{survive} of {total} survive" + (f", {wrong} other than claimed" if wrong else "")
    return wrong == 0, told


def pictures_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """The report's pictures are of the stored images and the data."""
    stored = read_pictures(store)
    made = make_pictures(context, store, result)
    same = stored.keys() == made.keys() and all(np.array_equal(stored[k], made[k]) for k in made)
    return same, f"{len(made.get('clean', ()))} images"


CHECKS: dict[str, Callable[[Context, Store, RunResult], Seen]] = {
    "labels are the data set's": labels_hold,
    "clean predictions": clean_holds,
    "rows agree with themselves": rows_hold,
    "each proof is there": kept_are_those,
    "SHA-256 of the counted images": digests_hold,
    "ε and [0, 1], in float64": balls_hold,
    f"float32, batch size {PROOF_BATCH}": float32_holds,
    "classes and margins of stored images": predictions_hold,
    "float64, on a sample": float64_holds,
    "rounded to 8 bits": eight_bits_hold,
    "detectors' scores": scores_hold,
    "attacks on detectors": pursuits_hold,
    "nearest prototypes": nearest_hold,
    "pictures of the report": pictures_hold,
}
