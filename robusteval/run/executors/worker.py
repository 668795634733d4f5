"""A worker: ``python -m robusteval.run.executors.worker RUN`` reads jobs and does them.

It speaks JSON lines on stdin and stdout: first how to reach model and data, then one job a line;
for each it says how far it is, and what became of it.  It ends when its stdin does.
"""

import json
import os
import sys
import threading
import time
from queue import Queue
from typing import Any, TextIO

import torch

from robusteval.errors import RobustevalError
from robusteval.evidence.files import Files
from robusteval.evidence.located import files_at
from robusteval.places import parse_place
from robusteval.run.executors.messages import access_of, error_message, found_message
from robusteval.run.executors.service import Service

_PAUSE = 0.2  # seconds between two words on how far a job is


def _lines(stream: TextIO) -> "Queue[dict[str, Any]]":
    """What comes in.  Whoever gave us work and is gone takes no answer: then we end at once."""
    queue: Queue[dict[str, Any]] = Queue()

    def read() -> None:
        for line in stream:
            queue.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return queue


def serve(files: Files, incoming: "Queue[dict[str, Any]]", outgoing: TextIO) -> None:
    """Does jobs until there are none."""

    def say(message: dict[str, Any]) -> None:
        outgoing.write(json.dumps(message) + "\n")
        outgoing.flush()

    try:
        access = access_of(incoming.get())
        with Service(files, access) as service:
            while True:
                message = incoming.get()
                job = service.job(message)
                say(found_message(service.do(job, message["budget"], _throttled(say))))
    except RobustevalError as error:
        say(error_message(error))


def _throttled(say: Any) -> Any:
    last = 0.0

    def within(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PAUSE:
            last = now
            say({"within": share})

    return within


def main() -> None:
    """What libraries print must not mix with what we say: their stdout is our stderr."""
    outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_interop_threads(1)
    serve(files_at(parse_place(sys.argv[1])), _lines(sys.stdin), outgoing)


if __name__ == "__main__":
    main()
