"""What OpenMP's threads do while they wait for each other: said before torch loads, since its
runtime reads that once.

A thread that waits spins first, and sleeps later.  Spinning saves a model of small layers the time
to wake threads up thousands of times a second, and on free cores halves the time.  Where other
processes keep all cores busy it takes the processor from the thread that all wait for, and makes a
run six to ten times as slow: there threads sleep at once.  ``python -m benchmarks.threads`` has
measured both.
"""

import os
import time
from collections.abc import Mapping
from functools import cache

BESIDE_OTHERS = {"OMP_WAIT_POLICY": "PASSIVE"}  # sleep at once
# What decides it in the runtimes that torch comes with: GNU's, LLVM's and Intel's.
DECISIVE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_LOOKS, _PAUSE = 3, 0.005  # a moment's neighbour doesn't count; seconds between two looks


def preferred(environment: Mapping[str, str]) -> dict[str, str]:
    """What is to be added to an environment: nothing where its user has decided, nor where cores
    are free."""
    if any(name in environment for name in DECISIVE) or not is_crowded():
        return {}
    return dict(BESIDE_OTHERS)


def settle() -> None:
    """Decides it for this process and those that it starts; too late once torch is loaded."""
    os.environ.update(preferred(os.environ))


@cache
def is_crowded() -> bool:
    """Whether other processes kept as many threads at work as there are cores, when this process
    first asked; False where the system doesn't tell."""
    for look in range(_LOOKS):
        time.sleep(_PAUSE if look else 0)
        if _runnable() - 1 < _cores():  # without the one that asks
            return False
    return True


def _cores() -> int:
    """That this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _runnable() -> int:
    """Threads of the whole machine that compute now, or could: Linux says how many."""
    try:
        with open("/proc/loadavg", encoding="ascii") as stream:
            return int(stream.read().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return 0
