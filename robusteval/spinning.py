"""What OpenMP's threads do while they wait for each other: said before torch loads, since its
runtime reads that once.

A thread that waits spins first, and sleeps later.  Spinning saves a model of small layers the time
to wake threads up thousands of times a second; beside another busy process it takes the processor
from the thread that all wait for.  ``python -m benchmarks.threads`` measures both.
"""

import os
from collections.abc import Mapping

# The one place to change it; empty leaves it to the runtime, which spins for some milliseconds.
# {"OMP_WAIT_POLICY": "PASSIVE"} sleeps at once; {"GOMP_SPINCOUNT": "1000"} spins so many times.
PREFERRED: dict[str, str] = {}
# What decides it in the runtimes that torch comes with: GNU's, LLVM's and Intel's.
DECISIVE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def preferred(environment: Mapping[str, str]) -> dict[str, str]:
    """What is to be added to an environment: nothing where its user has decided."""
    return {} if any(name in environment for name in DECISIVE) else dict(PREFERRED)


def settle() -> None:
    """Decides it for this process and those that it starts; too late once torch is loaded."""
    os.environ.update(preferred(os.environ))
