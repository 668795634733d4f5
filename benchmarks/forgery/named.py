"""What a forger would do to look better, or to be believed."""

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.forgery.fitting import (
    change_images,
    digests_made_to_fit,
    evidence_files,
    indices_of,
    kept_places,
    kinds_of_rows,
    proof_made_to_fit,
)
from benchmarks.forgery.leaves import (
    RUN,
    SCRIPT,
    VERIFICATION,
    Alteration,
    change_json,
    put,
    write_json,
)
from benchmarks.forgery.rows import (
    change_about,
    change_table,
    changed_cell,
    changed_column,
    read_table,
    with_column,
)
from robusteval.evidence.columns import NEAREST
from robusteval.evidence.older import OLDEST
from robusteval.evidence.record import RUN_SCHEMA

# Of a warning that measured nothing.
_NO_NUMBERS: dict[str, Any] = {"number": None, "stages": [], "right": [], "of": 0}


def named(run: Path, _: random.Random) -> Iterator[Alteration]:
    """What a forger would do to look better, or to be believed."""
    for how, apply in NAMED.items():
        yield Alteration("named", "run", how, apply, after=AFTER.get(how))


def _nothing(_: Path) -> None:
    """What is altered is the report that was made anew."""


def _each(folder: Path, pattern: str, change: Callable[[pa.Table], pa.Table]) -> None:
    for path in evidence_files(folder, pattern):
        change_table(path, change)


def _magic(folder: Path, of_attacks: bool = False) -> None:
    """A detector that there isn't, which tells all apart."""
    asked = {"clean-*": 1.0, "outliers-*": 0.0} | ({"attack-*pgd_Linf*": 0.0} if of_attacks else {})
    for pattern, value in asked.items():
        _each(folder, f"{pattern}.parquet", partial(_constant, "score_magic", value))


def _constant(name: str, value: float, table: pa.Table) -> pa.Table:
    return with_column(table, name, [value] * table.num_rows)


def _magic_in_the_suite(folder: Path) -> None:
    _magic(folder)
    change_json(folder / RUN, lambda r: _more_detectors(r, "magic"))


def _more_detectors(record: Any, name: str) -> Any:
    record["spec"]["suite"]["detection"]["detectors"].append(name)
    return record


def _known_detector(folder: Path) -> None:
    """One that there is, with scores of the forger's."""
    for pattern, value in (("clean-*", 1.0), ("outliers-*", 0.0), ("attack-*pgd_Linf*", 0.0)):
        _each(folder, f"{pattern}.parquet", partial(_constant, "score_max_logit", value))
    change_json(folder / RUN, lambda r: _more_detectors(r, "max_logit"))


def _better_scores(folder: Path) -> None:
    for column in ("score_max_softmax", "score_nearest_prototype"):
        _each(folder, "outliers-*.parquet", partial(changed_column, column, lambda s: s - 1000))


def _of_successes(kept: bool, name: str, change: Callable[[Any, Any], Any], folder: Path) -> None:
    """A column of successes, of those whose images are kept or of the others; ``change`` takes the
    value and the row's label."""
    for path in evidence_files(folder, "attack-*.parquet"):
        table, places = read_table(path), set(kept_places(path))
        values, labels = table[name].to_pylist(), table["label"].to_pylist()
        for row, fooled in enumerate(table["fooled"].to_pylist()):
            if fooled and (row in places) == kept:
                values[row] = change(values[row], labels[row])
        change_table(path, lambda t, v=values: with_column(t, name, v))


def _another_wrong_class(prediction: int, label: int) -> int:
    return next(c for c in range(10) if c not in (prediction, label))


def _hidden(folder: Path, of: str = "") -> None:
    """Successes dropped, images and all; each row agrees with itself, and the proof with them."""
    for path in evidence_files(folder, f"attack-*{of}*.parquet" if of else "attack-*.parquet"):
        path.with_suffix(".safetensors").unlink(missing_ok=True)
        table = read_table(path)
        label = table["label"].to_numpy()
        of_none = [name for name in table.column_names if name.startswith(NEAREST)]
        for name, change in {
            "fooled": np.zeros_like,
            "survives_8_bit": np.zeros_like,
            "prediction": lambda _, y=label: y,
            "margin": lambda m: -np.abs(m),
            **dict.fromkeys(of_none, lambda p: np.full_like(p, -1)),
        }.items():
            change_table(path, partial(changed_column, name, change))
    proof_made_to_fit(folder)


def _invented(folder: Path) -> None:
    """A failure made a success, with another sample's kept image."""
    path, row = next(
        (p, kinds_of_rows(p)["failure"])
        for p in evidence_files(folder, "attack-*.parquet")
        if {"failure", "kept success"} <= kinds_of_rows(p).keys()
    )
    table = read_table(path)
    claimed = {"fooled": True, "margin": 1.0, "survives_8_bit": True}
    claimed["prediction"] = (table["label"][row].as_py() + 1) % 10
    for name, value in claimed.items():
        table = changed_cell(name, row, lambda _, v=value: v, table)
    change_table(path, lambda _: table)
    place = _row_of(folder, table["index"][row].as_py())
    change_images(path.with_suffix(".safetensors"), partial(_with_image, place))
    digests_made_to_fit(path)
    proof_made_to_fit(folder)


def _with_image(row: int, arrays: dict[str, Any]) -> dict[str, Any]:
    """One image more, the first once again, with rows in their order."""
    place = int(np.searchsorted(arrays["rows"], row))
    images = arrays["images"]
    return {
        "rows": np.insert(arrays["rows"], place, row),
        "images": np.concatenate([images[:place], images[:1], images[place:]]),
    }


def _row_of(folder: Path, index: int) -> int:
    return int(np.flatnonzero(indices_of(folder) == index)[0])


def _clean_made_right(folder: Path) -> None:
    """Wrong clean predictions made right by gaps of 0, as if they were near-ties."""
    for path in evidence_files(folder, "clean-*.parquet"):
        label = read_table(path)["label"].to_numpy()
        change_table(path, partial(changed_column, "prediction", lambda _, y=label: y))
        change_table(path, partial(changed_column, "gap", np.zeros_like))


def _provenance(**changed: Any) -> Callable[[Path], object]:
    return lambda f: change_json(
        f / RUN, lambda r: {**r, "provenance": {**r["provenance"], **changed}}
    )


def _in_spec_and_record(name: str, value: Any, *inside: str) -> Callable[[Path], object]:
    """The same in both, so that they don't contradict each other."""

    def apply(folder: Path) -> None:
        for part in ("spec", "provenance"):
            change_json(folder / RUN, partial(put, (part, *inside, name), value))

    return apply


def _in_spec(name: str, value: Any) -> Callable[[Path], object]:
    return lambda f: change_json(f / RUN, partial(put, ("spec", name), value))


def _page(folder: Path) -> None:
    path = folder / "report.html"
    path.write_text(f"<h1>99.9 %</h1>{SCRIPT}{path.read_text('utf-8')}", "utf-8")


def _better_report(folder: Path) -> None:
    best = {"value": 0.999, "low": 0.99, "high": 1.0, "k": 40, "n": 40}
    edit = partial(put, ("worst_case", 0, "robust_accuracy"), best)
    change_json(folder / "report.json", edit)


def _better_row(folder: Path) -> None:
    path = folder / "row.csv"
    path.write_text(re.sub(r"(?<=,)\d\d\.\d\d(?=,)", "99.90", path.read_text("utf-8")), "utf-8")


def _source_gone(folder: Path) -> None:
    """Diagnostics that do better, and can't be measured again, since their source is said to be
    another one by now."""
    _of_diagnostics(0.001, "wobble", "relative")(folder)
    _in_spec("transfer_source", ["ce_digits", "0" * 64])(folder)


def _of_diagnostics(value: Any, *place: str) -> Callable[[Path], object]:
    edit = partial(put, ("about", "told", *place), value)
    return lambda f: change_about(f / "evidence" / "diagnostics.parquet", edit)


def _told_as_before(folder: Path, whole: bool = False) -> None:
    """Attacks tell nothing, in the form of an earlier version; ``whole``: as the run itself says it
    is."""

    def edit(content: Any) -> Any:
        told = content["about"]["told"]
        sentences = {"notes": [], "warnings": [], "lost": 0, "drifted": told["drifted"]}
        return put(("about", "told"), sentences, {**content, "schema": OLDEST})

    for path in evidence_files(folder, "attack-*.parquet"):
        change_about(path, edit)
    if whole:
        change_json(folder / RUN, partial(put, ("schema",), f"{RUN_SCHEMA}/{OLDEST}"))


def _told_everywhere(name: str, value: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        for path in evidence_files(folder, "attack-*.parquet"):
            change_about(path, partial(put, ("about", "told", name), value))

    return apply


NAMED: dict[str, Callable[[Path], object]] = {
    "an invented detector's columns": _magic,
    "an invented detector, of attacks too": partial(_magic, of_attacks=True),
    "an invented detector, in the suite too": _magic_in_the_suite,
    "a known detector with other scores": _known_detector,
    "outliers' scores 1000 lower": _better_scores,
    "margins of kept successes raised": partial(_of_successes, True, "margin", lambda m, _: m + 5),
    "margins of kept successes lowered": partial(_of_successes, True, "margin", lambda m, _: 1e-6),
    "margins of other successes raised": partial(
        _of_successes, False, "margin", lambda m, _: m + 5
    ),
    "another wrong class for kept successes": partial(
        _of_successes, True, "prediction", _another_wrong_class
    ),
    "another wrong class for other successes": partial(
        _of_successes, False, "prediction", _another_wrong_class
    ),
    "a class that there isn't for kept successes": partial(
        _of_successes, True, "prediction", lambda p, _: 99
    ),
    "kept successes survive 8 bits no more": partial(
        _of_successes, True, "survives_8_bit", lambda s, _: False
    ),
    "successes hidden": _hidden,
    "one attack's successes hidden": partial(_hidden, of="adaptive_L2"),
    "a success invented": _invented,
    "wrong clean predictions made right": _clean_made_right,
    "negative backward passes": lambda f: _each(
        f, "attack-*.parquet", partial(changed_column, "backward_passes", lambda v: -v)
    ),
    "negative forward passes": lambda f: _each(
        f, "attack-*.parquet", partial(changed_column, "forward_passes", lambda v: -v)
    ),
    "a tenth of the passes": lambda f: [
        _each(f, "attack-*.parquet", partial(changed_column, c, lambda v: v / 10))
        for c in ("forward_passes", "backward_passes")
    ],
    "a million passes": lambda f: _each(
        f, "attack-*.parquet", partial(changed_column, "forward_passes", lambda v: v + 1e6)
    ),
    "threads of the record": _provenance(threads=64),
    "device of the record": _provenance(device="cuda"),
    "a version in the record alone": _provenance(versions={"torch": "9.9", "attacks": "00000000"}),
    "a key more in the record": _provenance(reviewed=f"99.9 % {SCRIPT}"),
    "a commit that is none": _provenance(commit=SCRIPT),
    "a date that is none": _provenance(date=f"today {SCRIPT}"),
    "a key more in what attacks told": _told_everywhere("reviewed", f"99.9 % {SCRIPT}"),
    "notes of the forger's": _told_everywhere("notes", [f"robust: 99.9 % {SCRIPT}"]),
    "stages of the forger's": _told_everywhere(
        "stages", [{"name": f"nothing {SCRIPT}", "broke": 0, "of": 9}]
    ),
    "warnings of the forger's": _told_everywhere(
        "warned", [{**_NO_NUMBERS, "kind": "library", "text": SCRIPT}]
    ),
    "warnings of the forger's kind": _told_everywhere(
        "warned", [{**_NO_NUMBERS, "kind": SCRIPT, "text": ""}]
    ),
    "told as by an earlier version": _told_as_before,
    "told as by an earlier version, the run too": partial(_told_as_before, whole=True),
    "fewer lost than none": _told_everywhere("lost", -40),
    "models that drift": _told_everywhere("drifted", 3),
    "a key more in the diagnostics": _of_diagnostics(
        ("about", "told", "reviewed"), f"99.9 % {SCRIPT}"
    ),
    "diagnostics of more samples": _of_diagnostics(400, "samples"),
    "another version claimed, and a page with a script": _in_spec_and_record(
        "robusteval", "0.0.9", "versions"
    ),
    "a page with a script": _nothing,
    "a better number in report.json": _nothing,
    "a better number in row.csv": _nothing,
    "another torch, in spec and record": _in_spec_and_record("torch", "2.9.9", "versions"),
    "other attacks, in spec and record": _in_spec_and_record("attacks", "0a1b2c3d", "versions"),
    "another version, in spec and record": _in_spec_and_record("robusteval", "0.0.9", "versions"),
    "a version with a script, in spec and record": _in_spec_and_record(
        "torch", f"2.9.9{SCRIPT}", "versions"
    ),
    "more threads, in spec and record": _in_spec_and_record("threads", 2),
    "too many threads, in spec and record": _in_spec_and_record("threads", 100_000),
    "another device, in spec and record": _in_spec_and_record("device", "cuda"),
    "no device, in spec and record": _in_spec_and_record("device", "99.9 %"),
    "forms that are coarser": _in_spec("forms", ["bfloat16", "bfloat16"]),
    "forms that there aren't": _in_spec("forms", ["robust", "99.9 %"]),
    "another seed": _in_spec("seed", 7),
    "better diagnostics, their source said to be gone": _source_gone,
    "numbers of the proof": lambda f: write_json(
        f / "evidence" / VERIFICATION,
        {"images": 9999, "held": 9999, "near_ties": 0, "failed": 0, "batch_size": 48},
    ),
    "no proof": lambda f: (f / "evidence" / VERIFICATION).unlink(),
}
# Making the report anew would write these over.
AFTER: dict[str, Callable[[Path], object]] = {
    "another version claimed, and a page with a script": _page,
    "a page with a script": _page,
    "a better number in report.json": _better_report,
    "a better number in row.csv": _better_row,
}
