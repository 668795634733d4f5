"""Packs a run's rows, a file for each cell, or takes them out again."""

from dataclasses import dataclass

from robusteval.evidence.claims import alone
from robusteval.evidence.files import Files
from robusteval.evidence.packs import group_of, members_of, pack_name, packed
from robusteval.evidence.record import mark_packed, open_store, parts_of
from robusteval.evidence.store import EVIDENCE, Store, rows_name
from robusteval.plan.plan import Job, Plan, make_plan

_ADVICE = "free space or mend the folder, then run the same command again: nothing is lost"


@dataclass(frozen=True)
class Packing:
    """How many files of evidence there were, and are."""

    before: int
    after: int


def pack(files: Files) -> Packing:
    """Packs the rows of each cell whose chunks are all done, byte for byte.

    A kill leaves all rows there, and the same call goes on.  Raises EvidenceError for rows that
    can't be read, and while somebody is at work.
    """
    store, spec, record = open_store(files)
    before = len(files.names(EVIDENCE))
    with alone(store):
        plan = make_plan(spec.suite, spec, parts_of(record))
        groups = {g: jobs for g, jobs in _groups(plan).items() if _is_packable(store, jobs)}
        if groups:
            mark_packed(files, True)
        for group, jobs in groups.items():
            _pack(store, group, jobs)
    return Packing(before, len(files.names(EVIDENCE)))


def unpack(files: Files) -> Packing:
    """Lets each job's rows stand alone again."""
    store, _, _ = open_store(files)
    names = files.names(EVIDENCE)
    with alone(store):
        for name in names:
            for member in members_of(name):
                if member not in names:
                    content = store.packs.read(member)
                    files.write(f"{EVIDENCE}/{member}", content, _ADVICE)
            if members_of(name):
                files.remove(f"{EVIDENCE}/{name}", _ADVICE)
        mark_packed(files, False)
    return Packing(len(names), len(files.names(EVIDENCE)))


def _groups(plan: Plan) -> dict[str, list[Job]]:
    """Jobs that go into a file, by the start of their names, in the order of their chunks."""
    found: dict[str, list[Job]] = {}
    for job in [*plan.clean_jobs(), *plan.attack_jobs()]:
        if group := group_of(f"{job.stem}.parquet"):
            found.setdefault(group, []).append(job)
    return {group: jobs for group, jobs in found.items() if len(jobs) > 1}


def _is_packable(store: Store, jobs: list[Job]) -> bool:
    """Whether all are done, and some stand alone."""
    return all(map(store.has, jobs)) and any(store.files.has(rows_name(job)) for job in jobs)


def _pack(store: Store, group: str, jobs: list[Job]) -> None:
    for job in jobs:
        store.read(job)  # what is damaged is told, and stays as it is
    content = packed({f"{job.stem}.parquet": store.read_rows(job) for job in jobs})
    store.files.write(f"{EVIDENCE}/{pack_name(group, len(jobs))}", content, _ADVICE)
    for job in jobs:
        store.files.remove(rows_name(job), _ADVICE)
