"""A run as one file for others: its samples as a table, or all of it as an archive."""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, get_args

from robusteval.ambient import plain_state
from robusteval.catalogue import near_names
from robusteval.errors import EvidenceError, OutputError, UnknownNameError, shown
from robusteval.evidence.archive import write_archive
from robusteval.evidence.files import Files
from robusteval.evidence.located import files_at
from robusteval.evidence.record import open_store
from robusteval.evidence.store import Store
from robusteval.places import named_place
from robusteval.reading import named, named_path
from robusteval.report.samples import as_json, as_parquet, samples_of
from robusteval.storage import replace_file, replacing

Form = Literal["parquet", "json", "archive"]
FORMS: tuple[Form, ...] = get_args(Form)
_SUFFIXES = {"parquet": ".parquet", "json": ".json", "archive": ".zip"}
_ADVICE = "choose another place with --to"


@plain_state()
def export(
    run: str | Path, as_: Form = "parquet", to: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Writes a run as one file, and returns its path.

    - ``run``: its folder or URL, or its archive.
    - ``as_``: ``parquet`` or ``json`` have a row for each sample, attack and threat model (the same
      as ``Report.samples``), without names of machines, users and folders.  ``archive`` is the
      whole run as it is; it is read wherever a run's folder is.
    - ``to``: the file, or a folder for it.  By default the file is named after the run, in the
      current folder.

    Raises EvidenceError for a run that can't be read.  Raises OutputError for a file that is there
    already, unless ``overwrite``.

        >>> report = evaluate("pcl_digits", "quick", samples=20, only="fgsm")
        >>> export(report.folder, "json", to="samples.json").stat().st_size > 0
        True
    """
    if as_ not in FORMS:
        raise UnknownNameError(
            f"nothing is exported as {shown(as_)}: {near_names(str(as_), FORMS)}"
        )
    store, spec, _ = open_store(_run(run))
    target = _target(spec.name + _SUFFIXES[as_], to)
    if os.path.lexists(target) and not overwrite:
        raise OutputError(f"{target} is there already: {_ADVICE}, or add --overwrite")
    if as_ == "archive":
        _write_archive(store, target)
    else:
        samples = samples_of(store.files)
        content = as_parquet(samples) if as_ == "parquet" else as_json(samples).encode()
        replace_file(target, content, _ADVICE)
    return target


def json_of(run: str | Path) -> str:
    """What ``export`` writes as JSON.  Raises as it does."""
    return as_json(samples_of(_run(run)))


def _run(run: str | Path) -> Files:
    return files_at(named_place(run, "run", EvidenceError))


def _target(default: str, to: str | Path | None) -> Path:
    if to is None:
        return Path(default)
    path = named_path(named(to, "file", OutputError), "file", OutputError)
    return path / default if path.is_dir() else path


def _write_archive(store: Store, target: Path) -> None:
    """While nobody is at work on the run; where it can't be written, nobody is."""
    with ExitStack() as held:
        with suppress(OutputError):
            held.enter_context(store.lock())
        with replacing(target, _ADVICE) as stream:
            write_archive(store.files, stream)
