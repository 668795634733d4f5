"""Several workers beside this process do the jobs.

Workers are plain processes that speak JSON lines: no code and no pickles pass between them, and
what they find goes to disk as evidence.
"""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from robusteval.errors import AttackError, RobustevalError
from robusteval.evidence.store import Failure, Store
from robusteval.hardware import most_threads
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.run.executors.base import Watch
from robusteval.run.jobs import Done
from robusteval.spinning import preferred
from robusteval.storage import append_to

ATTEMPTS = 3  # a job whose worker died is done again by another, twice


class Worker:
    """One process with a model of its own."""

    def __init__(self, store: Store, access: dict[str, Any], threads: int) -> None:
        self.job: Job | None = None
        with append_to(store.folder / "workers.log", "remove it") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robusteval.run.executors.worker", str(store.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env={**os.environ, **preferred(os.environ), "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C is for the one who waits, who then ends us
            )
        self._send(access)

    def listen(self, queue: "Queue[tuple[Worker, dict[str, Any] | None]]") -> None:
        """Passes on what it says, and None when it has gone."""

        def read() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                queue.put((self, json.loads(line)))
            queue.put((self, None))

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()

    def give(self, job: Job, budget: float | None) -> None:
        """Hands it a job."""
        self.job = job
        self._send({"kind": job.kind, "part": job.part, "chunk": job.chunk, "budget": budget})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # if it has died, its silence will be heard
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.bury()

    def bury(self) -> int:
        """Closes what it leaves open; its exit code, negative for a signal."""
        code = self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        return code


class Processes:
    """Jobs spread over workers; a worker that dies has its job done by another."""

    def __init__(self, context: Context, store: Store, count: int) -> None:
        access = context.access
        if not access.entry:
            raise RobustevalError(
                "a model given from Python can't be sent to workers: use workers=1, or an entry"
            )
        if context.spec.own_data and not access.data:
            raise RobustevalError(
                "images given from Python can't be sent to workers: use workers=1, or save them "
                "and pass data=…"
            )
        data_dir = None if access.data_dir is None else str(Path(access.data_dir).resolve())
        self.access = {
            "entry": access.entry,
            "data_dir": data_dir,
            "data": access.data,
            "allow_code": access.allow_code,
        }
        self.store, self.count, self.threads = (
            store,
            count,
            min(context.spec.threads, most_threads()),
        )
        self.queue: Queue[tuple[Worker, dict[str, Any] | None]] = Queue()
        self.workers: list[Worker] = []

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Does the jobs, as many at a time as there are workers."""
        waiting, deaths = deque(jobs), dict.fromkeys(jobs, 0)
        while waiting or any(w.job for w in self.workers):
            self._hand_out(waiting, watch)
            try:
                worker, message = self.queue.get(timeout=1)
            except Empty:
                continue
            if message is None:
                self._bury(worker, waiting, deaths, watch)
            elif "within" in message and worker.job:
                watch.within(worker.job, message["within"])
            elif "error" in message:
                raise _error(message)
            elif worker.job:
                job, worker.job = worker.job, None
                watch.finished(job, _found(message))

    def _hand_out(self, waiting: deque[Job], watch: Watch) -> None:
        """A job for every worker without one; new workers as long as there is work for them."""
        idle = [w for w in self.workers if w.job is None]
        while waiting:
            if not watch.wanted(waiting[0]):
                waiting.popleft()
                continue
            if not idle and len(self.workers) >= self.count:
                return
            worker = idle.pop() if idle else self._start()
            job = waiting.popleft()
            worker.give(job, watch.budget(job))
            watch.started(job)

    def _start(self) -> Worker:
        worker = Worker(self.store, self.access, self.threads)
        worker.listen(self.queue)
        self.workers.append(worker)
        return worker

    def _bury(
        self, worker: Worker, waiting: deque[Job], deaths: dict[Job, int], watch: Watch
    ) -> None:
        code = worker.bury()
        self.workers.remove(worker)
        job = worker.job
        if job is None or self.store.has(job):
            if job is not None:
                watch.finished(job, Done(0, 0))
            return
        deaths[job] += 1
        if deaths[job] < ATTEMPTS:
            waiting.appendleft(job)
            return
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        failure = Failure("error", f"its worker died {how}, {ATTEMPTS} times")
        if job.kind in ("clean", "outliers"):
            raise AttackError(f"{job.stem}: {failure.reason}: see workers.log in the run's folder")
        self.store.fail(job, failure)
        watch.finished(job, failure)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()


def _found(message: dict[str, Any]) -> Done | Failure:
    if "reason" in message:
        return Failure(message["kind"], message["reason"])
    return Done(message["samples"], message["robust"])


def _error(message: dict[str, Any]) -> RobustevalError:
    error = RobustevalError(message["error"])
    error.exit_code = message["exit_code"]
    return error
