"""From what a user asks to a run's context: checks, model, data, suite, spec, plan."""

import logging
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robusteval.ambient import refuse_inference_mode
from robusteval.attacks.seeding import seeded
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.known import DATASETS
from robusteval.data.outliers import outlier_digests, outlier_names
from robusteval.errors import (
    AttackError,
    DataError,
    EvidenceError,
    RobustevalError,
    shown,
)
from robusteval.evaluation.context import Access, Context
from robusteval.evaluation.plan import (
    Plan,
    RunSpec,
    attack_code,
    check_names,
    default_batch,
    expected_passes,
    library_versions,
    make_plan,
    threats_for,
)
from robusteval.evaluation.record import open_store
from robusteval.evaluation.run import precision
from robusteval.evaluation.suite import Suite, read_suite
from robusteval.evaluation.verify import state_digest
from robusteval.hardware import commit_of, cores, hardware_name, is_dirty, package_versions
from robusteval.models.acceleration import choose_forms, static_batch
from robusteval.models.adapter import Adapter, require_answers
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model
from robusteval.models.registry import built_in_folder, entry_paths, find_entry, readable_entries
from robusteval.options import Options, check_options
from robusteval.schema import LONGEST_NAME
from robusteval.storage import require_possible

_LOG = logging.getLogger("robusteval")


@dataclass(frozen=True)
class Prepared:
    """A run that could begin: its context, and the model's entry if it has one."""

    context: Context
    entry: Entry | None

    @property
    def spec(self) -> RunSpec:
        return self.context.spec


def prepare(
    model: str | Path | Adapter,
    suite: str | Path,
    dataset: str | None,
    name: str | None,
    options: Options,
) -> Prepared:
    """Everything a run needs.  Raises RobustevalError for what can't be run."""
    refuse_inference_mode()
    check_options(options)
    require_possible(options.out, "choose another with --out")
    if name is not None:
        _require_name(name)
    whole = read_suite(suite)
    entry = find_entry(model) if isinstance(model, str | Path) else None
    if entry is None:
        _require_adapter(model)
    chosen = _chosen(whole, options, entry)
    if not isinstance(dataset, str | None):
        raise DataError(f"data set {shown(dataset)}: give its name")
    set_name = dataset or (entry.dataset if entry else None)
    if set_name is None:
        raise DataError("a model from Python needs a data set: pass dataset=…")
    DATASETS.get(set_name)
    adapter = _adapter(model, entry, options)
    data = _samples(set_name, adapter, options)
    outliers = _outliers(chosen, data, options)
    _try_out(adapter, data, options)
    spec = RunSpec(
        model=entry.name if entry else name or "model",
        model_digest=entry.digest if entry else state_digest(adapter),
        dataset=set_name,
        data_digest=data.digest,
        suite=chosen.spelt_out(),
        threats=[(t.norm, str(t.eps)) for t in threats_for(chosen, data, list(options.eps))],
        samples=len(data),
        seed=options.seed,
        batch_size=options.batch_size or default_batch(data.info.shape, options.device),
        time_limit=options.time_limit,
        **outliers,
        versions=library_versions(chosen),
        code=attack_code(chosen),
        device=options.device,
        threads=options.threads or _threads(options.workers),
        keep=options.keep,
        transfer_source=_transfer_source(chosen, data, entry, options),
        sources=_sources(chosen, data, entry, options),
    )
    plan = make_plan(chosen, spec, bool(adapter.layers))
    begun = _as_begun(spec, options)
    if begun is None:
        # Loads the libraries: a run that was begun has been checked.
        check_names(chosen, plan.threats)
        begun = replace(spec, forms=_forms(adapter, data, spec, plan))
    access = Access(_reference(entry), options.data_dir, options.allow_code)
    return Prepared(Context(adapter, data, chosen, begun, plan, access), entry)


def _require_name(name: str) -> None:
    """Raises RobustevalError unless it can be a folder's."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.\-]*", name):
        raise RobustevalError(
            f"name {shown(name)}: use letters, digits, _, . and -, a dot or dash not first"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise RobustevalError(f"name {shown(name)}: use {LONGEST_NAME} bytes or fewer")


def _require_adapter(model: object) -> None:
    """Raises RobustevalError for what is neither an entry's name or path nor an adapter."""
    if isinstance(model, nn.Module):
        if isinstance(model, Adapter):
            return
        raise RobustevalError(
            "a plain torch module has no adapter: pass wrap_module(module, classes=…)"
        )
    raise RobustevalError(
        f"model {shown(model)}: give an entry's name, its path, or wrap_module(module, classes=…)"
    )


def _forms(adapter: Adapter, data: Dataset, spec: RunSpec, plan: Plan) -> tuple[str, str]:
    """What computes soonest on this machine."""
    passes = sum(expected_passes(cell, adapter.classes)[1] for cell in plan.cells) * len(data)
    images = data.images(slice(0, static_batch(spec.device))).to(spec.device)
    with precision(spec):
        libraries, gradients = choose_forms(adapter, images, passes)
    return str(libraries), str(gradients)


def _adapter(model: str | Path | Adapter, entry: Entry | None, options: Options) -> Adapter:
    if entry is not None:
        return load_model(entry, options.device, options.allow_code)
    assert isinstance(model, Adapter), "anything else was refused"
    return model.to(options.device)


def _try_out(model: Adapter, data: Dataset, options: Options) -> None:
    """Raises AttackError for a foreign model that doesn't answer a clean image, or two, with
    logits."""
    images = data.images(slice(0, 2)).to(options.device)
    with seeded(options.seed, images.device):  # it may draw from the global generators
        require_answers(model, images, model.classes)


def _samples(set_name: str, model: Adapter, options: Options) -> Dataset:
    data = load_dataset(set_name, "test", options.data_dir, options.download)
    if data.info.classes != model.classes:
        raise DataError(
            f"{set_name} has {data.info.classes} classes, the model {model.classes}: "
            "choose the data set it was trained on"
        )
    if options.samples is None or (options.at_most and options.samples >= len(data)):
        return data
    return data.balanced_subset(options.samples)


def _chosen(suite: Suite, options: Options, attacked: Entry | None) -> Suite:
    """The suite with its sources, and what the user wants of it.

    Transfers that were asked for run beside the attacks that ``only`` names, unless it names some
    of them.
    """
    wanted, sources = list(options.only), _other_models(options.sources, attacked)
    whole = suite.with_sources(sources)
    if not wanted:
        return whole
    transfers = {a.name for a in whole.attacks} - {a.name for a in suite.attacks}
    if transfers & set(wanted):
        return whole.only(wanted)
    return suite.only(wanted).with_sources(sources)


def _other_models(sources: tuple[str, ...], attacked: Entry | None) -> list[str]:
    """Sources without the attacked model, which a pattern may fit, unless it is the only one."""
    own = attacked.weights if attacked else None
    others = [name for name in sources if own is None or find_entry(name).weights != own]
    return others or list(sources)


def _outliers(suite: Suite, data: Dataset, options: Options) -> dict[str, Any]:
    """The suite's outlier sets and the user's folders, with what they hold: they are read once
    before any attack."""
    detection = suite.detection
    names = outlier_names(data, detection.natural, options.data_dir) if detection.detectors else []
    folders = [folder.resolve() for folder in dict.fromkeys(options.outlier_folders)]
    every: list[str | Path] = [*names, *folders]
    shape = data.info.shape
    return {
        "outliers": tuple(names),
        "outlier_folders": tuple(map(str, folders)),
        "outlier_digests": outlier_digests(every, len(data), shape, options.seed, options.data_dir),
    }


def _sources(
    suite: Suite, data: Dataset, attacked: Entry | None, options: Options
) -> dict[str, str]:
    """Digests of the models that adversarials come from.  Raises AttackError for unfit ones."""
    digests = {}
    for name in suite.sources:
        source = find_entry(name)
        info = DATASETS.get(source.dataset)
        if (info.classes, info.shape) != (data.info.classes, data.info.shape):
            raise AttackError(
                f"{name} is a model of {source.dataset}: as a source for {data.info.name} choose "
                "one with the same images and classes"
            )
        if source.weights is None or source.backbone is None:
            raise AttackError(f"{name} can't be a source: choose a trained model without a factory")
        if attacked is not None and source.weights == attacked.weights:
            raise AttackError(f"{name} is the model itself: choose another one as a source")
        _try_source(source, data, options)
        digests[name] = source.digest
    return digests


def _try_source(source: Entry, data: Dataset, options: Options) -> None:
    """Raises RobustevalError for a source that doesn't answer such images."""
    try:
        _try_out(load_model(source, options.device), data, options)
    except AttackError as error:
        raise AttackError(f"the source {source.name}: {error}") from None


def _transfer_source(
    suite: Suite, data: Dataset, entry: Entry | None, options: Options
) -> tuple[()] | tuple[str, str]:
    """Another model of the registry for the same data, plain cross-entropy if there is one.

    Adversarials of an undefended model transfer best.  One that can't be used is told, and the
    next is taken.
    """
    if not suite.diagnostics.samples:
        return ()
    own = entry.weights if entry else None
    others = [
        (other.method != "ce", bool(other.training and other.training.adversarial), other)
        for other in readable_entries()
        if other.dataset == data.info.name and other.backbone and other.weights not in (None, own)
    ]
    for _, _, other in sorted(others, key=lambda found: (found[0], found[1], found[2].name)):
        try:
            _try_source(other, data, options)
        except RobustevalError as error:
            _LOG.warning("%s is no source for the diagnostics: %s", other.name, error)
            continue
        return other.name, other.digest
    return ()


def _threads(workers: int) -> int:
    """The cores that this process may use, shared among workers."""
    return max(1, min(cores(), torch.get_num_threads()) // workers)


def _as_begun(spec: RunSpec, options: Options) -> RunSpec | None:
    """The spec of a run that was begun, and differs only in what the machine chose then: the
    model's forms, and threads unless they were asked for."""
    for folder in sorted(options.out.glob(f"{spec.model}-{spec.suite.name}-*")):
        try:
            _, begun, _ = open_store(folder)
        except EvidenceError:
            continue
        threads = begun.threads if options.threads is None else spec.threads
        if replace(spec, threads=threads, forms=begun.forms).digest == begun.digest:
            return begun
    return None


def _reference(entry: Entry | None) -> str:
    """How to find the entry again: its name where that leads to it, else its path."""
    if entry is None:
        return ""
    known = entry_paths().get(entry.name)
    same = known is not None and known.resolve() == entry.path.resolve()
    return entry.name if same else str(entry.path.resolve())


def record_of(prepared: Prepared, options: Options) -> dict[str, Any]:
    """What ``run.json`` holds: all that a report needs beside the evidence."""
    context = prepared.context
    return {
        "spec": context.spec.to_json(),
        "entry": prepared.entry.model_dump(mode="json") if prepared.entry else None,
        "entry_reference": context.access.entry,
        **context.described(),
        "provenance": provenance(options, context.spec),
    }


def provenance(options: Options, spec: RunSpec) -> dict[str, Any]:
    """What the numbers were made with."""
    project = built_in_folder().parent
    return {
        "versions": {**package_versions(), **spec.versions},
        "commit": commit_of(project),
        "dirty": is_dirty(project),
        "hardware": hardware_name(options.device),
        "device": options.device,
        "threads": spec.threads,
        "date": time.strftime("%Y-%m-%d"),
    }
