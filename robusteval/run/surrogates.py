"""A user's surrogate: a model whose gradients ``adaptive`` follows after the attacked one's own."""

from pathlib import Path

from torch import nn

from robusteval.errors import AttackError, EvidenceError, RobustevalError
from robusteval.evidence.judge import state_digest
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry, reference_to
from robusteval.plan.context import Access
from robusteval.plan.spec import RunSpec
from robusteval.plan.suite import Suite
from robusteval.run.options import Options
from robusteval.run.subject import Subject, try_out

Surrogate = str | Path | nn.Module
Named = tuple[()] | tuple[str, str]  # how to find it again, "" for a module, and its digest


def surrogate_of(suite: Suite, subject: Subject, options: Options) -> tuple[Adapter | None, Named]:
    """The surrogate that was asked for.

    Raises AttackError where nothing follows it, it can't read the images, or two entries are of
    different data; RobustevalError where there is none of that name.
    """
    given = options.surrogate
    if given is None:
        return None, ()
    if not any(one.follows_surrogates for one in suite.attacks):
        raise AttackError(
            f"a surrogate leads the attack adaptive, which suite {suite.name} doesn't run here: "
            "leave it out"
        )
    found = _found(given)
    if isinstance(found, Entry):
        _require_same_data(found, subject)
    adapter, named = _opened(found, subject.model.classes, options.device, options.allow_code)
    try:
        try_out(adapter, subject.data, options)
    except AttackError as error:
        raise AttackError(f"the surrogate: {error}") from None
    if adapter.classes != subject.model.classes:
        raise AttackError(
            f"the surrogate has {adapter.classes} classes, the model {subject.model.classes}: "
            "choose one for the same data"
        )
    return adapter, named


def _found(given: Surrogate) -> Entry | nn.Module:
    """What was given, or the entry of that name or path."""
    if isinstance(given, nn.Module):
        return given
    if not isinstance(given, str | Path):
        raise RobustevalError("a surrogate is an entry's name or path, or a torch module")
    return find_entry(given)


def _require_same_data(entry: Entry, subject: Subject) -> None:
    """An entry tells what its model was trained on; another's classes may only have its number."""
    if subject.entry is not None and entry.dataset != subject.entry.dataset:
        raise AttackError(
            f"the surrogate {entry.name} is for {entry.dataset}, the model for "
            f"{subject.entry.dataset}: choose one for the same data"
        )


def _opened(
    found: Entry | nn.Module, classes: int, device: str, allow_code: bool
) -> tuple[Adapter, tuple[str, str]]:
    """A surrogate behind its adapter, and how to find it again with its digest."""
    if isinstance(found, Entry):
        return load_model(found, device, allow_code), (reference_to(found), found.digest)
    module = found.to(device)
    adapter = module if isinstance(module, Adapter) else wrap_module(module, classes)
    return adapter, ("", state_digest(adapter))


def same_surrogate(
    given: Surrogate | None, spec: RunSpec, classes: int, access: Access
) -> Adapter | None:
    """The surrogate of a run, if one is given.  Raises EvidenceError for another one."""
    if given is None:
        return None
    device = access.device or spec.device
    adapter, (_, digest) = _opened(_found(given), classes, device, access.allow_code)
    if digest != (spec.surrogate or ("", ""))[1]:
        raise EvidenceError("the surrogate is not the one that this run names")
    return adapter
