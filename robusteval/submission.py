"""Shards of a run as jobs of a Slurm queue, or as processes of this machine, through submitit.

A job returns nothing: what it finds is evidence in the run's folder.  One that runs into its time
limit is queued again and goes on; one that is killed has its work done by the others, or by
whatever is submitted later.
"""

import io
import shutil
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robusteval import sharing, watching
from robusteval.api import files_of
from robusteval.errors import RobustevalError, shown
from robusteval.evidence.claims import LEASE
from robusteval.evidence.record import open_store
from robusteval.extras import extra
from robusteval.places import Place, Url
from robusteval.plan.context import Access, open_entry
from robusteval.run.shard import Shard
from robusteval.sharing import Way

MOST_SHARDS = 10_000  # as jobs of their own
_AGAIN = 1000  # times that a job may run into its time limit
_NOTICE = 90  # seconds before that limit


@dataclass(frozen=True)
class Resources:
    """What each job asks a queue for: ``memory`` in GB, ``minutes`` until it is queued again.

    ``slurm``: more options of sbatch, such as ``account``, by their long names.
    """

    cpus: int | None = None
    gpus: int | None = None
    memory: float = 8.0
    minutes: int = 240
    partition: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What one job does; it is called in the job's own process."""

    run: Place
    shard: Shard
    way: Way
    lease: float

    def __call__(self) -> None:
        with watching.shown(f"{self.run.name} {self.shard.index}/{self.shard.count}") as display:
            way = replace(self.way, progress=display)
            sharing.work(self.run, way, shard=self.shard, lease=self.lease)

    def checkpoint(self) -> Any:
        """What a job does that is queued again: the same, which goes on."""
        return _submitit().helpers.DelayedSubmission(self)


def logs_of(run: Place) -> Path:
    """The folder of the logs of a run's jobs: beside it, or here where the run is in a store."""
    return (run.parent if isinstance(run, Path) else Path()) / f"{run.name}.logs"


def submit(
    run: Place,
    shards: int,
    resources: Resources = Resources(),
    way: Way = Way(),
    *,
    lease: float = LEASE,
    local: bool = False,
) -> list[Any]:
    """Hands a run's shards to a queue, or starts them here; submitit's jobs.

    Raises RobustevalError for what no queue takes, no run, and where there is no Slurm.
    """
    _check(shards, resources)
    _require_shared(run)
    submitit = _submitit()
    _, spec, record = open_store(files_of(run))
    reference = str(way.model or record["entry_reference"])
    open_entry(spec, Access(reference, allow_code=way.allow_code))
    if not local and shutil.which("sbatch") is None:
        raise RobustevalError("there is no Slurm here (no sbatch): submit where it is, or --local")
    run = run.resolve() if isinstance(run, Path) else run
    cluster = "local" if local else "slurm"
    executor = submitit.AutoExecutor(
        logs_of(run), cluster, **{f"{cluster}_max_num_timeout": _AGAIN}
    )
    is_cuda = spec.device.startswith("cuda")
    executor.update_parameters(
        name=run.name,
        timeout_min=resources.minutes,
        mem_gb=resources.memory,
        cpus_per_task=resources.cpus or spec.threads,
        gpus_per_node=int(is_cuda) if resources.gpus is None else resources.gpus,
        slurm_partition=resources.partition,
        slurm_signal_delay_s=_NOTICE,
        slurm_additional_parameters=dict(resources.slurm) or None,
    )
    tasks = [Task(run, Shard(index, shards), way, lease) for index in range(1, shards + 1)]
    try:
        with redirect_stderr(io.StringIO()), executor.batch():  # sbatch's words are the error's
            return [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        told = " ".join(str(error).split())[-200:]
        raise RobustevalError(f"Slurm takes no such jobs: {told}") from None


def _submitit() -> Any:
    return extra("submitit", "submitit", "`robusteval submit`", RobustevalError)


def _require_shared(run: Place) -> None:
    """Raises RobustevalError for a run that no other process can see."""
    if isinstance(run, Url) and run.is_of_one_process:
        raise RobustevalError(f"{run}: a memory belongs to one process: keep the run elsewhere")


def _check(shards: int, resources: Resources) -> None:
    """Raises RobustevalError for numbers that make no sense."""
    limits = {
        "shards": (shards, 1, MOST_SHARDS),
        "cpus": (resources.cpus, 1, 4096),
        "gpus": (resources.gpus, 0, 64),
        "memory": (resources.memory, 0.1, 1e5),
        "minutes": (resources.minutes, 1, 10**6),
    }
    for name, (value, least, most) in limits.items():
        if value is not None and not least <= value <= most:
            raise RobustevalError(f"--{name} {value:g}: choose {least:g} to {most:g}")


def slurm_options(given: list[str]) -> dict[str, str]:
    """Of such as ``account=mine``.  Raises RobustevalError.

    >>> slurm_options(["account=mine", "--exclude=node1,node2"])
    {'account': 'mine', 'exclude': 'node1,node2'}
    """
    found = {}
    for text in given:
        name, equals, value = text.removeprefix("--").partition("=")
        if not (equals and value and name.replace("-", "").replace("_", "").isalnum()):
            raise RobustevalError(f"--slurm {shown(text)}: give NAME=VALUE, such as account=mine")
        found[name] = value
    return found
