"""Several processes share a run's jobs: equal evidence, whoever comes, goes or is killed."""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from benchmarks.blocks import FGSM
from robusteval import api, sharing
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evidence import claims
from robusteval.evidence.claims import Claims
from robusteval.evidence.files import Local
from robusteval.evidence.record import open_store
from robusteval.evidence.store import Failure, Store
from robusteval.plan.context import Access, Context, open_context
from robusteval.plan.made_with import library_versions
from robusteval.plan.plan import Job
from robusteval.run.executors.base import Watch
from robusteval.run.executors.here import Here
from robusteval.run.executors.shared import Shared
from robusteval.run.jobs import perform
from robusteval.run.runner import Run, Settings
from robusteval.run.shard import Shard, parse_shard, shard_of_array
from robusteval.sharing import Way
from tests.helpers.attacks import AddAttack
from tests.helpers.commands import cli, refused
from tests.helpers.evidence import evidence_of
from tests.helpers.processes import Started, started
from tests.helpers.runs import BRIEF, FEW, options

JOB, OTHER = Job("clean", 0, 0), Job("clean", 0, 1)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("suite") / "few.toml"
    path.write_text(FEW)
    return str(path)


@pytest.fixture(scope="module")
def alone(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    out = tmp_path_factory.mktemp("alone")
    return api.evaluate("ce_digits", few, options=options(out)).folder


@pytest.fixture(scope="module")
def prepared(few: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharing.begin("ce_digits", few, options(tmp_path_factory.mktemp("prepared")))


@pytest.fixture
def begun(prepared: Path, tmp_path: Path) -> Path:
    """The same run, on which nobody is at work yet."""
    return shutil.copytree(prepared, tmp_path / "runs" / prepared.name)


class Clock:
    """One that is set by hand; whoever sleeps by it sets it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def claims_of(folder: Path, clock: Clock | None = None, lease: float = 60.0) -> Claims:
    """Of a process whose signs of life are given by hand."""
    return Claims(Local(folder), lease, 1e6, clock or Clock(), look=lease / 6).arrive()


def taken(by: Claims, job: Job) -> int:
    by.look()
    return by.take(job.stem)


# Claims


def test_one_has_a_job_until_it_is_released(tmp_path: Path) -> None:
    first, second = claims_of(tmp_path), claims_of(tmp_path)
    assert taken(first, JOB) == 1
    assert taken(second, JOB) == 0
    assert taken(second, OTHER) == 1
    first.release(JOB.stem)
    assert taken(second, JOB) == 1
    second.release(JOB.stem)
    second.leave()
    assert [path.suffix for path in (tmp_path / "claims").iterdir()] == [".json"]
    first.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_stands_while_its_claimant_lives(tmp_path: Path) -> None:
    """By the clock of whoever looks, which may be any."""
    clock = Clock(1e9)
    first, second = claims_of(tmp_path), claims_of(tmp_path, clock)
    assert taken(first, JOB) == 1
    for _ in range(60):
        first.sign()
        clock.now += 55
        assert taken(second, JOB) == 0
    clock.now += 59
    assert taken(second, JOB) == 0
    clock.now += 1
    assert taken(second, JOB) == 2
    assert second.others() == []


def test_a_lease_is_the_claimants(tmp_path: Path) -> None:
    clock = Clock()
    first, second = claims_of(tmp_path, lease=600.0), claims_of(tmp_path, clock, lease=1.0)
    assert taken(first, JOB) == 1
    assert taken(second, JOB) == 0
    clock.now += 599
    assert taken(second, JOB) == 0
    clock.now += 1
    assert taken(second, JOB) == 2


def test_a_claim_is_its_next_holders_too(tmp_path: Path) -> None:
    """One that stops releases its job, and another takes it under the same number."""
    first, second, third = (claims_of(tmp_path) for _ in range(3))
    assert taken(first, JOB) == 1
    assert taken(second, JOB) == 0
    second.look()
    first.leave()
    assert taken(third, JOB) == 1
    assert second.take(JOB.stem) == 0  # by a look that is old
    assert taken(second, JOB) == 0
    third.leave()
    assert taken(second, JOB) == 1


def test_whoever_left_has_no_claim(tmp_path: Path) -> None:
    first, second = claims_of(tmp_path), claims_of(tmp_path)
    assert taken(first, JOB) == 1
    (tmp_path / "claims" / f"worker-{first.who}.json").unlink()  # killed as it left
    assert taken(second, JOB) == 2
    second.release(JOB.stem)
    second.leave()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"who": 3}', b"\xff", b'{"who": "../run"}'])
def test_a_damaged_claim_is_nobodys(content: bytes, tmp_path: Path) -> None:
    mine = claims_of(tmp_path)
    (tmp_path / "claims" / "clean-0000.1.json").write_bytes(content)
    assert taken(mine, JOB) == 2


@pytest.mark.parametrize(
    "told", [b"", b"{}", b'{"lease": 1e400}', b'{"lease": "1"}', b'{"lease": 0}']
)
def test_a_damaged_sign_of_life_has_the_usual_lease(told: bytes, tmp_path: Path) -> None:
    clock = Clock()
    first, second = claims_of(tmp_path), claims_of(tmp_path, clock)
    assert taken(first, JOB) == 1
    (tmp_path / "claims" / f"worker-{first.who}.json").write_bytes(told)
    assert taken(second, JOB) == 0
    clock.now += 59
    assert taken(second, JOB) == 0
    clock.now += 1
    assert taken(second, JOB) == 2


@pytest.mark.parametrize("is_left", [False, True])
def test_of_several_one_wins(is_left: bool, tmp_path: Path) -> None:
    """A free job, and one whose claimant is gone."""
    dead, clock = claims_of(tmp_path), Clock()
    if is_left:
        taken(dead, JOB)
    several = [claims_of(tmp_path, clock) for _ in range(8)]
    for one in several:
        taken(one, OTHER)  # sees who is there
        one.look()
        one.take(JOB.stem) if is_left else None
    clock.now += 60
    for one in several:
        if is_left:
            one.sign()
    found, ready = [], threading.Barrier(8)

    def race(one: Claims) -> None:
        one.look()
        ready.wait()
        found.append(one.take(JOB.stem))

    threads = [threading.Thread(target=race, args=(one,)) for one in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0] * 7 + [2 if is_left else 1]


def test_signs_of_life_go_on_by_themselves(tmp_path: Path) -> None:
    mine = Claims(Local(tmp_path), 0.5, 0.01).arrive()
    (path,) = (tmp_path / "claims").iterdir()
    before, end = path.read_bytes(), time.monotonic() + 20
    while path.read_bytes() == before and time.monotonic() < end:
        time.sleep(0.01)
    assert path.read_bytes() != before
    mine.leave()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lease", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_lease_that_makes_no_sense(lease: float, begun: Path) -> None:
    refused(cli("work", str(begun), "--lease", str(lease)), "--lease ", "choose 0.5 to 86400")


# Shards


@pytest.mark.parametrize("text", ["0/4", "5/4", "a", "1/0", "", "1/", "/3", "-1/3", "1/2/3", "٣/4"])
def test_no_shard(text: str, begun: Path) -> None:
    refused(cli("work", str(begun), "--shard", text), "--shard ", "give I/N, such as 2/4")


def test_every_job_is_some_shards() -> None:
    shards = [parse_shard(f"{index}/3") for index in (1, 2, 3)]
    owners = [[shard.index for shard in shards if shard.owns(place)] for place in range(7)]
    assert owners == [[1], [2], [3], [1], [2], [3], [1]]


def array(task: object, first: object, last: object, count: object) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "COUNT")
    values = map(str, (task, first, last, count))
    return {f"SLURM_ARRAY_TASK_{n}": v for n, v in zip(names, values, strict=True)}


def test_a_slurm_arrays_tasks_are_shards() -> None:
    """Wherever their indices start, and whatever their steps are."""
    assert shard_of_array({}) is None
    for indices in (range(4), range(1, 6), range(7, 8), range(3, 30, 4), (1, 2, 40)):
        found = [
            shard_of_array(array(index, indices[0], indices[-1], len(indices))) for index in indices
        ]
        assert {shard.count for shard in found if shard} == {len(indices)}
        if isinstance(indices, range):
            assert [shard.index for shard in found if shard] == [*range(1, len(indices) + 1)]
        else:
            assert found[-1] == Shard(3, 3)


@pytest.mark.parametrize(
    "given", [(5, 0, 4, 5), (0, 1, 4, 4), (1, 1, 4, 9), (1, 1, 4, 0), (1, 1, 4, 1), ("x", 1, 4, 4)]
)
def test_contradicting_variables_of_slurm(
    given: tuple[object, ...], begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in array(*given).items():
        monkeypatch.setenv(name, value)
    refused(cli("work", str(begun)), "SLURM_ARRAY_TASK_ID=", "give --shard I/N")


# A run that is shared


class Stopping(Shared):
    """Stopped, as by a queue, after so many jobs of its own."""

    after = 3

    def _do(self, job: Job, number: int, watch: Watch) -> None:
        if self.after == 0:
            raise KeyboardInterrupt
        self.after -= 1
        super()._do(job, number, watch)


@pytest.mark.slow
def test_shards_in_any_order_and_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run with every kind of job."""
    (suite := tmp_path / "brief.toml").write_text(BRIEF)
    alone = api.evaluate("ce_digits", suite, options=options(tmp_path / "alone", samples=24)).folder
    begun = sharing.begin("ce_digits", suite, options(tmp_path / "runs", samples=24))
    order = ("3/3", None, "1/3", "2/3")
    monkeypatch.setattr(sharing, "Shared", Stopping)
    for turn in range(100):
        try:
            worked = sharing.work(begun, shard=order[turn % len(order)])
            break
        except KeyboardInterrupt:
            assert not (begun / "claims").exists()
    assert turn > 3
    assert worked.done == worked.jobs
    assert sharing.finish(begun).content["worst_case"] == report_of(alone)["worst_case"]
    assert evidence_of(begun) == evidence_of(alone)
    assert all(check.held for check in api.verify(begun))


def report_of(folder: Path) -> dict[str, Any]:
    return api.rebuild_report(folder).content


def test_several_processes_at_once(begun: Path, alone: Path) -> None:
    several = [started("work", str(begun), "--shard", f"{n}/3") for n in (1, 2, 3)]
    for done in [one.ended() for one in several]:
        assert done.returncode == 0, done.stderr
        assert "jobs are done\n" in done.stdout
    assert not (begun / "claims").exists()
    assert not (begun / "report.json").exists()
    report = sharing.finish(begun)
    assert report.complete
    assert evidence_of(begun) == evidence_of(alone)


def test_run_finishes_what_was_shared(few: str, begun: Path, alone: Path) -> None:
    sharing.work(begun, shard="2/2")
    report = api.evaluate("ce_digits", few, options=options(begun.parent))
    assert report.folder == begun
    assert report.proven
    assert evidence_of(begun) == evidence_of(alone)


def opened(folder: Path) -> tuple[Context, Store, dict[str, Any]]:
    store, spec, record = open_store(Local(folder))
    with store.lock():  # makes its folders
        pass
    return open_context(spec, Access(record["entry_reference"])), store, record


def test_a_job_done_twice_is_one_file(begun: Path, alone: Path) -> None:
    """Its claimant stood still, and goes on when another has done it."""
    still = claims_of(begun)
    context, store, record = opened(begun)
    job = context.plan.clean_job(1)
    assert taken(still, job) == 1
    clock = Clock()
    sharing_run = Run(context, store, record, Settings())
    joined = claims_of(begun, clock)
    sharing_run.take_part(Shared(context, store, joined, None, clock.sleep))
    before = store.read(job)
    Here(context, store).run([job], sharing_run)
    still.release(job.stem)
    assert store.read(job).columns.keys() == before.columns.keys()
    still.leave()
    sharing.finish(begun)
    assert evidence_of(begun) == evidence_of(alone)


def test_a_job_is_not_done_twice_while_its_claimant_lives(begun: Path) -> None:
    """The others do all else, and wait."""
    busy, clock = claims_of(begun), Clock()
    context, store, record = opened(begun)
    job = context.plan.clean_job(2)
    assert taken(busy, job) == 1
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(store.has(job))
        clock.now += 30
        busy.sign()
        if len(waits) == 10:
            done = [store.has(other) for other in context.plan.clean_jobs()]
            assert done == [True, True, False, True]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(context, store, record, Settings()).take_part(
            Shared(context, store, claims_of(begun, clock), None, sleep)
        )
    assert not any(waits)
    busy.leave()
    assert not (begun / "claims").exists()


TWO = (
    """
name = "two"
"""
    + FGSM
    + """
[[attacks]]
name = "stuck"
title = "Stuck"
library = "robusteval"
attack = "stuck"
norms = ["Linf"]
"""
)


def stuck(images: Tensor, labels: Tensor, **_: Any) -> Tensor:
    """Never ends in a process that says so, and does nothing else."""
    if "STUCK" in os.environ:
        Path(os.environ["STUCK"]).touch()
        time.sleep(100)
    return images


def begun_with(add_attack: AddAttack, tmp_path: Path) -> Path:
    add_attack("stuck", lambda model, images, labels, threat, **more: stuck(images, labels))
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    return sharing.begin("ce_digits", path, options(tmp_path / "runs"))


def at_work(folder: Path, tmp_path: Path) -> Started:
    """A process that does a job, and never ends it."""
    mark = tmp_path / "stuck"
    mark.unlink(missing_ok=True)
    one, end = (
        started("work", str(folder), "--lease", "0.5", STUCK=str(mark)),
        time.monotonic() + 60,
    )
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert mark.exists()
    return one


def test_a_killed_claimants_job_is_done_by_another(add_attack: AddAttack, tmp_path: Path) -> None:
    folder = begun_with(add_attack, tmp_path)
    at_work(folder, tmp_path).kill()
    left = [path.name for path in (folder / "claims").iterdir()]
    assert sum(name.startswith("attack-01") for name in left) == 1
    report = api.evaluate("ce_digits", tmp_path / "two.toml", options=options(tmp_path / "runs"))
    assert report.folder == folder
    assert report.complete
    assert not (folder / "claims").exists()
    other = api.evaluate("ce_digits", tmp_path / "two.toml", options=options(tmp_path / "other"))
    assert evidence_of(folder) == evidence_of(other.folder)


def test_a_job_that_nobody_survives_fails(begun: Path) -> None:
    context, store, _ = opened(begun)
    job = context.plan.attack_job(0, 1)
    for _ in range(3):
        one = claims_of(begun)
        assert taken(one, job)
        (begun / "claims" / f"worker-{one.who}.json").unlink()
    worked = sharing.work(begun)
    failure = store.failure(job)
    assert failure
    assert failure.reason == "its worker died or was stopped, 3 times"
    assert worked.failed == (job.label,)
    assert sharing.finish(begun).complete  # it is tried again


def test_what_failed_stands_for_all(begun: Path) -> None:
    context, store, _ = opened(begun)
    store.fail(context.plan.attack_job(0, 2), Failure("error", "no luck"))
    worked = sharing.work(begun)
    chunks = [store.has(context.plan.attack_job(0, chunk)) for chunk in range(4)]
    assert chunks == [False] * 4
    assert worked.failed == (context.plan.attack_job(0, 2).label,)
    assert worked.done == worked.jobs - 4
    told = cli("work", str(begun))
    assert told.exit_code == 0
    assert f"; failed: {worked.failed[0]}" in told.stdout


def test_a_time_limit_counts_what_others_took(few: str, tmp_path: Path) -> None:
    limited = options(tmp_path, time_limit=50.0, only="fgsm")
    folder = sharing.begin("ce_digits", few, limited)
    context, store, record = opened(folder)
    budgets = []

    class Other(Shared):
        """Beside one that does the same attack's next chunk."""

        def _do(self, job: Job, number: int, watch: Watch) -> None:
            budgets.append((job.chunk, watch.budget(job)))
            super()._do(job, number, watch)
            if job.kind == "attack" and job.chunk == 0:
                other = self.context.plan.attack_job(0, 1)
                perform(context, store, other, None, lambda _: None)
                piece = store.read(other)
                store.write(other, type(piece)(piece.columns, piece.facts, 20.0))
                self.looked = None

    clock = Clock()
    Run(context, store, record, Settings()).take_part(
        Other(context, store, claims_of(folder, clock), None, clock.sleep)
    )
    left = {chunk: budget for chunk, budget in budgets if budget is not None}
    assert left[0] == 50.0
    assert 1 not in left
    assert left[2] < 30.0


# Who may work on it


def test_run_shares_where_others_are_at_work(
    few: str, begun: Path, alone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = claims_of(begun)
    report = api.evaluate("ce_digits", few, options=options(begun.parent, workers=2))
    assert "other processes are at work on this run" in caplog.text
    assert report.complete
    assert evidence_of(begun) == evidence_of(alone)
    one.leave()
    assert not (begun / "claims").exists()


def test_work_refuses_where_a_run_shares_nothing(begun: Path) -> None:
    store, _, _ = open_store(Local(begun))
    waited: list[float] = []
    with store.lock(), pytest.raises(EvidenceError, match="and shares it with none: wait for it"):
        sharing.work(begun, sleep=waited.append)
    assert 1 < sum(waited) < 10
    assert not (begun / "claims").exists()


def test_work_joins_a_run_that_shares(begun: Path) -> None:
    store, _, _ = open_store(Local(begun))
    with store.lock():
        run = claims_of(begun)
        worked = sharing.work(begun)
    assert worked.done == worked.jobs
    run.leave()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (Way(model="pcl_digits"), "is not the model of this run"),
        (Way(device="cuda"), "cuda"),
        (Way(model="nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_had_is_told(way: Way, said: str, begun: Path) -> None:
    with pytest.raises(RobustevalError, match=said):
        sharing.work(begun, way)
    assert [path.name for path in begun.iterdir()] == ["run.json"]


def test_other_code_is_told(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded."""
    monkeypatch.setattr(sharing, "open_context", None)
    with monkeypatch.context() as patch:
        other = lambda suite: library_versions(suite) | {"torch": "0.0"}  # noqa: E731
        patch.setattr(sharing, "library_versions", other)
        refused(cli("work", str(begun)), "was begun with other code (torch 2.", ", here 0.0)")
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "code_digests", lambda suite: {})
        refused(cli("work", str(begun)), "(the same version, but edited): use that")


def test_no_run_is_told(tmp_path: Path) -> None:
    refused(cli("work", str(tmp_path / "nowhere")), "is not a run")


def test_prepare_prints_the_folder(few: str, tmp_path: Path) -> None:
    asked = ("--suite", few, "--samples", "40", "--batch-size", "12", "--threads", "1")
    several = ("--model", "ce_digits", "pcl_digits", "--out", str(tmp_path / "r"), "--prepare")
    done = cli("run", *several, *asked)
    assert done.exit_code == 0
    folders = [Path(line) for line in done.stdout.splitlines()]
    assert [[path.name for path in folder.iterdir()] for folder in folders] == [["run.json"]] * 2
    one = cli("run", "--model", "ce_digits", "--out", str(tmp_path / "r"), "--prepare", *asked)
    assert one.stdout == f"{folders[0]}\n"


def test_a_model_from_python_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(RobustevalError, match="find a model by its entry alone"):
        sharing.begin(object(), "quick", options(tmp_path))  # type: ignore[arg-type]


def test_claims_are_no_evidence(alone: Path, tmp_path: Path) -> None:
    """A finished run with a killed process's claims verifies."""
    one = claims_of(alone)
    taken(one, JOB)
    assert all(check.held for check in api.verify(alone))
    one.leave()
    assert claims.are_there(Local(alone)) is False


def test_one_that_is_told_to_stop_leaves_no_claim(add_attack: AddAttack, tmp_path: Path) -> None:
    folder = begun_with(add_attack, tmp_path)
    one = at_work(folder, tmp_path)
    os.kill(one.pid, signal.SIGTERM)
    done = one.ended()
    assert done.returncode == 143
    assert "jobs of ce_digits are done and kept; the same command does the rest" in done.stderr
    assert not (folder / "claims").exists()


def test_a_report_without_a_proof_says_so(few: str, tmp_path: Path) -> None:
    folder = sharing.begin("ce_digits", few, options(tmp_path, only="fgsm"))
    sharing.work(folder)
    told = cli("report", str(folder))
    assert told.exit_code == 0
    assert f"not proven yet: `robusteval work {folder} --finish`" in told.stderr
    assert cli("work", str(folder), "--finish").exit_code == 0
    assert "not proven" not in cli("report", str(folder)).stderr


def test_the_script_for_slurm(
    begun: Path, tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task of an array asks for a shard, in the words that are run here."""
    (place := tmp_path / "bin").mkdir()
    for name, does in (("srun", 'exec "$@"'), ("robusteval", 'printf "%s\\n" "$@"')):
        (place / name).write_text(f"#!/bin/sh\n{does}\n")
        (place / name).chmod(0o755)
    script = Path(__file__).parents[2] / "examples" / "slurm" / "shards.sh"
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    asked = subprocess.run(["bash", script, begun], stdout=subprocess.PIPE, check=True, text=True)
    for task in (2, 1):
        for name, value in array(task, 1, 2, 2).items():
            monkeypatch.setenv(name, value)
        done = cli(*asked.stdout.splitlines())
        assert done.exit_code == 0, done.stderr
    assert "12 of 12 jobs are done" in done.stdout
    assert sharing.finish(begun).proven
    assert evidence_of(begun) == evidence_of(alone)
