"""A run's record, ``run.json``: its spec, and what a report needs beside the evidence."""

import json
from pathlib import Path
from typing import Any

from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evaluation.evidence import SCHEMA, Store, json_bytes, require_readable
from robusteval.evaluation.plan import RunSpec
from robusteval.evaluation.suite import Suite
from robusteval.models.entry import Entry
from robusteval.storage import replace_file

RUN_SCHEMA = "robusteval.run"


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """``run.json``.  Raises OutputError where it can't be written."""
    content = {"schema": f"{RUN_SCHEMA}/{SCHEMA}", **record}
    replace_file(folder / "run.json", json_bytes(content), "choose another with --out")


def read_record(folder: Path) -> dict[str, Any]:
    """``run.json``.  Raises EvidenceError for no run, a corrupt or a newer one."""
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text("utf-8"))
        name, _, version = record["schema"].partition("/")
        schema = int(version)
    except (FileNotFoundError, NotADirectoryError):
        raise EvidenceError(
            f"{folder} is no run: name a folder that `robusteval run` made"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(
            f"{path} is corrupt ({error}): restore it, or run the same command again elsewhere"
        ) from None
    require_readable(schema, SCHEMA, path)
    if name != RUN_SCHEMA:
        raise EvidenceError(f"{path} is a {name}, not a {RUN_SCHEMA}: name a run's folder")
    return dict(record)


def open_store(folder: Path) -> tuple[Store, RunSpec, dict[str, Any]]:
    """A run's store, spec and record.  Raises EvidenceError if they don't belong together."""
    record = read_record(folder)
    try:
        spec = RunSpec.from_json(record["spec"])
        spec.threat_models()
        Suite(**spec.suite)
        if record["entry"] is not None:
            Entry(**record["entry"])
        list(record["model"]["layers"])
        parts = ("entry_reference", "attacks", "provenance", "dataset")
        _ = [record[part] for part in parts]
    except (TypeError, KeyError, AttributeError, ValueError, RobustevalError) as error:
        said = str(error).splitlines()[0]
        raise EvidenceError(
            f"{folder / 'run.json'} is corrupt ({said}): restore it, or run the same command "
            "again elsewhere"
        ) from None
    return Store(folder, spec.digest), spec, record
