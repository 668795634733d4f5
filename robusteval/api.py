"""What Python users call; the command line is a thin layer over it.

For example:

    import robusteval
    report = robusteval.evaluate("pcl_digits", suite="quick")
    print(report.content["worst_case"])

    adapter = robusteval.wrap_module(my_module, classes=10, mean=[0.5], std=[0.5])
    report = robusteval.evaluate(adapter, dataset="mnist", name="mine")

A module, an entry or an attack from elsewhere meets the same checks as the project's own.
"""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.known import DATASETS
from robusteval.data.locate import data_root
from robusteval.data.outliers import check_folder, outlier_names
from robusteval.errors import DataError, RobustevalError, UnknownNameError
from robusteval.evaluation.outcomes import Progress, Silent
from robusteval.evaluation.plan import (
    Plan,
    RunSpec,
    default_batch,
    expected_passes,
    library_versions,
    make_plan,
    threats_for,
)
from robusteval.evaluation.run import Run, Settings
from robusteval.evaluation.suite import Suite, read_suite
from robusteval.evaluation.verify import predict, state_digest
from robusteval.hardware import commit_of, hardware_name, is_dirty, package_versions
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.entry import Entry, all_entries, built_in_folder, find_entry
from robusteval.models.loading import load_model as load_entry
from robusteval.report.files import prepare_folder, write_report
from robusteval.report.summary import summarise
from robusteval.training.train import train

__all__ = [
    "Estimate",
    "Options",
    "Report",
    "estimate",
    "evaluate",
    "list_entries",
    "load_dataset",
    "load_model",
    "train",
    "wrap_module",
]


@dataclass(frozen=True)
class Options:
    """How to run.

    ``samples`` None means all; ``eps`` as text, L∞ unless written ``L2:0.5``; ``batch_size`` None
    goes by the images' size.
    """

    samples: int | None = None
    seed: int = 0
    eps: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    batch_size: int | None = None
    device: str = "cpu"
    time_limit: float | None = None
    data_dir: Path | None = None
    download: bool = False
    outlier_folders: tuple[Path, ...] = ()
    allow_code: bool = False
    out: Path = Path("runs")
    progress: Progress = field(default_factory=Silent)


@dataclass(frozen=True)
class Report:
    """A run's report: its content as plain data, and the folder its files are in."""

    content: dict[str, Any]
    folder: Path

    @property
    def complete(self) -> bool:
        return bool(self.content["status"] == "complete")


@dataclass(frozen=True)
class Estimate:
    """What a run will take at most: jobs, passes, minutes, bytes."""

    jobs: int
    forward_passes: int
    backward_passes: int
    minutes: float
    bytes: int


@dataclass(frozen=True)
class _Prepared:
    entry: Entry | None
    model: Adapter
    data: Dataset
    suite: Suite
    spec: RunSpec
    plan: Plan


def list_entries() -> list[Entry]:
    """Every entry of the registry that can be read."""
    return [e for e in all_entries() if isinstance(e, Entry)]


def load_model(name: str, device: str = "cpu", allow_code: bool = False) -> Adapter:
    """A model of the registry, by name or by its entry's path, behind its adapter."""
    return load_entry(find_entry(name), device, allow_code)


def evaluate(
    model: str | Adapter,
    suite: str = "full",
    dataset: str | None = None,
    name: str | None = None,
    options: Options = Options(),
) -> Report:
    """Runs a suite against a model and writes its report.

    ``model``: an entry's name or path, or an adapter (see ``wrap_module``), which needs
    ``dataset`` and is called ``name`` in its report.  Raises RobustevalError for bad input; a
    failed or unfinished attack is reported as such and leaves the report incomplete.
    """
    prepared = _prepare(model, suite, dataset, name, options)
    folder = options.out / run_name(prepared.spec)
    prepare_folder(folder)
    settings = Settings(
        options.device,
        options.time_limit,
        options.data_dir,
        options.outlier_folders,
        options.progress,
    )
    run = Run(prepared.model, prepared.data, prepared.suite, prepared.plan, prepared.spec, settings)
    try:
        result = run.execute()
    except BaseException:  # no folder stays behind for a run that found nothing
        with suppress(OSError):
            folder.rmdir()
        raise
    content = summarise(result, prepared.entry, provenance(options))
    write_report(folder, content, result.examples)
    return Report(content, folder)


def estimate(
    model: str | Adapter,
    suite: str = "full",
    dataset: str | None = None,
    name: str | None = None,
    options: Options = Options(),
) -> Estimate:
    """What ``evaluate`` would take at most, from the speed of a few passes made now."""
    prepared = _prepare(model, suite, dataset, name, options)
    classes, count = prepared.model.classes, prepared.spec.samples
    pairs = [expected_passes(cell, classes) for cell in prepared.plan.cells]
    forward, backward = sum(p[0] for p in pairs) * count, sum(p[1] for p in pairs) * count
    images = prepared.data.images(slice(0, prepared.spec.batch_size)).to(options.device)
    per_forward, per_backward = _seconds_per_pass(prepared.model, images)
    chunks = len(prepared.plan.chunks)
    minutes = (forward * per_forward + backward * per_backward) / 60
    pixels = prepared.data.info.shape
    per_image = pixels.channels * pixels.height * pixels.width
    size = 250_000 + 12 * 3 * per_image + 1_000 * len(prepared.plan.cells)
    return Estimate(len(prepared.plan.cells) * chunks, forward, backward, minutes, size)


def run_name(spec: RunSpec) -> str:
    """``<model>-<suite>-<8 hex of the spec>``."""
    return f"{spec.model}-{spec.suite['name']}-{spec.digest[:8]}"


def provenance(options: Options) -> dict[str, Any]:
    """What the numbers were made with."""
    project = built_in_folder().parent
    return {
        "versions": package_versions(),
        "commit": commit_of(project),
        "dirty": is_dirty(project),
        "hardware": hardware_name(options.device),
        "device": options.device,
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _prepare(
    model: str | Adapter, suite: str, dataset: str | None, name: str | None, options: Options
) -> _Prepared:
    _check(options)
    chosen = read_suite(suite)
    if options.only:
        chosen = chosen.only(list(options.only))
    entry = find_entry(model) if isinstance(model, str) else None
    set_name = dataset or (entry.dataset if entry else None)
    if set_name is None:
        raise DataError("a model from Python needs a data set: pass dataset=…")
    DATASETS.get(set_name)
    if entry is not None:
        adapter = load_entry(entry, options.device, options.allow_code)
    elif isinstance(model, Adapter):
        adapter = model.to(options.device)
    else:
        raise RobustevalError(
            "a plain torch module has no adapter: pass wrap_module(module, classes=…)"
        )
    data = load_dataset(set_name, "test", options.data_dir, options.download)
    if data.info.classes != adapter.classes:
        raise DataError(
            f"{set_name} has {data.info.classes} classes, the model {adapter.classes}: "
            "choose the data set it was trained on"
        )
    if options.samples is not None:
        data = data.balanced_subset(options.samples)
    outliers = outlier_names(data, chosen.detection.natural, options.data_dir)
    folders = [str(folder.resolve()) for folder in options.outlier_folders]
    threats = threats_for(chosen, data, list(options.eps))
    spec = RunSpec(
        model=entry.name if entry else name or "model",
        model_digest=_entry_digest(entry) if entry else state_digest(adapter),
        dataset=set_name,
        data_digest=data.digest,
        suite=chosen.model_dump(),
        threats=[[t.norm, str(t.eps)] for t in threats],
        samples=len(data),
        seed=options.seed,
        batch_size=options.batch_size or default_batch(data.info.shape),
        time_limit=options.time_limit,
        outliers=tuple(outliers) if chosen.detection.detectors else (),
        outlier_folders=tuple(folders),
        versions=library_versions(),
    )
    return _Prepared(entry, adapter, data, chosen, spec, make_plan(chosen, adapter, threats, spec))


def _check(options: Options) -> None:
    if options.samples is not None and options.samples < 1:
        raise RobustevalError(f"--samples {options.samples}: choose 1 or more, or all")
    if not 0 <= options.seed < 2**32:
        raise RobustevalError(f"--seed {options.seed}: choose 0 to {2**32 - 1}")
    if options.batch_size is not None and options.batch_size < 1:
        raise RobustevalError(f"--batch-size {options.batch_size}: choose 1 or more")
    if options.time_limit is not None and options.time_limit <= 0:
        raise RobustevalError(
            f"--time-limit {options.time_limit:g}: choose a positive number of seconds"
        )
    try:
        torch.empty(1, device=options.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UnknownNameError(
            f"device {options.device!r} can't be used ({reason}): try cpu or cuda"
        ) from None
    data_root(options.data_dir)
    for folder in options.outlier_folders:
        check_folder(folder)


def _entry_digest(entry: Entry) -> str:
    """SHA-256 over all of an entry that decides its outputs."""
    parts = entry.model_dump(
        mode="json", include={"factory", "backbone", "head", "input", "classes", "weights"}
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _seconds_per_pass(model: Adapter, images: torch.Tensor) -> tuple[float, float]:
    """Seconds per image of a forward pass, and of a backward pass on top of it."""
    predict(model, images, len(images))
    started = time.perf_counter()
    predict(model, images, len(images))
    forward = time.perf_counter() - started
    moved = images.clone().requires_grad_()
    started = time.perf_counter()
    torch.autograd.grad(model(moved).sum(), moved)
    both = time.perf_counter() - started
    return forward / len(images), max(both - forward, 0.0) / len(images)
