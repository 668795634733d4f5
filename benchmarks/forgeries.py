"""Every alteration that ``tampering`` tries, by family, from one honest run's folder."""

import os
import random
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.forging import (
    ABOUT,
    SCRIPT,
    Alteration,
    about_of,
    change_about,
    change_images,
    change_json,
    change_table,
    changed_cell,
    changed_column,
    column_edits,
    digests_made_to_fit,
    evidence_files,
    flipped_bit,
    indices_of,
    json_edits,
    kept_places,
    kinds_of_rows,
    proof_made_to_fit,
    put,
    read_images,
    read_json,
    swap_jobs,
    table_edits,
    with_column,
    write_images,
    write_json,
    write_table,
)

Family = Callable[[Path, random.Random], Iterator[Alteration]]
RUN, VERIFICATION, PICTURES = "run.json", "verification.json", "examples.safetensors"
REPORTS = ("report.json", "report.html", "report.md", "row.csv")


def every(run: Path, families: Iterable[str], seed: int, limit: int | None) -> list[Alteration]:
    """The alterations of these families: all, or a seeded choice of ``limit`` from each but the
    named."""
    chosen: list[Alteration] = []
    for name in families:
        rng = random.Random(f"{seed}/{name}")
        found = list(FAMILIES[name](run, rng))
        if limit is not None and name != "named" and len(found) > limit:
            found = rng.sample(found, limit)
        chosen += found
    return chosen


# The record


def record(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Every leaf of run.json."""
    for place, how, edit in json_edits(read_json(run / RUN)):
        yield Alteration("record", f"{RUN}:{place}", how, partial(_in_json, RUN, edit))


def _in_json(name: str, edit: Callable[[Any], Any], folder: Path) -> None:
    change_json(folder / name, edit)


# Rows


def columns(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Every column of every Parquet file; of a cell's chunks each edit meets one."""

    def edits(path: Path) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        table = pq.read_table(path, memory_map=False)
        for place, how, change in column_edits(table, kinds_of_rows(path)):
            yield place, how, partial(change_table, change=change)

    yield from _spread("columns", run, rng, edits)


def tables(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Rows, columns and metadata more or fewer than are due."""

    def edits(path: Path) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        for place, how, change in table_edits(pq.read_table(path, memory_map=False)):
            yield place, how, partial(change_table, change=change)

    yield from _spread("tables", run, rng, edits)


def told(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Every leaf of what a job tells of itself and of its chunk."""

    def edits(path: Path) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
        for place, how, edit in json_edits(about_of(path)):
            yield f"#{place}", how, partial(change_about, edit=edit)

    yield from _spread("told", run, rng, edits)


def _spread(
    family: str,
    run: Path,
    rng: random.Random,
    edits: Callable[[Path], Iterator[tuple[str, str, Callable[[Path], object]]]],
) -> Iterator[Alteration]:
    """A cell's chunks are alike, so that each edit is tried on one of those that it fits."""
    cells: dict[str, list[Path]] = {}
    for path in evidence_files(run, "*.parquet"):
        cells.setdefault(path.stem.rpartition("-")[0] or path.stem, []).append(path)
    for paths in cells.values():
        fitting: dict[tuple[str, str], list[tuple[Path, Callable[[Path], object]]]] = {}
        for path in paths:
            for place, how, change in edits(path):
                fitting.setdefault((place, how), []).append((path, change))
        for (place, how), choices in fitting.items():
            path, change = rng.choice(choices)
            apply = partial(_in_evidence, path.name, change)
            yield Alteration(family, f"{path.name}{place}", how, apply)


def _in_evidence(name: str, change: Callable[[Path], object], folder: Path) -> None:
    change(folder / "evidence" / name)


# Kept images


def images(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Every file of kept images; where pixels change, the rows' digests are made to fit."""
    for path in evidence_files(run, "attack-*.safetensors"):
        for how, change in IMAGES.items():
            apply = partial(_altered_images, path.name, change)
            yield Alteration("images", path.name, how, apply)
        for how, edit in FILES_OF_IMAGES.items():
            apply = partial(_in_evidence, path.name, edit)
            yield Alteration("images", path.name, how, apply)


Arrays = dict[str, Any]


def _pixel(by: int) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        pixels = arrays["images"].astype(np.int64)
        flat = pixels[0].reshape(-1)
        place = int(np.abs(flat - 32768).argmin())  # one that can move both ways
        flat[place] = np.clip(flat[place] + by, 0, 65535)
        return {**arrays, "images": pixels.astype(np.uint16)}

    return change


def _images_as(change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, "images": change(arrays["images"])}


def _rows_as(change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, "rows": change(arrays["rows"])}


IMAGES: dict[str, Callable[[Arrays], Arrays]] = {
    "a pixel by one level": _pixel(1),
    "a pixel by 3000 levels": _pixel(3000),
    "white": _images_as(lambda i: np.full_like(i, 65535)),
    "the first twice": _images_as(lambda i: np.concatenate([i[:1], i[:1], i[2:]])[: len(i)]),
    "rolled": _images_as(lambda i: np.roll(i, 1, axis=2)),
    "of another type": _images_as(lambda i: i.astype(np.int32)),
    "as floats": _images_as(lambda i: (i / 65535).astype(np.float32)),
    "of another shape": _images_as(lambda i: i[..., :-1]),
    "flat": _images_as(lambda i: i.reshape(len(i), -1)),
    "three channels": _images_as(lambda i: np.repeat(i, 3, axis=1)),
}


def _altered_images(name: str, change: Callable[[Arrays], Arrays], folder: Path) -> None:
    path = folder / "evidence" / name
    change_images(path, change)
    digests_made_to_fit(path.with_suffix(".parquet"))


def _with_metadata(path: Path, metadata: dict[str, str]) -> None:
    arrays, _ = read_images(path)
    write_images(path, arrays, metadata)


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"99.9 %")


FILES_OF_IMAGES: dict[str, Callable[[Path], object]] = {
    "a pixel, digests as they were": lambda p: change_images(p, _pixel(1)),
    "deleted": Path.unlink,
    "the last image dropped": lambda p: change_images(
        p, lambda a: {k: v[:-1] for k, v in a.items()}
    ),
    "the first image twice": lambda p: change_images(
        p, lambda a: {k: np.concatenate([v, v[:1]]) for k, v in a.items()}
    ),
    "no image": lambda p: change_images(p, lambda a: {k: v[:0] for k, v in a.items()}),
    "rows of other samples": lambda p: change_images(p, _rows_as(lambda r: r[::-1] + 1)),
    "rows far outside": lambda p: change_images(p, _rows_as(lambda r: r + 10**6)),
    "rows below 0": lambda p: change_images(p, _rows_as(lambda r: -r - 1)),
    "rows as int32": lambda p: change_images(p, _rows_as(lambda r: r.astype(np.int32))),
    "rows as floats": lambda p: change_images(p, _rows_as(lambda r: r + 0.5)),
    "rows of two dimensions": lambda p: change_images(p, _rows_as(lambda r: r[:, None])),
    "no rows": lambda p: change_images(p, lambda a: {"images": a["images"]}),
    "an array more": lambda p: change_images(p, lambda a: {**a, "more": a["images"]}),
    "metadata of another job": lambda p: _with_metadata(p, {"job": "clean-0000"}),
    "no metadata": lambda p: _with_metadata(p, {}),
    "metadata more": lambda p: _with_metadata(p, {"job": p.stem, "reviewed": SCRIPT}),
    "bytes at its end": _longer,
}


# What is about the run as a whole


def verification(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Every number of the proof at the run's end."""
    name = f"evidence/{VERIFICATION}"
    for place, how, edit in json_edits(read_json(run / name)):
        yield Alteration(
            "verification", f"{VERIFICATION}:{place}", how, partial(_in_json, name, edit)
        )
    whole: dict[str, Any] = {
        "all held": {"images": 26000, "held": 26000, "near_ties": 0, "failed": 0, "batch_size": 48},
        "consistent, fewer": {
            "images": 3,
            "held": 3,
            "near_ties": 0,
            "failed": 0,
            "batch_size": 48,
        },
        "empty": {},
        "a list": [],
        "null": None,
    }
    for how, content in whole.items():
        apply = partial(_in_json, name, lambda _, content=content: content)
        yield Alteration("verification", VERIFICATION, how, apply)
    yield Alteration("verification", VERIFICATION, "deleted", lambda f: (f / name).unlink())


def pictures(run: Path, _: random.Random) -> Iterator[Alteration]:
    """The report's pictures."""
    edits: dict[str, Callable[[Path], object]] = {
        "clean for adversarial": lambda p: change_images(
            p, lambda a: {**a, "adversarial": a["clean"]}
        ),
        "a pixel": lambda p: change_images(p, _one_pixel),
        "the last dropped": lambda p: change_images(p, lambda a: {k: v[:-1] for k, v in a.items()}),
        "reversed": lambda p: change_images(p, lambda a: {k: v[::-1] for k, v in a.items()}),
        "one array": lambda p: change_images(p, lambda a: {"clean": a["clean"]}),
        "an array more": lambda p: change_images(p, lambda a: {**a, "more": a["clean"]}),
        "as floats": lambda p: change_images(p, lambda a: {k: v / 255 for k, v in a.items()}),
        "as int64": lambda p: change_images(
            p, lambda a: {k: v.astype(np.int64) for k, v in a.items()}
        ),
        "three channels": lambda p: change_images(
            p, lambda a: {k: np.repeat(v, 3, axis=1) for k, v in a.items()}
        ),
        "flat": lambda p: change_images(
            p, lambda a: {k: v.reshape(len(v), -1) for k, v in a.items()}
        ),
        "no dimension": lambda p: change_images(p, lambda a: dict.fromkeys(a, np.uint8(1))),
        "metadata more": lambda p: _with_metadata(p, {"reviewed": SCRIPT}),
        "bytes at its end": _longer,
        "deleted": Path.unlink,
    }
    for how, edit in edits.items():
        yield Alteration("pictures", PICTURES, how, partial(_in_evidence, PICTURES, edit))


def _one_pixel(arrays: Arrays) -> Arrays:
    changed = arrays["adversarial"].copy()
    changed[0, 0, 0, 0] ^= 1
    return {**arrays, "adversarial": changed}


# Files


def files(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Files more, fewer, in another's place; failures where nothing failed, and other reasons."""
    jobs = [p.stem for p in evidence_files(run, "*.parquet")]
    attacks = [stem for stem in jobs if stem.startswith("attack-")]
    some = run / "evidence" / f"{attacks[0]}.parquet"
    yield from (
        Alteration("files", f"evidence/{name}", "a file more", partial(_another, name, content))
        for name, content in {
            "attack-99-mine-0000.parquet": some.read_bytes(),
            f"{attacks[0][:-4]}0007.parquet": some.read_bytes(),
            f"{attacks[0]}.PARQUET": some.read_bytes(),
            f"{attacks[0]}.safetensors.bak": b"99.9 %",
            "clean-0009.parquet": (run / "evidence" / "clean-0000.parquet").read_bytes(),
            "reviewed.json": b'{"held": "99.9 %"}',
            "verification.json.old": b"{}",
            "examples.parquet": some.read_bytes(),
            "notes.txt": b"99.9 %",
            ".hidden": b"99.9 %",
            "more/clean-0000.parquet": some.read_bytes(),
        }.items()
    )
    for stem in jobs:
        yield Alteration("files", f"{stem}.parquet", "deleted", partial(_gone, stem))
    for stem in (attacks[0], "diagnostics", "outliers-00", "clean-0000"):
        for how, content in FAILURES.items():
            yield Alteration(
                "files", f"{stem}.failed.json", how, partial(_failed, stem, content, True)
            )
        said = {"status": "failed", "reason": "it was put aside"}
        yield Alteration(
            "files", f"{stem}.failed.json", "beside its rows", partial(_failed, stem, said, False)
        )
    for one, other in pairwise(attacks):
        if one[:-5] == other[:-5]:
            swap = partial(swap_jobs, one=one, other=other)
            yield Alteration("files", f"{one} and {other}", "two chunks swapped", swap)
    for one, other in pairwise([stem for stem in attacks if stem.endswith("-0000")]):
        swap = partial(swap_jobs, one=one, other=other)
        yield Alteration("files", f"{one} and {other}", "two attacks swapped", swap)


FAILURES: dict[str, Any] = {
    "said to have failed": {"status": "failed", "reason": "it was put aside"},
    "said not to have finished": {"status": "not_finished", "reason": "the time was over"},
    "HTML as its reason": {"status": "failed", "reason": SCRIPT},
    "control characters as its reason": {"status": "failed", "reason": "\x1b]0;x\x07\r\n=1"},
    "said to be done": {"status": "done", "reason": ""},
    "another status": {"status": SCRIPT, "reason": "x"},
    "a number as its reason": {"status": "failed", "reason": 7},
    "a table as its reason": {"status": "failed", "reason": {"x": 1}},
    "a key more": {"status": "failed", "reason": "x", "robust": 40},
    "no reason": {"status": "failed"},
    "empty": {},
    "a list": [],
    "null": None,
}


def _another(name: str, content: bytes, folder: Path) -> None:
    path = folder / "evidence" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def _gone(stem: str, folder: Path) -> None:
    for ending in (".parquet", ".safetensors"):
        (folder / "evidence" / f"{stem}{ending}").unlink(missing_ok=True)


def _failed(stem: str, content: Any, instead: bool, folder: Path) -> None:
    if instead:
        _gone(stem, folder)
    write_json(folder / "evidence" / f"{stem}.failed.json", content)


# Forgeries with a purpose


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
        table, places = pq.read_table(path, memory_map=False), set(kept_places(path))
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
        label = pq.read_table(path, memory_map=False)["label"].to_numpy()
        for name, change in {
            "fooled": np.zeros_like,
            "survives_8_bit": np.zeros_like,
            "prediction": lambda _, y=label: y,
            "margin": lambda m: -np.abs(m),
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
    table = pq.read_table(path, memory_map=False)
    claimed = {"fooled": True, "margin": 1.0, "survives_8_bit": True}
    claimed["prediction"] = (table["label"][row].as_py() + 1) % 10
    for name, value in claimed.items():
        table = changed_cell(name, row, lambda _, v=value: v, table)
    change_table(path, lambda _: table)
    place = _row_of(folder, table["index"][row].as_py())
    change_images(
        path.with_suffix(".safetensors"),
        lambda a: {
            "rows": np.append(a["rows"], place),
            "images": np.concatenate([a["images"], a["images"][:1]]),
        },
    )
    digests_made_to_fit(path)
    proof_made_to_fit(folder)


def _row_of(folder: Path, index: int) -> int:
    return int(np.flatnonzero(indices_of(folder) == index)[0])


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
    _of_diagnostics(("told", "wobble", "relative"), 0.001)(folder)
    _in_spec("transfer_source", ["ce_digits", "0" * 64])(folder)


def _of_diagnostics(place: tuple[str, ...], value: Any) -> Callable[[Path], object]:
    return lambda f: change_about(
        f / "evidence" / "diagnostics.parquet", partial(put, place, value)
    )


def _told_everywhere(name: str, value: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        for path in evidence_files(folder, "attack-*.parquet"):
            change_about(path, partial(put, ("told", name), value))

    return apply


def _clean_made_right(folder: Path) -> None:
    """Wrong clean predictions made right by gaps of 0, as if they were near-ties."""
    for path in evidence_files(folder, "clean-*.parquet"):
        label = pq.read_table(path, memory_map=False)["label"].to_numpy()
        change_table(path, partial(changed_column, "prediction", lambda _, y=label: y))
        change_table(path, partial(changed_column, "gap", np.zeros_like))


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
    "warnings of the forger's": _told_everywhere("warnings", [SCRIPT]),
    "fewer lost than none": _told_everywhere("lost", -40),
    "models that drift": _told_everywhere("drifted", 3),
    "a key more in the diagnostics": _of_diagnostics(("told", "reviewed"), f"99.9 % {SCRIPT}"),
    "diagnostics of more samples": _of_diagnostics(("told", "samples"), 400),
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


# Damage


def damage(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """Files that were not made to fit: flipped bits, cut, replaced."""
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"]
    piped: set[str] = set()
    for path in paths:
        name = str(path.relative_to(run))
        kind = f"{path.name[:5]}{path.suffix}"
        for number in range(3):
            flip = partial(_rewritten, name, partial(flipped_bit, rng=random.Random(rng.random())))
            yield Alteration("damage", name, f"a bit flipped ({number})", flip, fit=False)
        for how, change in DAMAGE.items():
            yield Alteration("damage", name, how, partial(_rewritten, name, change), fit=False)
        for how, instead in REPLACED.items():
            if how != "a pipe" or kind not in piped:  # each may cost the seconds of a hang
                yield Alteration("damage", name, how, partial(_replaced, name, instead), fit=False)
        piped.add(kind)
        if path.suffix == ".json" and path.name not in REPORTS:
            for how, text in TEXTS.items():
                write = partial(_rewritten, name, lambda _, text=text: text)
                yield Alteration("damage", name, how, write, fit=False)
    for path in paths:
        if path.suffix == ".parquet":
            name = path.name
            for how, text in TEXTS.items():
                apply = partial(_in_evidence, name, partial(_about_as, text))
                yield Alteration("damage", f"{name}#", how, apply, fit=False)


def _rewritten(name: str, change: Callable[[bytes], bytes], folder: Path) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def _about_as(text: bytes, path: Path) -> None:
    table = pq.read_table(path, memory_map=False)
    write_table(path, table.replace_schema_metadata({ABOUT: text}))


def _replaced(name: str, instead: Callable[[Path], object], folder: Path) -> None:
    path = folder / name
    path.unlink()
    instead(path)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut in half": lambda c: c[: len(c) // 2],
    "one byte short": lambda c: c[:-1],
    "a byte more": lambda c: c + b"\0",
    "noughts": lambda c: bytes(len(c)),
    "text": lambda _: b"99.9 %\n",
    "not UTF-8": lambda c: b"\xff\xfe" + c,
}
REPLACED: dict[str, Callable[[Path], object]] = {
    "gone": lambda _: None,
    "a folder instead": Path.mkdir,
    "a link to nowhere": lambda p: p.symlink_to("nowhere"),
    "a link to itself": lambda p: p.symlink_to(p.name),
    "a pipe": os.mkfifo,
}
TEXTS: dict[str, bytes] = {
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "a text": b'"x"',
    "no key": b"{}",
    "NaN": b'{"schema": NaN}',
    "deep": b"[" * 100_000,
    "deep tables": b'{"a":' * 50_000,
    "a huge number": b'{"schema": ' + b"9" * 5000 + b"}",
    "keys twice": b'{"schema": 1, "schema": 1}',
    "half a surrogate": b'{"schema": "\\ud800"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
}


def report(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """A finished run's report.json: every leaf in one way or another, and damage."""
    name = "report.json"
    edits: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {}
    for place, how, edit in json_edits(read_json(run / name)):
        edits.setdefault(place, []).append((how, edit))
    for place, choices in edits.items():
        how, edit = rng.choice(choices)
        apply = partial(_in_json, name, edit)
        yield Alteration("report", f"{name}:{place}", how, apply, fit=False)
    for how, change in DAMAGE.items():
        yield Alteration("report", name, how, partial(_rewritten, name, change), fit=False)
    for how, instead in REPLACED.items():
        yield Alteration("report", name, how, partial(_replaced, name, instead), fit=False)
    for how, text in {**TEXTS, **_almost_reports(run)}.items():
        write = partial(_rewritten, name, lambda _, text=text: text)
        yield Alteration("report", name, how, write, fit=False)


def _almost_reports(run: Path) -> dict[str, bytes]:
    """What passes for a complete report at first sight."""
    whole = read_json(run / "report.json")
    head = b'{"schema": "robusteval.report/1", "status": "complete", "run": "%s"}'
    return {
        "a head only": head % whole["run"].encode(),
        "another's report": (run / "report.json").read_bytes().replace(b'"digits"', b'"mnist"'),
        "compact": (run / "report.json").read_bytes().replace(b"\n", b""),
    }


FAMILIES: dict[str, Family] = {
    "named": named,
    "record": record,
    "columns": columns,
    "tables": tables,
    "told": told,
    "images": images,
    "verification": verification,
    "pictures": pictures,
    "files": files,
    "damage": damage,
    "report": report,
}


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a run to be altered, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(run, folder / run.name, symlinks=True))
