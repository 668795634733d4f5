"""Jobs and diagnostics done once more: the only proof of what attacks failed to break."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robusteval.attacks.seeding import seeded
from robusteval.errors import RobustevalError
from robusteval.evidence.columns import (
    COLUMNS,
    FACTS,
    SCORE,
    Alike,
    facts_by,
    filled,
    nearest_columns,
)
from robusteval.evidence.judge import success
from robusteval.evidence.results import RunResult
from robusteval.evidence.store import Store
from robusteval.plan.context import Context
from robusteval.plan.plan import Cell, Job, job_seed, job_stream
from robusteval.run.attacking import Chunk, JobResult, attack_chunk, clean_chunk
from robusteval.run.diagnosing import diagnosed
from robusteval.run.jobs import attacked, drifted
from robusteval.run.nearest import attacked_nearest
from robusteval.run.progress import Watcher
from robusteval.run.scoring import attacked_scores
from robusteval.trust.pursuits import repeats
from robusteval.trust.scores import other_scores
from robusteval.trust.verdicts import probed
from robusteval.trust.verify import Check, near

UNSEEN = "what was not done again"


def repeated(
    context: Context, store: Store, result: RunResult, again: int, told: Watcher
) -> list[Check]:
    """So many jobs, chosen anew each time, and the diagnostics with them; and what was not."""
    attacks = [j for j in context.plan.attack_jobs() if j not in _static_jobs(context, store)]
    jobs = [job for job in (*attacks, *context.plan.pursuit_jobs()) if store.has(job)]
    chosen = random.sample(jobs, min(again, len(jobs)))
    checks: list[Check] = []
    if chosen:
        attacks = [job for job in chosen if job.kind == "attack"]
        checks = [jobs_repeat(context, store, result, attacks, told)] if attacks else []
        checks += pursuits_repeat(context, store, [j for j in chosen if j not in attacks], told)
        told.part("diagnostics", 0, 0)
        checks += probes_repeat(context, store, result)
        told.part("diagnostics", 1, 1)
    if len(chosen) < len(jobs):
        probes = "" if chosen or result.diagnostics is None else ", and the diagnostics"
        unseen = (
            f"what {len(jobs) - len(chosen)} of {len(jobs)} jobs failed to break, successes "
            f"without a stored image and their scores, passes and notes{probes}: --again "
            f"{len(jobs)} does all again"
        )
        checks.append(Check(UNSEEN, True, unseen, proven=False))
    return checks


def jobs_repeat(
    context: Context, store: Store, result: RunResult, chosen: list[Job], told: Watcher
) -> Check:
    """Jobs done again find the same successes, and, where images are the same, the same rows."""
    return _compared(context, store, result, chosen, told, "jobs done again")


def _static_jobs(context: Context, store: Store) -> list[Job]:
    """Those that are there of attacks made on another model."""
    cells = context.plan.cells
    return [j for j in context.plan.attack_jobs() if cells[j.part].spec.source and store.has(j)]


def transfers_repeat(
    context: Context, store: Store, result: RunResult, told: Watcher
) -> list[Check]:
    """Static transfers made again, all of them: that an image fools the model shows that it is
    adversarial, and not that the source gave it without asking the model.

    Where this machine makes most images of a job again to the bit, no other one may stand there.
    """
    jobs = _static_jobs(context, store)
    if not jobs:
        return []
    return [_compared(context, store, result, jobs, told, "static transfers made again", True)]


def _compared(
    context: Context,
    store: Store,
    result: RunResult,
    chosen: list[Job],
    told: Watcher,
    name: str,
    same_images: bool = False,
) -> Check:
    """Jobs done again; ``same_images``: whether single other images are wrong as such."""
    found = []
    for place, job in enumerate(chosen):
        told.part(name, place, len(chosen))
        found.append(_done_again(context, store, result, job))
    told.part(name, len(chosen), len(chosen))
    seen = f"{len(chosen)} jobs, {sum(one.equal for one in found)} of "
    seen += f"{sum(one.total for one in found)} images the same to the bit"
    problems = {
        "other successes or rows": [one.stem for one in found if one.is_other],
        "other notes or warnings": [one.stem for one in found if one.is_silenced],
        "single images of another origin": [
            one.stem for one in found if same_images and one.is_odd
        ],
    }
    seen += "".join(f"; {what} in {', '.join(stems)}" for what, stems in problems.items() if stems)
    return Check(name, not any(problems.values()), seen)


@dataclass(frozen=True)
class _Again:
    """What a job done again gave: how many images are ``equal`` to the bit of how many, whether it
    breaks other samples or contradicts a column, and whether it tells other things."""

    stem: str
    equal: int = 0
    total: int = 0
    is_other: bool = False
    is_silenced: bool = False

    @property
    def is_odd(self) -> bool:
        """Whether a few images differ where most are made again to the bit."""
        return self.total / 2 < self.equal < self.total


def _done_again(context: Context, store: Store, result: RunResult, job: Job) -> _Again:
    chunk, clean = clean_chunk(context, store, job.chunk)
    if len(chunk.rows) == 0:
        return _Again(job.stem)
    piece, found = store.read(job), _again(context, job, chunk)
    made = attacked(context, chunk, found, drifted(context, chunk, clean))
    now = filled("attack", made) | attacked_scores(context, store, job, found.stored)
    now |= attacked_nearest(context, found)
    same = piece.columns["sha256"] == now["sha256"]
    cell = context.plan.cells[job.part]
    return _Again(
        job.stem,
        int(same.sum()),
        len(same),
        not _finds_the_same(cell, job, piece.columns, now, result.tie),
        not _says_the_same(piece.facts, facts_by(made), bool(same.all())),
    )


def pursuits_repeat(
    context: Context, store: Store, chosen: list[Job], told: Watcher
) -> list[Check]:
    """Attacks on detectors done again reach the same scores, up to what kernels change."""
    wrong = []
    for place, job in enumerate(chosen):
        told.part("attacks on detectors done again", place, len(chosen))
        if not repeats(context, store, job):
            wrong.append(job.stem)
    if not chosen:
        return []
    told.part("attacks on detectors done again", len(chosen), len(chosen))
    seen = f"{len(chosen)} jobs" + (f"; other scores in {', '.join(wrong)}" if wrong else "")
    return [Check("attacks on detectors done again", not wrong, seen)]


def _again(context: Context, job: Job, chunk: Chunk) -> JobResult:
    cell, seed = context.plan.cells[job.part], context.spec.seed
    with seeded(job_stream(seed, job), torch.device(context.device)):
        return attack_chunk(
            context, cell, chunk, lambda restart: job_seed(seed, cell, job.chunk, restart)
        )


def _finds_the_same(
    cell: Cell, job: Job, then: dict[str, Any], now: dict[str, Any], tie: float
) -> bool:
    """Whether a job breaks the samples that it broke, and no column contradicts what it finds."""
    same, margin = then["sha256"] == now["sha256"], now["margin"]
    alike = Alike(same, same & (np.abs(margin) > tie), near(tie, margin))
    other = any((success(then, t) != success(now, t)).any() for t in cell.threats)
    for column in (*COLUMNS, *nearest_columns(job.layers)):
        if column.again is not None and column.name in then:
            other |= bool(column.again(then[column.name], now[column.name], alike).any())
    scored = [name for name in now if name.startswith(SCORE)]
    return not other and not any(other_scores(then[n][same], now[n][same]) for n in scored)


def _says_the_same(then: dict[str, Any], now: dict[str, Any], to_the_bit: bool) -> bool:
    """Whether a job warns, and of a model that drifts, as it did; where all images are the same,
    whether it tells the same altogether."""
    if to_the_bit:
        return then == now
    return all(bool(then[f.name]) == bool(now[f.name]) for f in FACTS if f.roughly)


def probes_repeat(context: Context, store: Store, result: RunResult) -> list[Check]:
    """The diagnostics measured anew give the same verdicts, and numbers about the same; nothing
    where there are none.

    Where the model that they transfer from is gone or another by now, that one probe is left out.
    """
    if not context.plan.diagnosed or result.diagnostics is None:
        return []
    told, source, lacking = result.diagnostics, None, ""
    try:
        source = context.transfer_source()
    except RobustevalError as error:
        told, lacking = {**told, "transfer": None}, f"; no transfer: {error}"
    now = diagnosed(context, store, source)
    verdicts = {finding.check: finding.verdict for finding in probed(now)}
    differ = _differ(told, now, verdicts)
    return [
        Check(
            "diagnostics done again", not differ, (differ or f"{len(verdicts)} verdicts") + lacking
        )
    ]


def _differ(told: dict[str, Any], now: dict[str, Any], verdicts: Mapping[str, str]) -> str:
    """Where measurements tell other things than those made now, whose verdicts are given."""
    then = {finding.check: finding.verdict for finding in probed(told)}
    if other := [check for check in {**then, **verdicts} if then.get(check) != verdicts.get(check)]:
        return f"other verdicts on {', '.join(other)}"
    if verdicts.get("same outputs") not in (None, "ok"):
        return ""  # of a random model numbers differ each time
    slack = max(1, math.ceil(_SLACK * now["samples"]))
    apart = sorted(set(_apart(told, now, slack)))
    return f"other numbers of {', '.join(apart)}" if apart else ""


_SLACK = 0.05  # of samples: those that kernels' last bits may turn, and of what is measured
_NOTHING = 1e-6  # changes of logits between passes that are rounding and nothing else


def _apart(told: Any, now: Any, slack: int, name: str = "") -> Iterator[str]:
    """The measurements that differ by more than chance and other kernels explain."""
    if isinstance(now, dict) and isinstance(told, dict) and told.keys() == now.keys():
        for key, value in now.items():
            yield from _apart(told[key], value, slack, name or key)
    elif isinstance(now, list | tuple) and isinstance(told, list | tuple):
        if len(told) != len(now):
            yield name
        for one, other in zip(told, now, strict=False):
            yield from _apart(one, other, slack, name)
    elif isinstance(now, float) and isinstance(told, float | int):
        if not math.isclose(told, now, rel_tol=_SLACK, abs_tol=_NOTHING) and name != "passes":
            yield name
    elif type(now) is int and type(told) is int:
        if abs(told - now) > slack:
            yield name
    elif told != now:
        yield name
