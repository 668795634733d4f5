"""All else made to fit one thing that was changed, as a forger would.

``fit`` renews what hangs on the spec: the digest in every Parquet file, jobs' names, what run.json
tells of attacks, and the folder's name; the rest, what hangs on kept images.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from benchmarks.forgery.leaves import put, read_json, write_json
from benchmarks.forgery.rows import change_about, change_table, read_table, with_column
from robusteval.evidence.kept import float32_tally, kept_images
from robusteval.evidence.pictures import write_examples
from robusteval.evidence.record import open_store, parts_of
from robusteval.evidence.results import load_result
from robusteval.plan.context import Access, open_context
from robusteval.plan.plan import Plan, make_plan
from robusteval.plan.spec import RunSpec

# Kept images


def read_images(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A safetensors file's arrays and its metadata."""
    with safe_open(path, "numpy") as file:
        metadata = dict(file.metadata() or {})
    return load_file(path), metadata


def write_images(path: Path, arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(whole, path, metadata or None)


def change_images(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    arrays, metadata = read_images(path)
    write_images(path, change(arrays), metadata)


def indices_of(folder: Path) -> Any:
    """Each sample's index (N,) in its split."""
    files = sorted((folder / "evidence").glob("clean-*.parquet"))
    return np.concatenate([read_table(f)["index"].to_numpy() for f in files])


def kept_places(path: Path) -> list[int]:
    """The rows of a job's Parquet file whose images are kept."""
    images = path.with_suffix(".safetensors")
    if not images.is_file():
        return []
    rows = load_file(images)["rows"]
    wanted = indices_of(path.parent.parent)[rows].tolist()
    index = read_table(path)["index"].to_pylist()
    return [index.index(value) for value in wanted]


def kinds_of_rows(path: Path) -> dict[str, int]:
    """One row of each kind: of attacks a success whose image is kept, one whose image isn't, and a
    failure; of the rest the first, and of clean predictions a wrong one."""
    table = read_table(path)
    if path.name.startswith("attack-"):
        fooled, kept = np.array(table["fooled"].to_pylist()), kept_places(path)
        free = [i for i in np.flatnonzero(fooled) if i not in kept]
        groups = {"kept success": kept, "other success": free, "failure": np.flatnonzero(~fooled)}
    elif path.name.startswith("clean-"):
        wrong = table["label"].to_numpy() != table["prediction"].to_numpy()
        groups = {"right": np.flatnonzero(~wrong), "wrong": np.flatnonzero(wrong)}
    else:
        groups = {"first": range(min(1, table.num_rows))}
    return {kind: int(rows[0]) for kind, rows in groups.items() if len(rows)}


def digests_made_to_fit(path: Path) -> None:
    """The SHA-256 column, of the kept images as they are now."""
    images = load_file(path.with_suffix(".safetensors"))["images"]
    found = [hashlib.sha256(np.ascontiguousarray(i).data).digest() for i in images]
    places = kept_places(path)

    def renewed(table: pa.Table) -> pa.Table:
        values = table["sha256"].to_pylist()
        for place, digest in zip(places, found, strict=True):
            values[place] = digest
        return with_column(table, "sha256", values)

    change_table(path, renewed)


def proof_made_to_fit(folder: Path) -> None:
    """The proof at the run's end and the report's pictures, of the images that are there now."""
    store, spec, record = open_store(folder)
    context = open_context(spec, Access(record["entry_reference"]))
    store.forget_conclusions()
    result = load_result(folder)
    tally = float32_tally(context, kept_images(context, store), result.tie)
    store.write_verification(tally.to_json())
    write_examples(context, store, result)


# What hangs on the spec


def fit(folder: Path, before: Any) -> Path:
    """Renews what hangs on the spec, where that was changed; the folder's new path.

    ``before``: the record as it was.  A spec that plans other chunks or jobs keeps the old files.
    """
    record = read_json(folder / "run.json")
    spec, old = record.get("spec"), before["spec"]
    if spec == old or not isinstance(spec, dict):
        return folder
    _fit_jobs(folder, record, before)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    for path in sorted((folder / "evidence").glob("*.parquet")):
        change_about(path, partial(put, ("about", "spec"), digest))
    suite = spec.get("suite")
    name = f"{spec.get('model')}-{suite.get('name') if isinstance(suite, dict) else ''}"
    target = folder.with_name(f"{name[:80]}-{digest[:8]}".replace("/", "_").replace("\0", "_"))
    return Path(shutil.move(folder, target)) if target != folder else folder


def _fit_jobs(folder: Path, record: Any, before: Any) -> None:
    """Files and what run.json tells of attacks, by the new plan's names."""
    same = all(record["spec"].get(k) == before["spec"][k] for k in ("samples", "batch_size"))
    plan, was = plan_of(record) if same else None, plan_of(before)
    if plan is None or was is None or len(plan.jobs()) != len(was.jobs()):
        return
    try:
        described = {
            cell.key: {
                "library_version": cell.call.library_version,
                "parameters": cell.call.all_parameters(),
            }
            for cell in plan.cells
        }
    except Exception:  # noqa: BLE001  # an attack that there isn't
        return
    write_json(folder / "run.json", {**record, "attacks": described})
    for old, new in zip(was.jobs(), plan.jobs(), strict=True):
        if old.stem != new.stem and "/" not in new.stem:
            rename_job(folder, old.stem, new.stem)


def plan_of(record: Any) -> Plan | None:
    """What a record plans; None where that makes no sense."""
    try:
        spec = RunSpec.from_json(record["spec"])
        return make_plan(spec.suite, spec, parts_of(record))
    except Exception:  # noqa: BLE001  # whatever is wrong with it is the tool's to say
        return None


def rename_job(folder: Path, old: str, new: str) -> None:
    """A job's files under another name, which they tell themselves."""
    for ending in (".parquet", ".safetensors", ".failed.json"):
        source = folder / "evidence" / f"{old}{ending}"
        if not source.is_file():
            continue
        target = Path(shutil.move(source, source.with_name(f"{new}{ending}")))
        if ending == ".parquet":
            change_about(target, partial(put, ("about", "job"), new))
        elif ending == ".safetensors":
            arrays, metadata = read_images(target)
            write_images(target, arrays, {**metadata, "job": new})


def swap_jobs(folder: Path, one: str, other: str) -> None:
    """Two jobs' files in each other's place, and saying so."""
    for old, new in ((one, "between"), (other, one), ("between", other)):
        rename_job(folder, old, new)


def evidence_files(folder: Path, pattern: str) -> Sequence[Path]:
    return sorted((folder / "evidence").glob(pattern))
