"""Kept images, pictures and files altered: every file of a run, made to fit where that can be."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.forgery.fitting import (
    change_images,
    digests_made_to_fit,
    evidence_files,
    read_images,
    swap_jobs,
    write_images,
)
from benchmarks.forgery.leaves import PICTURES, SCRIPT, Alteration, in_evidence, write_json

Arrays = dict[str, Any]


# Kept images and pictures


def images(run: Path, _: random.Random) -> Iterator[Alteration]:
    """Every file of kept images; where pixels change, the rows' digests are made to fit."""
    for path in evidence_files(run, "attack-*.safetensors"):
        for how, change in IMAGES.items():
            apply = partial(_altered_images, path.name, change)
            yield Alteration("images", path.name, how, apply)
        for how, edit in FILES_OF_IMAGES.items():
            apply = partial(in_evidence, path.name, edit)
            yield Alteration("images", path.name, how, apply)


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
        yield Alteration("pictures", PICTURES, how, partial(in_evidence, PICTURES, edit))


def _one_pixel(arrays: Arrays) -> Arrays:
    changed = arrays["adversarial"].copy()
    changed[0, 0, 0, 0] ^= 1
    return {**arrays, "adversarial": changed}


# Files and failures


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
        said = {"kind": "error", "reason": "it was put aside"}
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
    "said to have failed": {"kind": "error", "reason": "it was put aside"},
    "said not to have finished": {"kind": "time_limit", "reason": "the time was over"},
    "said by an earlier version to have failed": {"status": "failed", "reason": "it was put aside"},
    "HTML as its reason": {"kind": "error", "reason": SCRIPT},
    "control characters as its reason": {"kind": "error", "reason": "\x1b]0;x\x07\r\n=1"},
    "said to be done": {"kind": "done", "reason": ""},
    "another kind": {"kind": SCRIPT, "reason": "x"},
    "another status": {"status": SCRIPT, "reason": "x"},
    "a number as its reason": {"kind": "error", "reason": 7},
    "a table as its reason": {"kind": "error", "reason": {"x": 1}},
    "a key more": {"kind": "error", "reason": "x", "robust": 40},
    "both a kind and a status": {"kind": "error", "status": "failed", "reason": "x"},
    "no reason": {"kind": "error"},
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
