"""What Python users call; the command line is a thin layer over it.

For example:

    import robusteval
    report = robusteval.evaluate("pcl_digits", suite="quick", samples=200)
    print(report.worst_case)
    assert all(check.held for check in robusteval.verify(report.folder))

    adapter = robusteval.wrap_module(my_module, classes=10, mean=[0.5], std=[0.5])
    report = robusteval.evaluate(adapter, images, labels, suite="quick", name="mine")

A module, an entry or an attack from elsewhere meets the same checks as the project's own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from robusteval import __version__
from robusteval.ambient import plain_state, refuse_inference_mode
from robusteval.data.datasets import load_dataset
from robusteval.errors import EvidenceError, RobustevalError, shown
from robusteval.evidence.files import Files
from robusteval.evidence.located import files_at
from robusteval.evidence.pictures import read_examples
from robusteval.evidence.record import RECORD, open_store, write_record
from robusteval.evidence.results import RunResult, gather, load_result
from robusteval.evidence.store import Store
from robusteval.exports import export
from robusteval.hardware import check_device
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry, readable_entries
from robusteval.places import named_place
from robusteval.plan.context import Context
from robusteval.plan.suite import Suite
from robusteval.report.compare import compare as compare_results
from robusteval.report.files import altered_files, report_files, write_files
from robusteval.report.returned import Report
from robusteval.report.summary import summarise
from robusteval.run.costs import Costs, Estimate, Speeds, measured_speeds
from robusteval.run.finished import finished
from robusteval.run.given_again import GivenAgain
from robusteval.run.options import OptionKeywords, Options, options_of
from robusteval.run.precision import precision
from robusteval.run.prepare import Prepared, prepare
from robusteval.run.progress import Progress, Silent, Watcher, watcher
from robusteval.run.provenance import record_of
from robusteval.run.runner import Run, Settings
from robusteval.run.subject import Asked, borrowed
from robusteval.training.own_loss import open_model
from robusteval.training.train import train
from robusteval.trust.described import as_the_run_says, description_holds
from robusteval.trust.findings import doubted
from robusteval.trust.refitted import fits_hold
from robusteval.trust.repeat import repeated, transfers_repeat
from robusteval.trust.verify import Check, prove, require_same_model, whole

__all__ = [
    "Check",
    "Estimate",
    "Options",
    "Report",
    "compare",
    "estimate",
    "evaluate",
    "export",
    "list_entries",
    "load_dataset",
    "load_model",
    "rebuild_report",
    "train",
    "verify",
    "wrap_module",
]


REPORT_FILES = "report files"  # the check that looks at them
PREPARING, REPORT = "model and data", "report"  # parts of a run that its progress is told of


def list_entries() -> list[Entry]:
    """Every entry of the registry that can be read.  A line is logged for each one that can't."""
    return readable_entries()


@plain_state()
def load_model(name: str | Path, device: str = "cpu", allow_code: bool = False) -> Adapter:
    """A model of the registry, by its name or its entry's path, behind its adapter.

    An entry with a Python factory needs ``allow_code=True``.
    """
    check_device(device)
    return open_model(find_entry(name), device, allow_code)


@plain_state()
def evaluate(
    model: str | Path | nn.Module,
    images: Any = None,
    labels: Any = None,
    name: str | None = None,
    options: Options | None = None,
    *,
    suite: str | Path | Suite | None = None,
    dataset: str | None = None,
    classes: int | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Report:
    """Runs a suite against a model, and writes its evidence and its report.

    - ``model``: an entry's name or path, or a torch module.  A plain module gets images in [0, 1];
      if it expects normalised ones, wrap it first (``wrap_module``).
    - ``images``, ``labels``: arrays or tensors (N, C, H, W), uint8 or floats in [0, 1], and (N,);
      or a torch ``Dataset`` or ``DataLoader`` alone.  Text in the place of images is a suite.
    - ``name``: what the report calls a module; by default the name of its class.
    - ``suite``: a suite's name or path, ``full`` by default; or one that ``read_suite`` gave.
    - ``dataset``: without images, the known data set to run on, by default the entry's own; with
      images, what the report calls them.
    - ``classes``: how many classes a plain module has, by default as many as it answers with.

    Options are given by keyword, such as ``samples=200, seed=1``, or together as ``options``: see
    ``Options``.  A run that was begun is continued, and a finished one is read.

    Raises RobustevalError for bad input.  An attack that fails or does not finish raises nothing:
    the report says so, and is incomplete.

        >>> report = evaluate("pcl_digits", "quick", samples=20, only="fgsm")
        >>> report.complete, report.proven
        (True, True)
    """
    options = options_of(options, keywords)
    asked, suite = _asked(model, images, labels, name, suite, dataset, classes)
    with borrowed(model), borrowed(options.surrogate):
        return _evaluated(asked, suite, options)


def _asked(
    model: Any, images: Any, labels: Any, name: Any, suite: Any, dataset: Any, classes: Any
) -> tuple[Asked, str | Path | Suite]:
    """What stands second and third may be a suite and a data set: text is no images."""
    if isinstance(images, str | Path | Suite):
        if suite is not None:
            raise RobustevalError(
                f"two suites were given, suite={shown(suite)} and {shown(images)}: keep one"
            )
        images, suite = None, images
    if isinstance(labels, str) and images is None and dataset is None:
        labels, dataset = None, labels
    if labels is not None and images is None:
        raise RobustevalError("labels= need images: pass images=…, too")
    asked = Asked(model, dataset, name, images, labels, classes)
    return asked, "full" if suite is None else suite


def _evaluated(asked: Asked, suite: str | Path | Suite, options: Options) -> Report:
    told = watcher(options.progress)
    told.part(PREPARING, 0, 0)
    prepared = prepare(asked, suite, options)
    told.part(PREPARING, 1, 1)
    files = files_at(options.out / prepared.spec.name)
    store = Store(files, prepared.spec.digest)
    if prepared.entry is None or prepared.entry.factory:  # else its digest says all
        with precision(prepared.spec):
            require_same_model(prepared.context, store)
    with store.listed():
        done = finished(prepared, store)
    if done is not None:
        return write_report(store, done)
    is_new = not files.names("")
    files.prepare("", "choose another with --out")
    try:
        record = record_of_begun(prepared, files, options)
        settings = Settings(options.crew, options.progress, doubted)
        result = Run(prepared.context, store, record, settings).execute()
    except BaseException:
        if is_new:  # where nothing was found, nothing stays behind
            store.remove_if_empty()
        raise
    told.part(REPORT, 0, 0)
    report = write_report(store, result)
    told.part(REPORT, 1, 1)
    return report


def record_of_begun(prepared: Prepared, files: Files, options: Options) -> dict[str, Any]:
    """The run's record, as it was written when the run began."""
    if not files.has(RECORD):
        write_record(files, record_of(prepared, options))
    _, spec, record = open_store(files)
    if spec.digest != prepared.spec.digest:
        raise EvidenceError(
            f"{files.where(RECORD)} is of another run: name another folder with --out"
        )
    return record


def write_report(store: Store, result: RunResult) -> Report:
    """The report's files as the evidence gives them; what is so already stays untouched, and so
    does an archive."""
    content = summarise(result)
    if store.files.read_only:
        return Report(content, store.folder)
    files = report_files(content, read_examples(store, result))
    if altered_files(store.files, files):
        with store.lock():
            write_files(store.files, files)
    return Report(content, store.folder)


@plain_state()
def rebuild_report(folder: str | Path) -> Report:
    """Writes a run's report anew from its evidence, byte for byte, without model or data.

    For a run in an archive nothing is written: the report is only returned.  Raises EvidenceError
    for evidence that is missing, corrupt or newer than this version.
    """
    store, _, _ = open_store(files_of(folder))
    return write_report(store, load_result(store.files))


@plain_state()
def verify(
    folder: str | Path,
    model: str | Path | nn.Module | None = None,
    data_dir: str | Path | None = None,
    allow_code: bool = False,
    again: int = 0,
    device: str | None = None,
    *,
    images: Any = None,
    labels: Any = None,
    data: str | Path | None = None,
    fit_data: Any = None,
    surrogate: str | Path | nn.Module | None = None,
    progress: Progress | None = None,
) -> list[Check]:
    """Checks a run's evidence and report against the model and the data, afresh.

    - ``folder``: the run's folder or URL, or its archive.
    - ``model``: where the run's entry is now, or the module that was evaluated.
    - ``images``, ``labels``: those that were evaluated, if they were given from Python.
    - ``data``: where your own data are now, if they have moved.
    - ``fit_data``: where your own training data are now, or the images and labels as a pair.
    - ``again``: how many jobs, chosen at random, to do once more.
    - ``device``: another one than the run's.
    - ``surrogate``: where the run's is now, or the module that was given as one.
    - ``progress``: is told how far the checks are.

    Raises RobustevalError if the run, its model or its data can't be loaded at all.
    """
    told = watcher(progress or Silent())
    with borrowed(model), borrowed(surrogate):
        places = (model, data_dir, allow_code, device)
        given = GivenAgain(*places, images, labels, data, fit_data, surrogate)
        return _verified(folder, given, again, told)


def _verified(folder: str | Path, given: GivenAgain, again: int, told: Watcher) -> list[Check]:
    refuse_inference_mode()
    if not isinstance(again, int) or again < 0:
        raise RobustevalError(f"--again {shown(again)}: choose 0 or more")
    if given.device is not None:
        check_device(given.device)
    store, spec, record = open_store(files_of(folder))
    context = given.context(spec, record)
    with store.listed(), precision(spec):
        checks = [whole(store, context.plan)]
        if not checks[0].held:
            return checks
        try:
            result = gather(store, spec, context.plan, record)
            checks += prove(context, store, result, told)
            told.part("fits of detectors", 0, 0)
            checks += fits_hold(context, store)
            told.part("fits of detectors", 1, 1)
            checks += transfers_repeat(context, store, result, told)
            checks += repeated(context, store, result, again, told)
            checks.append(_report_holds(store, result))
        except EvidenceError as error:
            return [*checks, Check("evidence agrees", False, str(error))]
    return [*checks, *description_holds(context, record), *as_the_run_says(result)]


def files_of(folder: str | Path) -> Files:
    """A run's files, by a path or a URL.  Raises EvidenceError for what can't be either."""
    return files_at(named_place(folder, "run", EvidenceError))


def _report_holds(store: Store, result: RunResult) -> Check:
    """Byte for byte what this version makes of the evidence, whichever version made the run."""
    files = report_files(summarise(result), read_examples(store, result))
    if not (altered := altered_files(store.files, files)):
        return Check(REPORT_FILES, True, ", ".join(files))
    told = f"other than the evidence gives: {', '.join(altered)}"
    made_by = result.spec.versions.get("robusteval", "")
    if made_by != __version__:
        told += f" (made by robusteval {made_by}, this is {__version__}, which may word them anew)"
    return Check(REPORT_FILES, False, f"{told}; `robusteval report {store.folder}` writes them")


@plain_state()
def compare(folders: Sequence[str | Path]) -> dict[str, Any]:
    """Compares runs on the same samples, each with the first: differences, and McNemar's exact p;
    of detectors that both runs have, AUROC.

    Raises EvidenceError for runs on different samples or threat models.
    """
    if not isinstance(folders, list | tuple) or len(folders) < 2:
        raise RobustevalError("a comparison needs two runs or more: give a list of their folders")
    runs = [files_of(folder) for folder in folders]
    names = [Path(run.where()).name for run in runs]
    return compare_results(names, [load_result(run) for run in runs])


@plain_state()
def estimate(
    model: str | Path | nn.Module,
    images: Any = None,
    labels: Any = None,
    name: str | None = None,
    options: Options | None = None,
    *,
    suite: str | Path | Suite | None = None,
    dataset: str | None = None,
    classes: int | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Estimate:
    """What ``evaluate`` would take at most, by the speed of a few passes made now.

    It takes the same arguments.

        >>> estimate("pcl_digits", "quick", samples=20, only="fgsm").jobs
        11
    """
    options = options_of(options, keywords)
    asked, suite = _asked(model, images, labels, name, suite, dataset, classes)
    with borrowed(model), borrowed(options.surrogate):
        context = prepare(asked, suite, options).context
        return _estimated(context, options, _speeds(context))


def estimates(name: str, runs: Iterable[tuple[str | Suite, Options]]) -> Iterator[Estimate]:
    """What several runs of one entry would take at most; its speed is measured once."""
    speeds = None
    for suite, options in runs:
        context = prepare(Asked(name), suite, options).context
        speeds = speeds or _speeds(context)
        yield _estimated(context, options, speeds)


def _speeds(context: Context) -> Speeds:
    with precision(context.spec):
        return measured_speeds(context)


def _estimated(context: Context, options: Options, speeds: Speeds) -> Estimate:
    costs = Costs(context.plan, context.spec, context.model.classes)
    found = costs.estimate(speeds, options.crew.count or 1, context.images(range(1)).numel())
    budget = context.spec.budget
    cut = budget.told(context.spec.samples) if budget else ()
    return replace(found, left_out=tuple(cut))
