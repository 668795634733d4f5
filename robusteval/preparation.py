"""From what a user asks to a run's context: checks, model, data, suite, spec, plan."""

import math
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from robusteval.ambient import refuse_inference_mode
from robusteval.attacks.code import attacks_digest
from robusteval.attacks.seeding import seeded
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.known import DATASETS
from robusteval.data.locate import data_root
from robusteval.data.outliers import check_folder, outlier_digests, outlier_names
from robusteval.errors import (
    AttackError,
    DataError,
    EvidenceError,
    RobustevalError,
    WeightsError,
)
from robusteval.evaluation.context import Access, Context
from robusteval.evaluation.plan import (
    Keep,
    Plan,
    RunSpec,
    check_names,
    default_batch,
    expected_passes,
    library_versions,
    make_plan,
    threats_for,
)
from robusteval.evaluation.progress import Progress, Silent
from robusteval.evaluation.record import open_store
from robusteval.evaluation.run import precision
from robusteval.evaluation.suite import Suite, read_suite
from robusteval.evaluation.verify import state_digest
from robusteval.hardware import (
    check_device,
    commit_of,
    hardware_name,
    is_dirty,
    package_versions,
)
from robusteval.models.acceleration import choose_forms, static_batch
from robusteval.models.adapter import Adapter, require_answers
from robusteval.models.entry import (
    Entry,
    all_entries,
    built_in_folder,
    entry_paths,
    find_entry,
    weights_content,
)
from robusteval.models.loading import load_model
from robusteval.storage import require_possible


@dataclass(frozen=True)
class Options:
    """How to run.

    ``samples`` None means all; ``eps`` as text, L∞ unless written ``L2:0.5``; ``batch_size`` None
    goes by the images' size.  ``workers`` are processes with ``threads`` each, by default the
    machine's cores shared among them.  ``keep``: which adversarial images are stored, the
    ``first`` success of each sample and threat model, or ``all``.  ``at_most``: where the data set
    has fewer than ``samples``, all of it is taken.  ``sources``: models whose adversarials are
    tried as well; the attacked one among others is left out.  Paths may be text, and a single value
    stand where several are taken.
    """

    samples: int | None = None
    seed: int = 0
    eps: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    batch_size: int | None = None
    device: str = "cpu"
    workers: int = 1
    threads: int | None = None
    keep: Keep = "first"
    sources: tuple[str, ...] = ()
    time_limit: float | None = None
    data_dir: Path | None = None
    download: bool = False
    outlier_folders: tuple[Path, ...] = ()
    allow_code: bool = False
    out: Path = Path("runs")
    at_most: bool = False
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        meant = {
            "eps": _several(self.eps),
            "only": _several(self.only),
            "sources": _several(self.sources),
            "outlier_folders": tuple(map(Path, _several(self.outlier_folders))),
            "data_dir": None if self.data_dir is None else Path(self.data_dir),
            "out": Path(self.out),
        }
        for name, value in meant.items():
            object.__setattr__(self, name, value)


def _several(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | Path) else tuple(value)


@dataclass(frozen=True)
class Prepared:
    """A run that could begin: its context, and the model's entry if it has one."""

    context: Context
    entry: Entry | None

    @property
    def spec(self) -> RunSpec:
        return self.context.spec


def prepare(
    model: str | Adapter, suite: str, dataset: str | None, name: str | None, options: Options
) -> Prepared:
    """Everything a run needs.  Raises RobustevalError for what can't be run."""
    refuse_inference_mode()
    check_options(options)
    require_possible(options.out, "choose another with --out")
    if name is not None and not re.fullmatch(r"\w[\w.\-]*", name):  # it becomes a folder's
        raise RobustevalError(
            f"name {name!r}: use letters, digits, _, . and -, a dot or dash not first"
        )
    whole = read_suite(suite)
    entry = find_entry(model) if isinstance(model, str) else None
    chosen = _chosen(whole, options, entry)
    set_name = dataset or (entry.dataset if entry else None)
    if set_name is None:
        raise DataError("a model from Python needs a data set: pass dataset=…")
    DATASETS.get(set_name)
    adapter = _adapter(model, entry, options)
    data = _samples(set_name, adapter, options)
    outliers = _outliers(chosen, data, options)
    if entry is None or entry.factory:
        _try_out(adapter, data, options)
    spec = RunSpec(
        model=entry.name if entry else name or "model",
        model_digest=entry.digest if entry else state_digest(adapter),
        dataset=set_name,
        data_digest=data.digest,
        suite=chosen.model_dump(),
        threats=[(t.norm, str(t.eps)) for t in threats_for(chosen, data, list(options.eps))],
        samples=len(data),
        seed=options.seed,
        batch_size=options.batch_size or default_batch(data.info.shape, options.device),
        time_limit=options.time_limit,
        **outliers,
        versions=library_versions(chosen),
        device=options.device,
        threads=options.threads or _threads(options.workers),
        keep=options.keep,
        transfer_source=_transfer_source(chosen, set_name, entry),
        sources=_sources(chosen, data, entry),
    )
    plan = make_plan(chosen, spec, bool(adapter.layers))
    begun = _as_begun(spec, options)
    if begun is None:
        # Loads the libraries: a run that was begun has been checked.
        check_names(chosen, plan.threats)
        begun = replace(spec, forms=_forms(adapter, data, spec, plan))
    access = Access(_reference(entry), options.data_dir, options.allow_code)
    return Prepared(Context(adapter, data, chosen, begun, plan, access), entry)


def _forms(adapter: Adapter, data: Dataset, spec: RunSpec, plan: Plan) -> tuple[str, str]:
    """What computes soonest on this machine."""
    passes = sum(expected_passes(cell, adapter.classes)[1] for cell in plan.cells) * len(data)
    images = data.images(slice(0, static_batch(spec.device))).to(spec.device)
    with precision(spec):
        libraries, gradients = choose_forms(adapter, images, passes)
    return str(libraries), str(gradients)


def _adapter(model: str | Adapter, entry: Entry | None, options: Options) -> Adapter:
    if entry is not None:
        return load_model(entry, options.device, options.allow_code)
    if isinstance(model, Adapter):
        return model.to(options.device)
    raise RobustevalError(
        "a plain torch module has no adapter: pass wrap_module(module, classes=…)"
    )


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


def _sources(suite: Suite, data: Dataset, attacked: Entry | None) -> dict[str, str]:
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
        digests[name] = source.digest
    return digests


def _transfer_source(
    suite: Suite, dataset: str, entry: Entry | None
) -> tuple[()] | tuple[str, str]:
    """Another model of the registry for the same data, plain cross-entropy if there is one.

    Adversarials of an undefended model transfer best.
    """
    if not suite.diagnostics.samples:
        return ()
    own = entry.weights if entry else None
    others = [
        (other.method != "ce", bool(other.training and other.training.adversarial), other)
        for other in all_entries()
        if isinstance(other, Entry)
        and other.dataset == dataset
        and other.backbone
        and other.weights not in (None, own)
        and _is_sound(other)
    ]
    if not others:
        return ()
    chosen = min(others, key=lambda found: (found[0], found[1], found[2].name))[2]
    return chosen.name, chosen.digest


def _is_sound(entry: Entry) -> bool:
    """Whether its weights are there, and those that it names."""
    try:
        weights_content(entry)
    except WeightsError:
        return False
    return True


def _threads(workers: int) -> int:
    """The cores that this process may use, shared among workers."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, torch.get_num_threads()) // workers)


def _as_begun(spec: RunSpec, options: Options) -> RunSpec | None:
    """The spec of a run that was begun, and differs only in what the machine chose then: the
    model's forms, and threads unless they were asked for."""
    for folder in sorted(options.out.glob(f"{spec.model}-{spec.suite['name']}-*")):
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
        "provenance": provenance(options, context.spec.threads),
    }


def provenance(options: Options, threads: int) -> dict[str, Any]:
    """What the numbers were made with."""
    project = built_in_folder().parent
    return {
        "versions": {**package_versions(), "attacks": attacks_digest()},
        "commit": commit_of(project),
        "dirty": is_dirty(project),
        "hardware": hardware_name(options.device),
        "device": options.device,
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
    }


def check_options(options: Options) -> None:
    """Raises RobustevalError for what makes no sense, before anything is loaded."""
    if options.samples is not None and options.samples < 1:
        raise RobustevalError(f"--samples {options.samples}: choose 1 or more, or all")
    if not 0 <= options.seed < 2**32:
        raise RobustevalError(f"--seed {options.seed}: choose 0 to {2**32 - 1}")
    counts = {"batch-size": options.batch_size, "threads": options.threads}
    for name, value in {**counts, "workers": options.workers}.items():
        if value is not None and value < 1:
            raise RobustevalError(f"--{name} {value}: choose 1 or more")
    if options.keep not in ("first", "all"):
        raise RobustevalError(f"--keep {options.keep!r}: choose first or all")
    limit = options.time_limit
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise RobustevalError(f"--time-limit {limit:g}: choose a positive number of seconds")
    check_device(options.device)
    data_root(options.data_dir)
    for folder in options.outlier_folders:
        check_folder(folder)
