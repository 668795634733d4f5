"""Which of several processes has what, such as a run's job: whoever makes its file first.

    claims/worker-<who>.json    a process is at work; it rewrites the file again and again
    claims/<name>.<n>.json      the n-th process that took it, and who that is

A process is gone when its file is, or when the file stays as it is for as long as it says, by the
clock of whoever looks: clocks of different machines need not agree.  What one has that is gone is
free for whoever makes the file of number n + 1.
"""

import json
import math
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from robusteval.errors import EvidenceError, OutputError, RobustevalError
from robusteval.evidence.files import Files
from robusteval.evidence.store import Store

CLAIMS = "claims"  # the folder of those to a run's jobs
LEASE = 60.0  # seconds without a sign of life until a process counts as gone
SHORTEST_LEASE, LONGEST_LEASE = 0.5, 86400.0
_BEATS = 6  # signs of life in a lease
_PATIENCE = 5.0  # seconds for a sign of life that is under way
_TRIES = 5  # to be there while others, who are leaving, remove the folder
_LOOK = 1.0  # seconds between two looks at whether somebody is at work
_ADVICE = "free space or mend the folder, then run the same command again: finished jobs are kept"
_CLAIM = re.compile(r"(?P<name>.+)\.(?P<number>[1-9][0-9]{0,5})\.json", re.DOTALL)
_WHO = re.compile(r"[A-Za-z0-9\-]{1,120}")
_WORKER = re.compile(rf"worker-(?P<who>{_WHO.pattern})\.json")


@dataclass
class _Seen:
    """Another process's last sign of life: what its file held, since when it does, when it was
    looked at, and whether it has changed since it was first looked at."""

    content: bytes
    since: float
    at: float
    has_signed: bool = False


class Claims:
    """What one process has among others, in a folder of a run's files.

    ``lease``: seconds after which others take this process for gone; ``beat``: between two signs of
    life, by default a sixth of it; ``look``: for which another's sign is not looked at again, by
    default as many.  ``clock``: this process's own, in seconds.
    """

    def __init__(
        self,
        files: Files,
        lease: float = LEASE,
        beat: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        look: float | None = None,
        folder: str = CLAIMS,
    ) -> None:
        if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
            raise RobustevalError(
                f"--lease {lease:g}: choose {SHORTEST_LEASE:g} to {LONGEST_LEASE:g} seconds"
            )
        self.files, self.folder, self.clock = files, folder, clock
        self.lease, self.beat = lease, beat or lease / _BEATS
        self.pause = self.beat if look is None else look
        self.who = _name()
        self.beats = 0
        self.held: dict[str, int] = {}  # the numbers of this process's claims, by name
        self.numbers: dict[str, int] = {}  # the highest of any, at the last look
        self.workers: set[str] = set()  # who was at work then
        self.holders: dict[str, str] = {}  # by the claim's file
        self.seen: dict[str, _Seen] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    # This process's own signs of life

    def arrive(self) -> Self:
        """Is at work from now on, and says so again and again."""
        for left in reversed(range(_TRIES)):
            try:
                self.files.prepare(self.folder, _ADVICE)
                self.files.create(self._worker(self.who), self._sign(), _ADVICE)
                break
            except OutputError:
                if not left:
                    raise
        self._thread.start()
        return self

    def leave(self) -> None:
        """Frees what it still has, and goes; the folder goes with the last."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)
        with suppress(OutputError):
            for name in list(self.held):
                self.release(name)
            self.files.remove(self._worker(self.who), _ADVICE)
            self.look()
            self._sweep()
            self.files.tidy(self.folder)

    def sign(self) -> None:
        """One sign of life."""
        self.beats += 1
        with suppress(OutputError):  # the next one may get through
            self.files.write(self._worker(self.who), self._sign(), _ADVICE)

    def _sign(self) -> bytes:
        told = {"who": self.who, "lease": self.lease, "beats": self.beats}
        return json.dumps(told).encode()

    def _live(self) -> None:
        while not self._ended.wait(self.beat):
            self.sign()

    # What it takes

    def look(self) -> None:
        """Finds out what is claimed, and who is at work."""
        self.numbers, self.workers = self.listed()

    def listed(self) -> tuple[dict[str, int], set[str]]:
        """The highest number of each claim, and who is at work, now."""
        numbers: dict[str, int] = {}
        workers = set()
        for file in self.files.names(self.folder):
            if claim := _CLAIM.fullmatch(file):
                name, number = claim["name"], int(claim["number"])
                numbers[name] = max(number, numbers.get(name, 0))
            elif worker := _WORKER.fullmatch(file):
                workers.add(worker["who"])
        return numbers, workers

    def take(self, name: str) -> int:
        """The number of this process's claim: how many have taken it, this one included.
        0 where another one has it, as far as it was seen by the last ``look``."""
        number = self.numbers.get(name, 0)
        if number and not self._is_left(name, number):
            return 0
        content = json.dumps({"who": self.who}).encode()
        if not self.files.create(self._claim(name, number + 1), content, _ADVICE):
            return 0
        self.held[name] = self.numbers[name] = number + 1
        return number + 1

    def _is_left(self, name: str, number: int) -> bool:
        """Whether the holder is gone.  Looked at twice: one that stopped has released it, and
        another may have taken it since the last ``look``."""
        if not self._is_gone(self.holder(name)):
            return False
        self.look()
        return self.numbers.get(name, 0) == number and self._is_gone(self.holder(name))

    def release(self, name: str) -> None:
        """It is done with; the claims of those that are gone go, too."""
        for number in range(1, self.held.pop(name, 0) + 1):
            self.files.remove(self._claim(name, number), _ADVICE)
        self.numbers.pop(name, None)

    def _claim(self, name: str, number: int) -> str:
        return f"{self.folder}/{name}.{number}.json"

    def _worker(self, who: str) -> str:
        return f"{self.folder}/worker-{who}.json"

    # Others

    def holder(self, name: str) -> str | None:
        """Who has it by the last ``look``; None where that can't be known."""
        file = self._claim(name, self.numbers.get(name, 0))
        if self.holders.get(file) not in self.workers:  # else it may be another's by now
            try:
                who = str(json.loads(self.files.read(file))["who"])
                self.holders[file] = who if _WHO.fullmatch(who) else ""
            except FileNotFoundError:  # just released
                return None
            except (OSError, ValueError, TypeError, LookupError):
                self.holders[file] = ""  # of nobody
        return self.holders[file]

    def has_signed(self, who: str | None) -> bool:
        """Whether another one gave a sign of life between two looks at it."""
        return who in self.seen and self.seen[who].has_signed

    def _is_gone(self, who: str | None) -> bool:
        if who is None or who == self.who:
            return False
        if who not in self.workers:  # a listing may be a moment old
            return not who or not self.files.has(self._worker(who))
        now, seen = self.clock(), self.seen.get(who)
        if seen and now - seen.at < self.pause:
            return now - seen.since >= _lease_of(seen.content)
        try:
            content = self.files.read(self._worker(who))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        if not seen or seen.content != content:
            seen = self.seen[who] = _Seen(content, now, now, seen is not None)
        seen.at = now
        return now - seen.since >= _lease_of(content)

    def others(self) -> list[str]:
        """Who else is at work, by the last ``look``: whoever is not known to be gone."""
        return sorted(who for who in self.workers if who != self.who and not self._is_gone(who))

    def _sweep(self) -> None:
        """Removes what those left who are gone."""
        for who in self.workers - set(self.others()):
            self.files.remove(self._worker(who), _ADVICE)
            self.workers.discard(who)
        if not self.workers:
            self.held = dict(self.numbers)
            for name in list(self.held):
                self.release(name)


@contextmanager
def alone(store: Store, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Nobody else works on a run within it; one that was killed is waited for, for its lease.

    Raises EvidenceError where somebody is at work.
    """
    with store.lock():
        watched = Claims(store.files, clock=clock, look=0.0)
        watched.look()
        while others := watched.others():
            if any(map(watched.has_signed, others)):
                raise EvidenceError(
                    f"{store.where('')} is at work, by {', '.join(others)}: stop that first"
                )
            time.sleep(_LOOK)
            watched.look()
        clear(store.files)  # else others would join
        yield


def are_there(files: Files) -> bool:
    """Whether several processes share a run's jobs, or did and were killed."""
    return bool(files.names(CLAIMS))


def clear(files: Files) -> None:
    """Removes all claims of a run that has all its evidence."""
    for name in files.names(CLAIMS):
        files.remove(f"{CLAIMS}/{name}", _ADVICE)
    files.tidy(CLAIMS)


def _name() -> str:
    """Of a process: no other has it, on this machine or elsewhere."""
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname())[:60]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def _lease_of(content: bytes) -> float:
    """How long its file may stay as it is; what says nothing sensible has the usual one."""
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        told: Any = json.loads(content)["lease"]
        if math.isfinite(told) and SHORTEST_LEASE <= told <= LONGEST_LEASE:
            return float(told)
    return LEASE
