"""What a caller has set for the whole process, and what numbers must not hang on.

A notebook turns gradients off, makes float64 the default, computes under autocast, or lets warnings
raise.  Within ``plain_state`` this package computes as in a fresh process.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from robusteval.errors import AttackError
from robusteval.hardware import exact_float32

_AUTOCAST = ("cpu", "cuda")


@contextmanager
def plain_state(exact: bool = True) -> Iterator[None]:
    """Within it: gradients on; no autocast, no anomaly mode; new tensors are float32 on the
    processor; NumPy's errors and Python's warnings are told, and raise nothing.  If ``exact``,
    float32 is multiplied as such."""
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_float32())
        if exact:
            stack.enter_context(exact_float32())
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_anomaly_enabled():  # it raises on what attacks expect: a NaN in a gradient
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(_told_warnings())
        yield


@contextmanager
def _float32() -> Iterator[None]:
    before = torch.get_default_dtype()
    if before == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Warnings that a caller turns into errors are warnings again: one of a library's, hours after
    the start, would lose the run.  Rules about this package stay."""
    if not any(map(_raises, warnings.filters)):
        yield  # nothing is touched, so that a warning that was shown once isn't shown again
        return
    rules = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for rule in reversed(rules):  # each goes before those that are there
            action, message, category, module, line = rule
            warnings.filterwarnings(
                "default" if _raises(rule) else action,  # type: ignore[arg-type]
                _text(message),
                category,  # type: ignore[arg-type]
                _text(module),
                line,
            )
        yield


def _raises(rule: tuple[object, ...]) -> bool:
    return rule[0] == "error" and "robusteval" not in _text(rule[3])


def _text(pattern: object) -> str:
    """A rule's pattern as it was written."""
    return str(getattr(pattern, "pattern", pattern) or "")


def refuse_inference_mode() -> None:
    """Raises AttackError where torch records no gradient, whatever is asked."""
    if torch.is_inference_mode_enabled():
        raise AttackError("gradients are needed: call it outside of torch.inference_mode()")
