"""Leaderboards: cells with what they can't hold, and files that are no boards."""

import csv
import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.families.made import Made, boards_folder
from benchmarks.families.numbers import NONE
from benchmarks.families.paths import no_files
from benchmarks.trials import Case, Setting, command, shown

_NAME = "digits_Linf_0.15.csv"
_WRONG = frozenset({1, 2})
_ANY = frozenset({0, 1, 2})
_CHECK = ("leaderboard", "check", "--folder", "boards")
_VALUES = (
    *("", " ", "x", "0", "-1", "1.5", "nan", "inf", "1e400", "100.00", "100.01", "99999", "0.0"),
    *("=1+1", "+1", "-1+1", "@x", "'x", '"', '""', "a,b", "a\nb", "a\rb", "a\x0bb", "a\x0cb"),
    *("a\x85b", "a\u2028b", "a\x1cb", "\x00", "\x1b[31m", "<script>", "x" * 200_000, "é", "٣", "²"),
    *("../../x", "Linf", "L2", "complete", "broken: x", "suspicious: ", "\ufeff", "\u202e", "1_0"),
)
_FREE = ("suite", "seed", "versions", "findings", "run", "evidence_sha256", "strongest_attack")


def _board() -> tuple[list[str], list[dict[str, str]]]:
    """Three rows of a published board."""
    path = boards_folder() / _NAME
    reader = csv.DictReader(path.read_text("utf-8").splitlines())
    rows = [row for row, _ in zip(reader, range(3), strict=False)]
    return list(reader.fieldnames or ()), rows


def _text(names: list[str], rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _case(told: str, content: str | bytes, right: frozenset[int], name: str = _NAME) -> Case:
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content

    def lay() -> None:
        Path("boards").mkdir()
        Path("boards", name).write_bytes(raw)

    return Case("boards", f"check: {told}", command(*_CHECK), lay, right)


def cells(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each column of a row with each value."""
    names, rows = _board()
    for column in names:
        for value in (*_VALUES, *NONE):
            changed = [dict(row) for row in rows]
            changed[rng.randrange(3)][column] = value
            free = column in _FREE or column.startswith("attack_") or value == rows[0][column]
            free |= column in ("claimed", "claimed_by", "training") and value in ("", "0")
            free |= value in ("0", "0.0", "complete", "100.00", "Linf", " ")
            told = f"{column} = {shown(value)}"
            yield _case(told, _text(names, changed), _ANY if free else _WRONG)


def files(made: Made, rng: random.Random) -> Iterator[Case]:
    """Files that are no boards, or damaged ones."""
    names, rows = _board()
    text = _text(names, rows)
    raw = text.encode()
    for told, content in {
        "empty": "",
        "a line feed": "\n",
        "no rows": _text(names, []),
        "JSON": '{"a": 1}',
        "a pickle": b"\x80\x04\x95.",
        "UTF-16": text.encode("utf-16"),
        "Latin-1": raw.replace(b"digits", b"d\xefgits", 1),
        "NUL": raw.replace(b"digits", b"d\0gits", 1),
        "a column twice": text.replace("model,method", "model,model", 1),
        "a column of no name": text.replace("model,method", "model,", 1),
        "an open quote": text.replace(",digits", ',"digits', 1),
        "a cell more": text.replace("\n1,", "\n1,x,", 1),
        "a cell less": text.replace("\n1,", "\n", 1),
        "semicolons": text.replace(",", ";"),
        "tabs": text.replace(",", "\t"),
        "a merge conflict": "<<<<<<< HEAD\n" + text + "=======\n",
        "a header twice": text + text,
        "a huge cell": text.replace(",digits", "," + "x" * 10_000_000, 1),
        "a million commas": text + "," * 1_000_000 + "\n",
    }.items():
        yield _case(told, content, _WRONG)
    for told, content in {
        "a BOM": b"\xef\xbb\xbf" + raw,
        "CRs": raw.replace(b"\n", b"\r\n"),
    }.items():
        yield _case(told, content, _ANY)
    yield _case("blank lines", text.replace("\n", "\n\n"), _ANY)
    for cut in sorted(rng.sample(range(1, len(raw)), 20)):
        yield _case(f"cut after {cut} bytes", raw[:cut], _ANY)
    for place in sorted(rng.sample(range(len(raw)), 40)):
        flipped = bytes([raw[place] ^ (1 << rng.randrange(8))])
        changed = raw[:place] + flipped + raw[place + 1 :]
        yield _case(f"byte {place} is {flipped!r}", changed, _ANY)
    many = [{**rows[0], "model": f"m{i}"} for i in range(20_000)]
    yield _case("20,000 rows", _text(names, many), _WRONG)
    for name in ("x.csv", "digits_L3_1.csv", "a\nb.csv", "\x1b[31m.csv", "\u2028.csv", "x" * 250 + ".csv"):  # noqa: E501  # fmt: skip
        yield _case(f"called {shown(name)}", text, _WRONG, name)
    for bad in no_files(f"boards/{_NAME}"):

        def lay(lay_bad: Callable[[], object] = bad.lay) -> None:
            os.mkdir("boards")
            lay_bad()

        act = command(*_CHECK, setting=Setting(powerless=bad.powerless))
        yield Case("boards", f"check: {bad.told}", act, lay, _WRONG)
