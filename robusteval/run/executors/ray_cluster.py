"""Workers of a Ray cluster do the jobs: on this machine, or on many that share the run's folder.

Ray carries orders and answers, plain JSON; evidence goes to the run's files.  A job whose worker or
node is lost is done again by another.  A model or images that Python gave travel by Ray's own
pickles, within the caller's cluster.
"""

import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from robusteval.errors import RobustevalError, reason
from robusteval.evidence.store import Store
from robusteval.extras import extra
from robusteval.hardware import cores
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.run.crew import Crew
from robusteval.run.executors import ray_actor
from robusteval.run.executors.attempts import Waiting
from robusteval.run.executors.base import Watch
from robusteval.run.executors.messages import access_message, error_of, found_of, job_message

_LOOK = 0.5  # seconds between two looks at how far jobs are
_PATIENCE = 10.0  # seconds for an address to answer
_STORE = 2**27  # bytes for what Ray hands round: a model from Python, and little else
_LONGEST_PATH = 40  # of Ray's own folder: its sockets' names may have 107 bytes in all


class RayWorkers:
    """Jobs spread over actors; one whose actor died is done by another.

    ``joined``: a cluster that was joined already.
    """

    def __init__(
        self, context: Context, store: Store, crew: Crew, joined: "Joined | None" = None
    ) -> None:
        self.store, self.plan = store, context.plan
        self.joined = joined or Joined(crew)
        self.ray = self.joined.ray
        self.idle: list[Any] = []
        self.at_work: dict[Any, tuple[Any, Job]] = {}  # by the answer that is awaited
        try:
            threads = max(1, context.spec.threads)
            self.count = crew.count or _room(self.ray, threads, crew.gpus)
            self.actors = _Actors(self.ray, context, store, threads, crew.gpus)
        except BaseException:
            self.joined.leave()
            raise

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Does the jobs, as many at a time as there are workers: no more wait at one of them."""
        waiting = Waiting(jobs, watch, self.store, self.plan)
        while waiting or self.at_work:
            self._hand_out(waiting, watch)
            if not self.at_work:
                return
            if not (ready := self._ready()):
                self._tell_shares(watch)
            for answer in ready:
                self._take(answer, waiting, watch)

    def _ready(self) -> list[Any]:
        """All answers that are there, as soon as there is one: a look at many costs as much."""
        awaited = list(self.at_work)
        ready, rest = self.ray.wait(awaited, timeout=_LOOK)
        if ready and rest:
            more, _ = self.ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        return list(ready)

    def _hand_out(self, waiting: Waiting, watch: Watch) -> None:
        """A job for every worker without one; new workers as long as there is work for them."""
        while (self.idle or len(self.at_work) < self.count) and (job := waiting.next()):
            actor = self.idle.pop() if self.idle else self.actors.new()
            answer = actor.do.remote(job_message(job, watch.budget(job)))
            self.at_work[answer] = (actor, job)
            watch.started(job)

    def _take(self, answer: Any, waiting: Waiting, watch: Watch) -> None:
        """What became of a job.  Raises RobustevalError where that ends the run."""
        actor, job = self.at_work.pop(answer)
        try:
            message = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self._bury(actor, job, f"({type(error).__name__})", waiting)
            return
        if "error" in message:
            raise error_of(message)
        self.idle.append(actor)
        watch.finished(job, found_of(message))

    def _bury(self, actor: Any, job: Job, how: str, waiting: Waiting) -> None:
        with suppress(Exception):  # it may be gone already, with its node
            self.ray.kill(actor)
        if not waiting.returned(job):
            waiting.give_up(job, how, "what Ray says of it")

    def _tell_shares(self, watch: Watch) -> None:
        """How far the jobs are, of those actors that answer at once."""
        asked = {actor.share.remote(): job for actor, job in self.at_work.values()}
        ready, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK)
        for answer in ready:
            with suppress(self.ray.exceptions.RayError):  # its job will tell
                watch.within(asked[answer], self.ray.get(answer))

    def close(self) -> None:
        """Ends the workers, and the cluster if the run started it."""
        for actor in [*self.idle, *(actor for actor, _ in self.at_work.values())]:
            with suppress(Exception):
                self.ray.kill(actor)
        self.joined.leave()


class _Actors:
    """Makes actors, all alike."""

    def __init__(
        self, ray: ModuleType, context: Context, store: Store, threads: int, gpus: float | None
    ) -> None:
        self.order = (store.files.from_anywhere(), _put(ray, _given(context)))
        self.make = ray.remote(
            num_cpus=threads, num_gpus=gpus or 0, max_restarts=0, concurrency_groups={"watch": 1}
        )(ray_actor.RayActor)

    def new(self) -> Any:
        """It opens the run with its first job."""
        return self.make.remote(*self.order)


def _given(context: Context) -> dict[str, Any]:
    """What an actor needs beside the run's files: a way to the model and the data, or these."""
    if context.spec.own_training and not isinstance(context.access.training, str):
        raise RobustevalError(
            "training data given from Python can't be sent to Ray's workers: use workers=1, or "
            "save them and pass fit_data=…"
        )
    with suppress(RobustevalError):  # Python gave the model or the images: they go themselves
        return {"access": access_message(context), "model": None, "data": None}
    return {"access": None, "model": context.model, "data": context.data}


def _put(ray: ModuleType, given: dict[str, Any]) -> Any:
    """Raises RobustevalError for a model or images that can't be sent."""
    try:
        return ray.put(ray.cloudpickle.dumps(given))
    except Exception as error:  # noqa: BLE001 - whatever a foreign object says when it is pickled
        raise RobustevalError(
            f"the model or images from Python can't be sent to Ray's workers "
            f"({type(error).__name__}: {reason(error)}): use workers=1, or an entry and data=…"
        ) from None


def _ray() -> ModuleType:
    """Ray, told before its import to ask for a token and to send nothing home."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:  # it reads it but once
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    return extra("ray", "ray", "--workers ray", RobustevalError)


class Joined:
    """A cluster that answers: the process's own, the one that is meant, or one for this run.

    Raises RobustevalError where none does.
    """

    def __init__(self, crew: Crew) -> None:
        self.ray, self.folder = _ray(), None
        if self.ray.is_initialized():  # a notebook's, say: it stays
            self.is_ours = False
            return
        self.is_ours = True
        address = crew.address or os.environ.get("RAY_ADDRESS")
        with _told(address), _own_signals():
            if address:
                _require_open(address)
                self.ray.init(address=address, log_to_driver=False, logging_level="ERROR")
                return
            self.folder = _short_folder()
            self._start(self.folder, crew)

    def _start(self, folder: Path, crew: Crew) -> None:
        self.ray.init(
            address="local",
            num_cpus=max(cores(), crew.count or 1),
            num_gpus=_local_gpus(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=_STORE,
            _temp_dir=str(folder),
        )

    def leave(self) -> None:
        """Ends what was begun, and leaves no folder behind."""
        if self.is_ours:
            self.ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in the place of ours, which unwinds the run."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _told(address: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - Ray raises what its parts raise
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        told = f"({type(error).__name__}: {reason(error)})"
        mend = "check --ray-address and RAY_AUTH_TOKEN" if address else "use --workers N instead"
        raise RobustevalError(f"{where} can't be used {told}: {mend}") from None


def _require_open(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would go on asking for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _short_folder() -> Path:
    """Ray's own: its sockets' names must be short, whatever $TMPDIR is."""
    usual = Path(tempfile.gettempdir())
    place = usual if len(str(usual)) <= _LONGEST_PATH else Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="re-", dir=place))


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _room(ray: ModuleType, threads: int, gpus: float | None) -> int:
    """How many workers the cluster has room for."""
    found = ray.cluster_resources()
    room = int(found.get("CPU", 1) // threads)
    if gpus:
        room = min(room, int(found.get("GPU", 0) / gpus))
    return max(1, room)
