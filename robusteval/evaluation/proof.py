"""A run's stored evidence, checked against the model and the data themselves.

What the run wrote down is made anew: predictions at other batch sizes and precisions, norms in
float64, digests, labels and scores.  Where jobs are done again, so are the diagnostics, and what
the jobs warned of is compared.  Passes and seconds are taken as they stand, and so is what jobs
that are not done again failed to break.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robusteval.attacks.losses import logit_margin
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import norms
from robusteval.detection.detectors import scores
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evaluation.chunks import Chunk, JobResult, run_job
from robusteval.evaluation.context import Context
from robusteval.evaluation.evidence import SCORE, Piece, Store
from robusteval.evaluation.examples import make_pictures, read_pictures
from robusteval.evaluation.images import digests
from robusteval.evaluation.jobs import (
    OTHER_BATCH,
    clean_chunk,
    clean_scores,
    diagnosed,
    drifted,
    outlier_scores,
    success,
)
from robusteval.evaluation.kept import PROOF_BATCH, Tally, float32_tally, image_balance, kept_images
from robusteval.evaluation.outcomes import RunResult
from robusteval.evaluation.plan import Job, Plan, job_seed, job_stream
from robusteval.evaluation.verdicts import probed
from robusteval.evaluation.verify import NEAR_TIE, TOLERANCE, VERIFY_BATCH, predict, to_8_bits
from robusteval.storage import is_partial

FLOAT64_SAMPLES = 128
_SAME_SCORE = 1e-3  # relative; kernels differ with the batch in the last bits


@dataclass(frozen=True)
class Check:
    """One thing that was checked, whether it holds, and what was seen."""

    name: str
    held: bool
    told: str

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


Seen = tuple[bool, str]  # whether it holds, and what was seen


def whole(store: Store, plan: Plan) -> Check:
    """Every finished job's files can be read and are this run's."""
    problems, done = [], 0
    if not store.evidence.is_dir():
        told = f"{store.evidence} is missing: run the same command again"
        return Check("evidence can be read", False, told)
    for job in plan.jobs():
        if not store.has(job):
            continue
        done += 1
        try:
            store.read(job)
            store.read_images(job)
        except EvidenceError as error:
            problems.append(str(error))
    stems = {job.stem for job in plan.jobs()}
    strange = [p.name for p in store.evidence.iterdir() if p.name.partition(".")[0] not in stems]
    known = {"verification.json", "examples.safetensors"}
    problems += [
        f"{name} belongs to no job of this run"
        for name in strange
        if name not in known and not _is_dotted_stem(name, stems) and not is_partial(name)
    ]
    told = "; ".join(problems) or f"{done} of {len(plan.jobs())} jobs"
    return Check("evidence can be read", not problems, told)


def _is_dotted_stem(name: str, stems: set[str]) -> bool:
    """Stems hold dots themselves (an ε of 0.15), so that a name's first dot says little."""
    endings = (".parquet", ".safetensors", ".failed.json")
    return any(name.endswith(e) and name.removesuffix(e) in stems for e in endings)


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
    near = _near(columns["gap"])
    same = (first[0] == columns["prediction"]) | (first[1] <= near)
    same &= np.abs(first[1] - columns["gap"]) <= near
    if np.abs(first[1] - second[1]).max() <= near and not same.all():
        raise EvidenceError(
            f"{store.folder} is of a model of the same name and tensors that computes otherwise: "
            "give this one another name, or name another folder with --out"
        )


def _near(gaps: Any) -> float:
    """What the gaps between logits may differ by: kernels differ in the last bits."""
    return float(NEAR_TIE + _SAME_SCORE * np.abs(gaps).max())


def gaps_of(context: Context, rows: range, batch_size: int) -> tuple[Any, Any]:
    """Predictions (B,) on clean images, and the gaps (B,) between their two largest logits."""
    logits = predict(context.model, context.images(rows), batch_size)
    largest = logits.topk(2, dim=1).values
    return logits.argmax(1).cpu().numpy(), (largest[:, 0] - largest[:, 1]).cpu().numpy()


def prove(context: Context, store: Store, result: RunResult, again: int = 0) -> list[Check]:
    """Every check that needs the model or the data; ``again``: how many jobs to do once more."""
    found = []
    for name, check in CHECKS.items():
        try:
            found.append(Check(name, *check(context, store, result)))
        except EvidenceError as error:
            found.append(Check(name, False, str(error)))
    if again:
        found += [jobs_repeat(context, store, again), *probes_repeat(context, store, result)]
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
    """Clean predictions, both of each sample, and the gaps between logits, made again."""
    near = _near(result.gap)
    ties, wrong = (np.zeros(len(result.gap), bool) for _ in range(2))
    for size, claimed in (
        (PROOF_BATCH, result.clean_prediction),
        (OTHER_BATCH, result.second_prediction),
    ):
        found = [gaps_of(context, chunk, size) for chunk in context.plan.chunks]
        now, gap = (np.concatenate(parts) for parts in zip(*found, strict=True))
        tied = (now != claimed) & (gap <= NEAR_TIE)
        ties |= tied
        wrong |= ((now != claimed) & ~tied) | ~(np.abs(gap - result.gap) <= near)
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
        if cell.call.knows_eps:
            inside = columns["norm"] <= cell.threats[0].radius + TOLERANCE
        margin = columns["margin"]
        agree = ((margin > 0) == mispredicted) | (np.abs(margin) <= NEAR_TIE)
        agree &= columns["fooled"] == (mispredicted & inside)
        agree &= columns["fooled"] | ~columns["survives_8_bit"]
        agree &= columns["forward_passes"] >= 0
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
    wrong = total = 0
    for batch in kept_images(context, store):
        claimed = batch.columns["sha256"][batch.places]
        found = digests(batch.kept.images)
        wrong += sum(a != b for a, b in zip(claimed, found, strict=True))
        total += len(found)
    told = f"{total - wrong} of {total}"
    return wrong == 0, told


def balls_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """Every counted image lies in its ball and in [0, 1], measured in float64."""
    wrong, largest = 0, 0.0
    for batch in kept_images(context, store):
        cell = context.plan.cells[batch.job.part]
        threat = cell.threats[0]
        distance = norms(batch.images.double() - batch.clean.double(), threat.norm).cpu()
        claimed = torch.from_numpy(batch.columns["norm"][batch.places].copy())
        bad = (distance - claimed).abs() > TOLERANCE
        if cell.call.knows_eps:
            bad |= distance > threat.radius + TOLERANCE
            largest = max(largest, float(distance.max() / threat.radius))
        bad |= ((batch.images < 0) | (batch.images > 1)).flatten(1).any(1).cpu()
        wrong += int(bad.sum())
    told = f"largest {largest:.7f} of ε" if not wrong else f"{wrong} images are outside"
    return wrong == 0, told


def float32_holds(context: Context, store: Store, result: RunResult) -> Seen:
    """Every counted success holds in float32."""
    tally = float32_tally(context, store)
    return tally.failed == 0, tally.told


def float64_holds(context: Context, store: Store, result: RunResult) -> Seen:
    """A sample of the successes holds in float64."""
    total = sum(len(store.read_images(job).rows) for job in context.plan.attack_jobs())
    every = max(1, -(-total // FLOAT64_SAMPLES))
    tally, seen = Tally(), 0
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
        logits = predict(context.model, to_8_bits(batch.images), PROOF_BATCH)
        margin = logit_margin(logits, batch.labels).cpu()
        now = (margin > 0).numpy()
        claimed = batch.columns["survives_8_bit"][batch.places]
        wrong += int(((now != claimed) & (margin.abs().numpy() > NEAR_TIE)).sum())
        survive, total = survive + int(now.sum()), total + len(now)
    told = f"{survive} of {total} survive" + (f", {wrong} other than claimed" if wrong else "")
    return wrong == 0, told


def pictures_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """The report's pictures are of the stored images and the data."""
    stored = read_pictures(store)
    made = make_pictures(context, store, result)
    same = stored.keys() == made.keys() and all(np.array_equal(stored[k], made[k]) for k in made)
    return same, f"{len(made.get('clean', ()))} images"


def scores_hold(context: Context, store: Store, result: RunResult) -> Seen:
    """What the detectors say of clean images, of outliers and of stored images, asked again."""
    wrong = total = 0
    for job in [*context.plan.clean_jobs(), *context.plan.other_jobs()]:
        if not store.has(job) or job.kind == "diagnostics":
            continue
        columns = store.read(job).columns
        clean = job.kind == "clean"
        now = clean_scores(context, job) if clean else outlier_scores(context, job)
        for name, values in now.items():
            wrong, total = wrong + _other_scores(columns.get(name, ()), values), total + len(values)
    for batch in kept_images(context, store):
        for column in [c for c in batch.columns if c.startswith(SCORE)]:
            values = scores(column.removeprefix(SCORE), context.model, batch.images).numpy()
            claimed = batch.columns[column][batch.places]
            wrong, total = wrong + _other_scores(claimed, values), total + len(values)
    told = f"{total} scores" + (f", {wrong} other than stored" if wrong else "")
    return wrong == 0, told


def _other_scores(claimed: Any, now: Any) -> int:
    """How many scores differ by more than kernels do."""
    if len(claimed) != len(now):
        return max(len(claimed), len(now))
    scale = max(float(np.abs(now).max(initial=0.0)), 1e-12)
    same = np.isclose(claimed, now, rtol=_SAME_SCORE, atol=_SAME_SCORE * scale, equal_nan=True)
    return int((~same).sum())


CHECKS: dict[str, Callable[[Context, Store, RunResult], Seen]] = {
    "labels are the data set's": labels_hold,
    "clean predictions": clean_holds,
    "rows agree with themselves": rows_hold,
    "each proof is there": kept_are_those,
    "SHA-256 of the counted images": digests_hold,
    "ε and [0, 1], in float64": balls_hold,
    f"float32, batch size {PROOF_BATCH}": float32_holds,
    "float64, on a sample": float64_holds,
    "rounded to 8 bits": eight_bits_hold,
    "detectors' scores": scores_hold,
    "pictures of the report": pictures_hold,
}


def jobs_repeat(context: Context, store: Store, count: int) -> Check:
    """Some jobs done again, chosen anew each time: the only proof that what failed did fail."""
    jobs = [j for j in context.plan.attack_jobs() if store.has(j)]
    chosen = random.sample(jobs, min(count, len(jobs)))
    wrong, silenced, equal, total = [], [], 0, 0
    for job in chosen:
        chunk, clean = clean_chunk(context, store, job.chunk)
        if len(chunk.rows) == 0:
            continue
        piece = store.read(job)
        columns, result = piece.columns, _again(context, job, chunk)
        same = columns["sha256"] == np.array(digests(result.stored), dtype=object)
        equal, total = equal + int(same.sum()), total + len(same)
        if not _says_the_same(piece, result, drifted(context, chunk, clean), bool(same.all())):
            silenced.append(job.stem)
        now = {"fooled": result.judged.fooled.numpy(), "norm": result.judged.norm.numpy()}
        threats = context.plan.cells[job.part].threats
        other = any((success(columns, t) != success(now, t)).any() for t in threats)
        other |= (columns["fooled"] != now["fooled"]).any()
        if other or (np.abs(columns["norm"] - now["norm"])[same] > TOLERANCE).any():
            wrong.append(job.stem)
    told = f"{len(chosen)} jobs, {equal} of {total} images the same to the bit"
    if wrong:
        told += f"; other successes in {', '.join(wrong)}"
    if silenced:
        told += f"; other notes or warnings in {', '.join(silenced)}"
    return Check("jobs done again", not wrong and not silenced, told)


def _says_the_same(piece: Piece, result: JobResult, drift: int, to_the_bit: bool) -> bool:
    """Whether a job warns, and of a model that drifts, as it did; where all images are the same,
    also what its parts broke and what storing undid."""
    told = piece.told
    now: dict[str, Any] = {"warnings": bool(result.warnings), "drifted": bool(drift)}
    then: dict[str, Any] = {
        "warnings": bool(told.get("warnings")),
        "drifted": bool(told.get("drifted")),
    }
    if to_the_bit:
        now |= {"notes": result.notes, "lost": result.lost}
        then |= {"notes": told.get("notes"), "lost": told.get("lost")}
    return now == then


def probes_repeat(context: Context, store: Store, result: RunResult) -> list[Check]:
    """The diagnostics measured anew give the same verdicts; nothing where there are none.

    Where the model that they transfer from is gone or another by now, they can't be.
    """
    name = "diagnostics done again"
    if not context.plan.diagnosed or result.diagnostics is None:
        return []
    (job,) = [job for job in context.plan.other_jobs() if job.kind == "diagnostics"]
    try:
        with seeded(job_stream(context.spec.seed, job), torch.device(context.device)):
            again = probed(diagnosed(context, store))
    except RobustevalError as error:
        return [Check(name, True, f"not done again: {error}")]
    told, now = (
        {finding.check: finding.verdict for finding in found}
        for found in (probed(result.diagnostics), again)
    )
    other = [check for check in {**told, **now} if told.get(check) != now.get(check)]
    said = f"other verdicts on {', '.join(other)}" if other else f"{len(now)} verdicts"
    return [Check(name, not other, said)]


def _again(context: Context, job: Job, chunk: Chunk) -> JobResult:
    cell, seed = context.plan.cells[job.part], context.spec.seed
    with seeded(job_stream(seed, job), torch.device(context.device)):
        return run_job(
            context.forms, cell, chunk, lambda restart: job_seed(seed, cell, job.chunk, restart)
        )
