"""The state of a process in which a run computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robusteval.ambient import plain_state
from robusteval.hardware import most_threads
from robusteval.plan.spec import RunSpec


@contextmanager
def precision(spec: RunSpec) -> Iterator[None]:
    """Within it: the spec's threads, and a plain state of the process, with float32 without TF32,
    which is the verdict's.

    No more threads than this machine bears: the spec may come from a larger one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(spec.threads, most_threads())))
    try:
        with plain_state():
            yield
    finally:
        torch.set_num_threads(before)
