"""Which share of a run's jobs a process begins at, where several share them.  Imports no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from robusteval.errors import RobustevalError, shown

MOST_SHARDS = 1_000_000
_ARRAY = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count``, counted from 1."""

    index: int
    count: int

    def owns(self, place: int) -> bool:
        """Whether it begins at the job of this place in the plan.

        >>> [place for place in range(7) if Shard(2, 3).owns(place)]
        [1, 4]
        """
        return place % self.count == self.index - 1


def parse_shard(text: str) -> Shard:
    """Such as ``2/4``.  Raises RobustevalError.

    >>> parse_shard("2/4")
    Shard(index=2, count=4)
    """
    found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text) if isinstance(text, str) else None
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count <= MOST_SHARDS:
        raise RobustevalError(
            f"--shard {shown(text)}: give I/N, such as 2/4, with I from 1 to N, N up to "
            f"{MOST_SHARDS:,}"
        )
    return Shard(index, count)


def shard_of_array(environment: Mapping[str, str]) -> Shard | None:
    """The task's place in an array of a Slurm queue; None outside of one.

    Indices may start anywhere and have steps; where steps differ two tasks may get one place, which
    costs nothing but that both begin at the same jobs.  Raises RobustevalError for variables that
    contradict each other.

    >>> names = ("ID", "MIN", "MAX", "COUNT")
    >>> shard_of_array({f"SLURM_ARRAY_TASK_{n}": v for n, v in zip(names, "8283")})
    Shard(index=3, count=3)
    """
    names = [f"{_ARRAY}{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
    given = [environment.get(name, "") for name in names]
    if not given[0]:
        return None
    told = ", ".join(f"{n}={shown(v)}" for n, v in zip(names, given, strict=True))
    if not all(re.fullmatch(r"[0-9]{1,9}", value) for value in given):
        raise RobustevalError(f"{told}: no numbers of a Slurm array; give --shard I/N")
    task, first, last, count = map(int, given)
    possible = 2 if last > first else 1, last - first + 1
    if not (first <= task <= last and possible[0] <= count <= possible[1]):
        raise RobustevalError(f"{told}: they contradict each other; give --shard I/N")
    return Shard(1 + round((task - first) * (count - 1) / max(last - first, 1)), count)
