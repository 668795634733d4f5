"""From what a user asks to a run's context: options, subject, spec, context."""

import logging
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch

from robusteval.ambient import refuse_inference_mode
from robusteval.data.choice import First, Listed, Samples
from robusteval.data.datasets import Dataset
from robusteval.data.outliers import outlier_digests, outlier_names, sets_named
from robusteval.errors import DataError, EvidenceError, RobustevalError, shown
from robusteval.evidence.judge import state_digest
from robusteval.evidence.located import files_at, runs_in
from robusteval.evidence.record import open_store
from robusteval.hardware import cores
from robusteval.models.acceleration import Acceleration, are_worth_it, choose_forms, static_batch
from robusteval.models.adapter import Adapter, OwnAdapter, PrototypeAdapter
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry
from robusteval.places import Place
from robusteval.plan.budget import Budget
from robusteval.plan.context import Access, Context, open_context
from robusteval.plan.fitting_data import digest_of_images, fitting_data, tuning_data
from robusteval.plan.made_with import code_digests, library_versions, model_versions
from robusteval.plan.plan import check_names, expected_passes, has_choices, has_fits, make_plan
from robusteval.plan.spec import RunSpec, default_batch
from robusteval.plan.suite import Suite, read_suite
from robusteval.plan.threats import threats_for
from robusteval.run.budget import Chooser, asked_digest, budget_of
from robusteval.run.costs import measured_speeds
from robusteval.run.crew import Crew
from robusteval.run.known_forms import known_forms
from robusteval.run.options import Options, check_options
from robusteval.run.precision import precision
from robusteval.run.sources import digests_of_sources, other_models, transfer_source
from robusteval.run.subject import Asked, Subject, entry_of, subject_of, try_out, with_training
from robusteval.run.surrogates import surrogate_of
from robusteval.schema import LONGEST_NAME

_LOG = logging.getLogger("robusteval")


@dataclass(frozen=True)
class Prepared:
    """A run that could begin: its context, and the model's entry if it has one."""

    context: Context
    entry: Entry | None

    @property
    def spec(self) -> RunSpec:
        return self.context.spec


def prepare(asked: Asked, suite: str | Path | Suite, options: Options) -> Prepared:
    """Everything a run needs.  Raises RobustevalError for what can't be run."""
    started = monotonic()
    refuse_inference_mode()
    check_options(options)
    if asked.name is not None:
        _require_name(asked.name)
    whole, entry = read_suite(suite), entry_of(asked.model)
    chosen = _chosen(whole, options, entry)
    subject = with_training(subject_of(asked, entry, options), options)
    surrogate, named = surrogate_of(chosen, subject, options)
    wanted = replace(_spec(chosen, subject, asked.called, options), surrogate=named)
    if options.budget is not None:
        spent = monotonic() - started
        chosen, count, budget = _within_budget(wanted, subject, surrogate, options, spent)
        if count < len(subject.data):
            options = replace(options, samples=_fewer(options.samples, count))
            subject = replace(subject, data=subject_of(asked, entry, options).data)
        wanted = _spec(chosen, subject, asked.called, options)
        wanted = replace(wanted, budget=budget, surrogate=named)
    spec = _as_begun(wanted, options) or _with_forms(wanted, subject)
    own = subject.path, subject.training_path or subject.training or ""
    access = Access(subject.reference, options.data_dir, *own, options.allow_code)
    context = open_context(spec, access, subject.model, subject.data, surrogate)
    _tell_of_prototypes(context)
    return Prepared(context, entry)


def _tell_of_prototypes(context: Context) -> None:
    """One line where prototypes that were given beside a module don't name its classes."""
    with precision(context.spec):
        found = context.agreement
    if found is not None and found.same is not None and found.same < found.of:
        _LOG.warning(
            "%s: the nearest prototype names another class than the module itself on %d of %d "
            "clean samples: the report says what that means",
            context.spec.model,
            found.of - found.same,
            found.of,
        )


def _spec(suite: Suite, subject: Subject, name: str, options: Options) -> RunSpec:
    """All that decides the outcome but the model's forms; ``name``: of a model without entry."""
    model, entry, data = subject.model, subject.entry, subject.data
    outliers = _outliers(suite, data, options)
    try_out(model, data, options)
    return RunSpec(
        model=entry.name if entry else name,
        model_digest=entry.digest if entry else state_digest(model),
        dataset=data.info.name,
        data_digest=data.digest,
        suite=suite.spelt_out(),
        threats=[(t.norm, str(t.eps)) for t in threats_for(suite, data, list(options.eps))],
        samples=len(data),
        seed=options.seed,
        batch_size=options.batch_size or default_batch(data.info.shape, options.device),
        time_limit=options.time_limit,
        **outliers,
        versions=library_versions(suite) | model_versions(entry, *map(find_entry, suite.sources)),
        code=code_digests(suite),
        device=options.device,
        threads=options.threads or _threads(options.crew),
        keep=options.keep,
        transfer_source=transfer_source(suite, subject, options),
        sources=digests_of_sources(suite, subject, options),
        **_fitting(suite, subject, options, outliers["outliers"]),
        own_data=data.info.own,
        chosen=_how_chosen(subject, options),
    )


def _how_chosen(
    subject: Subject, options: Options
) -> Literal["balanced", "first"] | tuple[int, ...]:
    """All samples are chosen alike, however they were asked for."""
    if len(subject.data) == subject.total or not isinstance(options.samples, First | Listed):
        return "balanced"
    return "first" if isinstance(options.samples, First) else options.samples.indices


def _within_budget(
    wanted: RunSpec, subject: Subject, surrogate: Adapter | None, options: Options, spent: float
) -> tuple[Suite, int, Budget]:
    """What of the suite, and how many samples, fit; of a run that was begun, what did then."""
    assert options.budget is not None, "it was asked for"
    begun = _begun_within(wanted, options)
    if begun is not None and begun.budget is not None:
        return begun.suite, begun.samples, begun.budget
    whole = _with_forms(wanted, subject)
    context = open_context(whole, Access(), subject.model, subject.data, surrogate)
    with precision(whole):
        speeds = measured_speeds(context)
    model = subject.model
    chooser = Chooser(whole, model.parts, model.classes, speeds, options.crew.count or 1, spent)
    choice = chooser.choose(options.budget)
    budget = budget_of(choice, wanted, options.budget, options.threads)
    return choice.cut(wanted.suite), choice.samples, budget


def _begun_within(wanted: RunSpec, options: Options) -> RunSpec | None:
    """The spec of a run that was begun for the same request within the same budget."""
    digest = asked_digest(wanted, options.threads)
    for begun in _begun(wanted, options).values():
        same = begun.budget is not None and begun.budget.asked == digest
        if same and begun.budget and begun.budget.seconds == options.budget:
            return begun
    return None


def _fewer(samples: Samples, count: int) -> Samples:
    """So many of the chosen samples, chosen alike."""
    if isinstance(samples, First):
        return First(count)
    return Listed(samples.indices[:count]) if isinstance(samples, Listed) else count


def _fitting(
    suite: Suite, subject: Subject, options: Options, tested: Sequence[str]
) -> dict[str, Any]:
    """How many samples detectors are fitted to, and how many outliers choose their settings, with
    digests; nothing where there are none.

    Raises DataError for outliers that are among the ``tested`` ones.
    """
    parts, info = subject.model.parts, subject.data.info
    if not has_fits(suite, parts):
        return {}
    data = subject.training
    if data is None and not info.own:
        data = fitting_data(info.name, options.data_dir, options.download)
    if data is None:
        return {}
    found: dict[str, Any] = {"training": (len(data), data.digest)}
    found |= {"own_training": True} if data is subject.training else {}
    if (name := suite.detection.tuning) and has_choices(suite, parts):
        if name in tested:
            raise DataError(f"detection.tuning = {name!r}: that set is tested, so choose another")
        outliers = tuning_data(name, info.shape, options.data_dir)
        if outliers is not None:
            found["tuning"] = (name, sum(map(len, outliers)), digest_of_images(outliers))
    return found


def _with_forms(spec: RunSpec, subject: Subject) -> RunSpec:
    """A new run's, with what computes soonest on this machine; its attacks are checked.

    That loads their libraries, which a run that was begun need not.
    """
    plan = make_plan(spec.suite, spec, subject.model.parts)
    check_names(spec.suite, plan.threats)
    model, data = subject.model, subject.data
    passes = sum(expected_passes(cell, model.classes)[1] for cell in plan.cells) * len(data)
    images = data.images(slice(0, static_batch(spec.device, math.prod(data.pixels.shape[1:]))))
    images = images.to(spec.device)

    def choose() -> tuple[Acceleration, Acceleration]:
        with precision(spec):
            return choose_forms(model, images, passes)

    # The code of others' models may change, which their digests don't tell.
    ours = isinstance(model, PrototypeAdapter) and not isinstance(model, OwnAdapter)
    kept = ours and are_worth_it(images)
    libraries, gradients = known_forms(spec, len(images), passes, choose) if kept else choose()
    return replace(spec, forms=(str(libraries), str(gradients)))


def _require_name(name: str) -> None:
    """Raises RobustevalError unless it can be a folder's."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.\-]*", name):
        raise RobustevalError(
            f"name {shown(name)}: use letters, digits, _, . and -, a dot or dash not first"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise RobustevalError(f"name {shown(name)}: use {LONGEST_NAME} bytes or fewer")


def _chosen(suite: Suite, options: Options, attacked: Entry | None) -> Suite:
    """The suite with its sources, and what the user wants of it.

    Transfers that were asked for run beside the attacks that ``only`` names, unless it names some
    of them.
    """
    wanted, sources = list(options.only), other_models(options.sources, attacked)
    static = other_models(options.static_sources, attacked)
    whole = suite.with_sources(sources).with_static(static)
    if not wanted:
        return whole
    transfers = {a.name for a in whole.attacks} - {a.name for a in suite.attacks}
    if transfers & set(wanted):
        return whole.only(wanted)
    return suite.only(wanted).with_sources(sources).with_static(static)


def _outliers(suite: Suite, data: Dataset, options: Options) -> dict[str, Any]:
    """The suite's outlier sets and the user's folders, with what they hold: they are read once
    before any attack."""
    detection = suite.detection
    names: list[str] = []
    if detection.sets and detection.detectors:
        names = sets_named(data, detection.sets, options.data_dir)
    elif detection.detectors:
        names = outlier_names(data, detection.natural, options.data_dir)
    folders = [folder.resolve() for folder in dict.fromkeys(options.outlier_folders)]
    every: list[str | Path] = [*names, *folders]
    taken = len(data), data.info.shape, options.seed, options.data_dir, data
    return {
        "outliers": tuple(names),
        "outlier_folders": tuple(map(str, folders)),
        "outlier_digests": outlier_digests(every, *taken),
    }


def _threads(crew: Crew) -> int:
    """The cores that this process may use, shared among workers; one for each of a cluster's."""
    if crew.is_ray:
        return 1
    return max(1, min(cores(), torch.get_num_threads()) // (crew.count or 1))


def _begun(spec: RunSpec, options: Options) -> dict[Place, RunSpec]:
    """The specs of runs of that model and suite that were begun."""
    found = {}
    for folder in runs_in(options.out, f"{spec.model}-{spec.suite.name}-"):
        with suppress(EvidenceError):
            found[folder] = open_store(files_at(folder))[1]
    return found


def _as_begun(spec: RunSpec, options: Options) -> RunSpec | None:
    """The spec of a run that was begun, and differs only in what the machine chose then: the
    model's forms, and threads unless they were asked for.

    A run that was made with other code is no such one, which is logged.
    """
    older: list[Place] = []
    for folder, begun in _begun(spec, options).items():
        threads = begun.threads if options.threads is None else spec.threads
        now = replace(spec, threads=threads, forms=begun.forms)
        if now.digest == begun.digest:
            return begun
        if replace(now, code=begun.code, versions=begun.versions).digest == begun.digest:
            older.append(folder)
    for folder in older:
        _LOG.warning("%s was made with other code or versions: this run begins anew", folder)
    return None
