"""Several workers beside this process do the jobs.

Workers are plain processes that speak JSON lines: no code and no pickles pass between them, and
what they find goes to disk as evidence.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue

from robusteval.evidence.store import Store
from robusteval.hardware import most_threads
from robusteval.places import Url
from robusteval.plan.context import Context
from robusteval.plan.plan import Job
from robusteval.run.executors.attempts import Waiting
from robusteval.run.executors.base import Watch
from robusteval.run.executors.messages import (
    Message,
    access_message,
    error_of,
    found_of,
    job_message,
)
from robusteval.spinning import preferred
from robusteval.storage import append_to

LOG = "workers.log"  # in the run's folder, if it has one: what workers said beside


class Worker:
    """One process with a model of its own."""

    def __init__(self, store: Store, log: Path, access: Message, threads: int) -> None:
        self.job: Job | None = None
        with append_to(log, "remove it") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "robusteval.run.executors.worker", str(store.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                encoding="utf-8",
                env={**os.environ, **preferred(os.environ), "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C is for the one who waits, who then ends us
            )
        self._send(access)

    def listen(self, queue: "Queue[tuple[Worker, Message | None]]") -> None:
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
        self._send(job_message(job, budget))

    def _send(self, message: Message) -> None:
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
        self.access = access_message(context)
        self.store, self.plan, self.count = store, context.plan, count
        self.threads = min(context.spec.threads, most_threads())
        self.queue: Queue[tuple[Worker, Message | None]] = Queue()
        self.workers: list[Worker] = []
        self.log, self.is_ours = _log_of(store)

    def run(self, jobs: Sequence[Job], watch: Watch) -> None:
        """Does the jobs, as many at a time as there are workers."""
        waiting = Waiting(jobs, watch, self.store, self.plan)
        while waiting or any(w.job for w in self.workers):
            self._hand_out(waiting, watch)
            try:
                worker, message = self.queue.get(timeout=1)
            except Empty:
                continue
            if message is None:
                self._bury(worker, waiting)
            elif "within" in message and worker.job:
                watch.within(worker.job, message["within"])
            elif "error" in message:
                raise error_of(message)
            elif worker.job:
                job, worker.job = worker.job, None
                watch.finished(job, found_of(message))

    def _hand_out(self, waiting: Waiting, watch: Watch) -> None:
        """A job for every worker without one; new workers as long as there is work for them."""
        idle = [w for w in self.workers if w.job is None]
        while (idle or len(self.workers) < self.count) and (job := waiting.next()):
            worker = idle.pop() if idle else self._start()
            worker.give(job, watch.budget(job))
            watch.started(job)

    def _start(self) -> Worker:
        worker = Worker(self.store, self.log, self.access, self.threads)
        worker.listen(self.queue)
        self.workers.append(worker)
        return worker

    def _bury(self, worker: Worker, waiting: Waiting) -> None:
        code = worker.bury()
        self.workers.remove(worker)
        if worker.job is None or waiting.returned(worker.job):
            return
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        self.is_ours = False  # it is to be read
        is_there = self.log.name == LOG
        where = f"{LOG} in the run's folder" if is_there else str(self.log)
        waiting.give_up(worker.job, how, where)

    def close(self) -> None:
        """Ends the workers."""
        for worker in self.workers:
            worker.stop()
        self.workers.clear()
        if self.is_ours:
            self.log.unlink(missing_ok=True)


def forget_log(store: Store) -> None:
    """Removes what workers said beside, from a run's folder."""
    if not isinstance(store.folder, Url):
        (store.folder / LOG).unlink(missing_ok=True)


def _log_of(store: Store) -> tuple[Path, bool]:
    """Where workers speak beside, and whether it goes with them: in the run's folder it stays, of
    a run in a store it is a file of this machine."""
    if not isinstance(store.folder, Url):
        return store.folder / LOG, False
    descriptor, name = tempfile.mkstemp(prefix="robusteval-", suffix=f"-{LOG}")
    os.close(descriptor)
    return Path(name), True
