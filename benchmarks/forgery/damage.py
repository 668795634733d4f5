"""Files of a run damaged, or a finished report altered, with nothing made to fit."""

import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.forgery.leaves import Alteration, in_evidence, in_json, json_edits, read_json
from benchmarks.forgery.rows import ABOUT, read_table, write_table

REPORTS = ("report.json", "report.html", "report.md", "row.csv", "detection.csv")


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
                apply = partial(in_evidence, name, partial(_about_as, text))
                yield Alteration("damage", f"{name}#", how, apply, fit=False)


def report(run: Path, rng: random.Random) -> Iterator[Alteration]:
    """A finished run's report.json: every leaf in one way or another, and damage."""
    name = "report.json"
    edits: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {}
    for place, how, edit in json_edits(read_json(run / name)):
        edits.setdefault(place, []).append((how, edit))
    for place, choices in edits.items():
        how, edit = rng.choice(choices)
        apply = partial(in_json, name, edit)
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


def _rewritten(name: str, change: Callable[[bytes], bytes], folder: Path) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


def _replaced(name: str, instead: Callable[[Path], object], folder: Path) -> None:
    path = folder / name
    path.unlink()
    instead(path)


def _about_as(text: bytes, path: Path) -> None:
    table = read_table(path)
    write_table(path, table.replace_schema_metadata({ABOUT: text}))


def flipped_bit(content: bytes, rng: random.Random) -> bytes:
    """The same bytes but for one bit."""
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


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
