"""A run that several processes share, on one machine or on many: begun, worked on, finished.

    run = begin("pcl_digits", "full", api.Options(samples=500))
    work(run, shard="1/3")  # in as many processes as there are, wherever its folder is seen
    report = finish(run)

Jobs are claimed by files in the run's folder (see ``evidence.claims``), so processes may come, go
and be killed at any time.  Evidence and report are the same as one process's.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from robusteval import api
from robusteval.ambient import plain_state, refuse_inference_mode
from robusteval.errors import EvidenceError, RobustevalError, shown
from robusteval.evidence import claims
from robusteval.evidence.claims import LEASE, Claims
from robusteval.evidence.located import files_at
from robusteval.evidence.record import open_store, parts_of
from robusteval.evidence.store import Store
from robusteval.hardware import check_device
from robusteval.places import Place
from robusteval.plan.context import Context, access_to, open_context
from robusteval.plan.made_with import code_digests, library_versions
from robusteval.plan.plan import Plan, make_plan
from robusteval.plan.spec import RunSpec
from robusteval.report.returned import Report
from robusteval.run.executors.shared import Shared
from robusteval.run.prepare import prepare
from robusteval.run.progress import Progress, Silent, watcher
from robusteval.run.runner import Run, Settings
from robusteval.run.shard import Shard, parse_shard
from robusteval.run.subject import Asked
from robusteval.trust.findings import doubted

# Seconds between tries to get in: many processes begin at once, each busy for a moment.
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)


@dataclass(frozen=True)
class Way:
    """Where a run's model and data are now, as ``api.verify`` takes them."""

    model: str | Path | None = None
    data_dir: str | Path | None = None
    allow_code: bool = False
    device: str | None = None
    data: str | Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Worked:
    """How far a run is: jobs with evidence, of how many, and those that failed, by name."""

    done: int
    jobs: int
    failed: tuple[str, ...]


@plain_state()
def begin(
    model: str | Path, suite: str | Path = "full", options: api.Options | None = None
) -> Place:
    """Writes a run's folder, for others to work on, and returns where it is.

    What can't be run is refused as ``api.evaluate`` does.  A run that was begun stays as it is.
    """
    if not isinstance(model, str | Path):
        raise RobustevalError(
            f"model {shown(model)}: other processes find a model by its entry alone: name that"
        )
    options = options or api.Options()
    told = watcher(options.progress)
    told.part(api.PREPARING, 0, 0)
    prepared = prepare(Asked(model), suite, options)
    told.part(api.PREPARING, 1, 1)
    place = options.out / prepared.spec.name
    files = files_at(place)
    files.prepare("", "choose another with --out")
    api.record_of_begun(prepared, files, options)
    return place


@plain_state()
def work(
    run: str | Path,
    way: Way = Way(),
    *,
    shard: str | Shard | None = None,
    lease: float = LEASE,
    sleep: Callable[[float], None] = time.sleep,
) -> Worked:
    """Does jobs of a run, those that no other process does, until there are none left.

    ``shard``: such as "2/4", the jobs to begin at.  ``lease``: seconds without a sign of life after
    which others take this process for gone, and do its job.  Raises RobustevalError where the run,
    its model or its data can't be had, and where a process is at work on it that shares nothing.
    """
    shard = parse_shard(shard) if isinstance(shard, str) else shard
    store, context, record = _opened(run, way)
    joined = Claims(store.files, lease)
    _join(store, joined, sleep)
    try:
        settings = Settings(progress=way.progress or Silent(), doubted=doubted)
        executor = Shared(context, store, joined, shard, sleep)
        Run(context, store, record, settings).take_part(executor)
    finally:
        joined.leave()
    return _standing(store, context.plan)


@plain_state()
def finish(run: str | Path, way: Way = Way()) -> Report:
    """Does what is missing of a run, beside others or alone, and writes its report."""
    store, context, record = _opened(run, way)
    settings = Settings(progress=way.progress or Silent(), doubted=doubted)
    told = watcher(settings.progress)
    result = Run(context, store, record, settings).execute()
    told.part(api.REPORT, 0, 0)
    report = api.write_report(store, result)
    told.part(api.REPORT, 1, 1)
    return report


def _opened(run: str | Path, way: Way) -> tuple[Store, Context, dict[str, object]]:
    """A run with its model and data, as they are found from here."""
    refuse_inference_mode()
    store, spec, record = open_store(api.files_of(run))
    _require_same_code(spec, store)
    reference = str(way.model or record["entry_reference"])
    if not reference:
        raise RobustevalError(
            "this run's model was given from Python: only the process that has it can go on"
        )
    if way.device is not None:
        check_device(way.device)
        if way.device.split(":")[0] != spec.device.split(":")[0]:
            raise RobustevalError(
                f"--device {shown(way.device)}: this run is made on {spec.device}, and another "
                "kind of device computes other last bits; begin another run for it"
            )
    access = access_to(record, reference, way.data_dir, way.data, way.allow_code, way.device)
    told = watcher(way.progress or Silent())
    told.part(api.PREPARING, 0, 0)
    context = open_context(spec, access)
    told.part(api.PREPARING, 1, 1)
    return store, context, record


def _require_same_code(spec: RunSpec, store: Store) -> None:
    """Raises EvidenceError where this process would compute with other code than the run's."""
    now, then = library_versions(spec.suite), spec.versions
    differs = [
        f"{name} {then.get(name, 'none')}, here {now.get(name, 'none')}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
    if not differs and code_digests(spec.suite) != spec.code:
        differs = ["the same version, but edited"]
    if differs:
        raise EvidenceError(
            f"{store.where('')} was begun with other code ({'; '.join(differs)}): use that, or "
            "begin another run"
        )


def _join(
    store: Store,
    joined: Claims,
    sleep: Callable[[float], None],
    pauses: Sequence[float] = _PAUSES,
) -> None:
    """Is at work from now on.  Raises EvidenceError where a process works without claims.

    One that begins while there are claims respects them.
    """
    for pause in (*pauses, None):
        try:
            with store.lock():
                joined.arrive()
                return
        except EvidenceError:
            if claims.are_there(store.files):
                joined.arrive()
                return
        if pause:
            sleep(pause * SystemRandom().uniform(0.5, 1.5))
    raise EvidenceError(
        f"`robusteval run` is at work on {store.where('')}, and shares it with none: wait for it, "
        "or stop it and start this command again"
    )


def standing(run: str | Path) -> Worked:
    """How far a run is."""
    store, spec, record = open_store(api.files_of(run))
    return _standing(store, make_plan(spec.suite, spec, parts_of(record)))


def _standing(store: Store, plan: Plan) -> Worked:
    there = set(store.names())
    done = plan.counted_done(lambda job: f"{job.stem}.parquet" in there)
    every = [*plan.jobs(), *plan.probe_jobs()]
    failed = [job.label or job.kind for job in every if f"{job.stem}.failed.json" in there]
    return Worked(len(done), len(plan.counted_jobs()), tuple(dict.fromkeys(failed)))
