"""Who does a run's jobs: processes of this machine, or workers of a Ray cluster."""

import re
from dataclasses import dataclass
from typing import Any

from robusteval.types import parse_whole

RAY = "ray"
MOST_RAY_WORKERS = 100_000


@dataclass(frozen=True)
class Crew:
    """``count`` workers; None: as many as the Ray cluster has room for.

    ``address``: of a Ray cluster; None starts one on this machine, for the run.  ``gpus``: that
    each Ray worker needs for itself; a share such as 0.5 lets two use one.
    """

    count: int | None = 1
    is_ray: bool = False
    address: str | None = None
    gpus: float | None = None


def parse_workers(value: Any) -> int | str:
    """A number of processes; or ``ray``, or ``ray:4``, in one spelling.

    Raises ValueError for anything else.

    >>> parse_workers("4"), parse_workers("ray"), parse_workers("ray:04")
    (4, 'ray', 'ray:4')
    """
    if not isinstance(value, str):
        return parse_whole(value)
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    if value == RAY:
        return RAY
    found = re.fullmatch(r"ray:([0-9]{1,9})", value)
    if not found or not 1 <= int(found[1]) <= MOST_RAY_WORKERS:
        raise ValueError(f"give a number, ray, or ray:N with N from 1 to {MOST_RAY_WORKERS}")
    return f"{RAY}:{int(found[1])}"


def crew_of(workers: int | str, address: str | None, gpus: float | None) -> Crew:
    """What ``parse_workers`` read, with where a cluster is."""
    if isinstance(workers, int):
        return Crew(workers)
    _, _, count = workers.partition(":")
    return Crew(int(count) if count else None, True, address, gpus)
