"""Damaged runs: each leaf of run.json, each file of evidence, the report, pictures, caches."""

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save as serialise

from benchmarks.families.made import MODEL, Made
from benchmarks.families.tables import Text, lay_text, places
from benchmarks.trials import (
    CANARY,
    EITHER,
    REFUSED,
    TAKEN,
    Case,
    Seen,
    call,
    command,
    shown,
)

_ALWAYS = frozenset({0, 1, 2, 3})  # any proper end: what counts is how it is told
_GONE = object()
_DEEP = "[" * 100_000 + "]" * 100_000
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", " ", "x", "0.15", "1e9999999999", "\0", "\ud800", "\x1b[31m", "../../x"),
    *("x" * 100_000, [], {}, [None], [[]], {"a": 1}, ["x"], [1, 2], {"": ""}, _GONE),
)


def _verbs(made: Made) -> dict[str, tuple[tuple[str, ...], frozenset[int]]]:
    """Commands that read a run, and how they may end."""
    run = str(made.run)
    resume = ("run", "--model", str(made.folder / "models" / f"{MODEL}.toml"))
    resume = (*resume, "--suite", "tiny.toml", "--samples", "12", "--threads", "1")
    return {
        "report": (("report", "runs/" + made.run.name), frozenset({0, 2, 3})),
        "verify": (("verify", "runs/" + made.run.name), frozenset({0, 1, 2})),
        "compare": (("compare", run, "runs/" + made.run.name), EITHER),
        "add": (("leaderboard", "add", "runs/" + made.run.name), REFUSED),
        "run": (resume, frozenset({0, 2, 3})),
    }


def records(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each leaf and table of run.json with each value."""
    record = made.record
    for path, _ in places(record):
        for value in _VALUES:
            verb = rng.choice(list(_verbs(made)))
            arguments, right = _verbs(made)[verb]
            where = ".".join(map(str, path))
            told = f"{verb}: {where} = {'gone' if value is _GONE else shown(value)}"
            lay = _lay_record(made, partial(_with, record, path, value))
            yield Case("run.json", told, command(*arguments), lay, right)


def _with(record: Any, path: tuple[Any, ...], value: Any) -> str:
    changed = json.loads(json.dumps(record))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is _GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(changed)


def _lay_record(made: Made, text: Text) -> Callable[[], object]:
    def lay() -> None:
        made.lay_suite()
        (made.lay_out() / "run.json").unlink()
        lay_text(f"runs/{made.run.name}/run.json", text)()

    return lay


def damaged_json(raw: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Texts that are no JSON, or not of the expected form."""
    yield from (("empty", b""), ("null", b"null"), ("a list", b"[]"), ("a number", b"1"))
    yield from (("text", b'"x"'), ("NaN", b"NaN"), ("an empty table", b"{}"), ("NUL", b"\0" * 100))
    yield from (("a BOM", b"\xef\xbb\xbf" + raw), ("UTF-16", raw.decode().encode("utf-16")))
    yield from (("Latin-1", b'{"a": "\xe9"}'), ("two", raw + raw), ("a pickle", b"\x80\x04."))
    yield "deep lists", b"[" * 100_000 + b"]" * 100_000
    yield "deep tables", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "open deep lists", b"[" * 1_000_000
    yield "a number of 5,000 digits", b'{"schema": ' + b"9" * 5000 + b"}"
    yield "a deep schema", b'{"schema": ' + _DEEP.encode() + b"}"
    yield "twice the same key", raw.replace(b"{", b'{"schema": 1, ', 1)
    for cut in sorted(rng.sample(range(1, len(raw)), 8)):
        yield f"cut after {cut} bytes", raw[:cut]
    for place in sorted(rng.sample(range(len(raw)), 20)):
        flipped = bytes([raw[place] ^ (1 << rng.randrange(8))])
        yield f"byte {place} is {flipped!r}", raw[:place] + flipped + raw[place + 1 :]


def record_texts(made: Made, rng: random.Random) -> Iterator[Case]:
    """A run.json that is none, under each command, and in a neighbour's folder."""
    for told, content in damaged_json((made.run / "run.json").read_bytes(), rng):
        for verb, (arguments, right) in _verbs(made).items():
            lay = _lay_record(made, content)
            yield Case("run.json", f"{verb}: {told}", command(*arguments), lay, right)
        yield _neighbour(made, told, content)
    record = made.record
    for path, _ in places(record):
        value = rng.choice(_VALUES)
        where = ".".join(map(str, path))
        told = f"{where} = {'gone' if value is _GONE else shown(value)}"
        yield _neighbour(made, told, _with(record, path, value).encode())


def _neighbour(made: Made, told: str, content: bytes) -> Case:
    """Another run's folder beside the one that is to be made."""

    def lay() -> None:
        made.lay_suite()
        folder = Path("runs/ce_digits-smallest-0123abcd")
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(content)

    asked = ("run", "--model", "ce_digits", "--suite", "smallest.toml", "--samples", "4")
    return Case("run.json", f"neighbour: {told}", command(*asked, "--dry-run"), lay, TAKEN)


def neighbour_files(made: Made, rng: random.Random) -> Iterator[Case]:
    """What may stand where another run's folder or its run.json would."""
    name = "runs/ce_digits-smallest-0123abcd"
    for told, lay_bad in (
        ("a file", lambda: Path(name).write_text("x", encoding="utf-8")),
        ("a FIFO", lambda: os.mkfifo(name)),
        ("a link to itself", lambda: os.symlink(name, name)),
        ("an empty folder", lambda: Path(name).mkdir()),
        ("a FIFO as run.json", lambda: (Path(name).mkdir(), os.mkfifo(f"{name}/run.json"))),
        ("a folder as run.json", lambda: Path(f"{name}/run.json").mkdir(parents=True)),
        ("a device", lambda: (Path(name).mkdir(), os.symlink("/dev/zero", f"{name}/run.json"))),
        ("a million tables", lambda: _many(name)),
    ):

        def lay(lay_bad: Callable[[], object] = lay_bad) -> None:
            made.lay_suite()
            Path("runs").mkdir()
            lay_bad()

        asked = ("run", "--model", "ce_digits", "--suite", "smallest.toml", "--samples", "4")
        act = command(*asked, "--dry-run")
        yield Case("run.json", f"neighbour: {told}", act, lay, TAKEN)


def _many(name: str) -> None:
    Path(name).mkdir()
    (Path(name) / "run.json").write_text("[" + "{}," * 1_000_000 + "{}]")


Damage = Callable[[bytes, random.Random], bytes]


def _flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    flipped = content[place] ^ (1 << rng.randrange(8))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


_BYTES: dict[str, Damage] = {
    "empty": lambda content, rng: b"",
    "one byte": lambda content, rng: b"\0",
    "half": lambda content, rng: content[: len(content) // 2],
    "without its last byte": lambda content, rng: content[:-1],
    "without its first byte": lambda content, rng: content[1:],
    "noise": lambda content, rng: rng.randbytes(2000),
    "zeros": lambda content, rng: bytes(len(content)),
    "text": lambda content, rng: b"<html>not found</html>",
    "JSON": lambda content, rng: b"{}",
    "a pickle": lambda content, rng: smuggled(),
    "bits flipped": lambda content, rng: _flip(_flip(_flip(content, rng), rng), rng),
    "its head flipped": lambda content, rng: _flip(content[:12], rng) + content[12:],
    "its foot flipped": lambda content, rng: content[:-12] + _flip(content[-12:], rng),
    "twice": lambda content, rng: content + content,
    "a length of 2⁶³": lambda content, rng: (2**63 - 1).to_bytes(8, "little") + content[8:],
    "a length of 100 MB": lambda content, rng: (10**8).to_bytes(8, "little") + content[8:],
}


def smuggled() -> bytes:
    """A pickle that leaves the canary, were it loaded."""
    return b"cos\nsystem\n(S'touch " + CANARY.encode() + b"'\ntR."


def evidence_bytes(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each file of evidence with each damage to its bytes."""
    names = sorted(path.name for path in (made.run / "evidence").iterdir())
    for name in [f"evidence/{name}" for name in names] + ["report.json", "row.csv", "report.html"]:
        original = (made.run / name).read_bytes()
        for told, damage in _BYTES.items():
            for verb in ("report", "verify", "run"):
                content = damage(original, rng)
                family = "evidence" if name.startswith("evidence") else "report"
                yield _evidence(made, verb, f"{name}: {told}", name, content, family)


def _evidence(
    made: Made, verb: str, told: str, name: str, content: Text, family: str = "evidence"
) -> Case:
    def lay() -> None:
        made.lay_suite()
        lay_text(str(made.lay_out() / name), content)()

    arguments, _ = _verbs(made)[verb]
    right = _ALWAYS if verb == "verify" else EITHER | {3}
    if family == "report":  # made from evidence: it is written anew, or told by verify
        right = _ALWAYS if verb == "verify" else TAKEN
    look = _report_is(made) if family == "report" and verb != "verify" else None
    spare = ("verification.json", "examples.safetensors") if verb == "run" else ()
    act = command(*arguments)
    return Case(family, f"{verb}: {told}", act, lay, right, look=look, spare=spare)


def _report_is(made: Made) -> Callable[[Seen], str]:
    """Whether the report is again what the evidence gives."""
    due = (made.run / "report.json").read_bytes()

    def look(seen: Seen) -> str:
        found = seen.place / f"runs/{made.run.name}/report.json"
        return "" if found.read_bytes() == due else "report.json isn't what the evidence gives"

    return look


def evidence_tables(made: Made, rng: random.Random) -> Iterator[Case]:
    """Parquet files of evidence with other columns, kinds, rows and facts, sealed anew."""
    for path in sorted((made.run / "evidence").glob("*.parquet")):
        for told, content in _changed_tables(pq.read_table(path)):
            for verb in ("report", "verify", "run"):
                name = f"evidence/{path.name}"
                yield _evidence(made, verb, f"{name}: {told}", name, content)


def _changed_tables(table: pa.Table) -> Iterator[tuple[str, Text]]:
    """What a file of evidence might hold in the place of its table."""
    about = json.loads(table.schema.metadata[_KEY])["about"]
    for told, change in (*_other_rows(table), *_other_columns(table)):
        yield told, lambda change=change: _sealed(change(), about)
    for path, _ in places(about):
        for value in _FACTS:
            where = ".".join(map(str, path))
            told = f"{where} = {'gone' if value is _GONE else shown(value)}"
            yield told, partial(_with_fact, table, about, path, value)
    yield "no description", _parquet(table.replace_schema_metadata({}))
    for told, text in damaged_json(json.dumps(about).encode(), random.Random(0)):
        yield f"description: {told}", partial(_described, table, text)


_FACTS = (None, -1, 1e308, float("nan"), "x", [], {}, {"x": 1}, [[]], [1], 10**30, True, _GONE)


def _with_fact(table: pa.Table, about: Any, path: tuple[Any, ...], value: Any) -> bytes:
    """What a job tells of its chunk, with one leaf changed, or gone."""
    return _sealed(table, json.loads(_with(about, path, value)))


def _described(table: pa.Table, text: bytes) -> bytes:
    return _parquet(table.replace_schema_metadata({_KEY: text}))


_KEY = b"robusteval"


def _sealed(table: pa.Table, about: Any) -> bytes:
    """With a digest that fits, where one can be made, so that more than the digest is tried."""
    from robusteval.evidence.columns import SCHEMA
    from robusteval.evidence.pieces import seal_of

    with suppress(TypeError, ValueError, OverflowError, KeyError):
        seal = seal_of({n: table[n].to_numpy() for n in table.column_names}, about, SCHEMA)
        told = json.dumps({"schema": SCHEMA, "sha256": seal, "about": about})
        return _parquet(table.replace_schema_metadata({_KEY: told}))
    return _parquet(table)


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, write_page_checksum=True)
    return stream.getvalue()


Change = Callable[[], pa.Table]


def _other_rows(table: pa.Table) -> Iterator[tuple[str, Change]]:
    names = table.column_names
    twice = [names[-1], *names[1:]] if names else []
    yield "no rows", lambda: table.slice(0, 0)
    yield "a row less", lambda: table.slice(0, max(table.num_rows - 1, 0))
    yield "rows twice", lambda: pa.concat_tables([table, table])
    yield "no columns", lambda: table.select([])
    yield "a column twice", lambda: table.rename_columns(twice)


def _other_columns(table: pa.Table) -> Iterator[tuple[str, Change]]:
    values = _strange_values(table.num_rows)
    for place, name in enumerate(table.column_names):
        yield f"without {name}", partial(table.drop_columns, [name])
        for told, column in values.items():
            yield f"{name} is {told}", partial(table.set_column, place, name, column)


def _strange_values(rows: int) -> dict[str, Any]:
    half = [None, 1] * (rows // 2) + [1] * (rows % 2)
    return {
        "text": pa.array(["x"] * rows),
        "null": pa.nulls(rows),
        "lists": pa.array([[1]] * rows),
        "tables": pa.array([{"a": 1}] * rows),
        "NaN": pa.array([float("nan")] * rows),
        "infinity": pa.array([float("inf")] * rows),
        "-1": pa.array([-1] * rows, pa.int64()),
        "2⁶³-1": pa.array([2**63 - 1] * rows, pa.int64()),
        "half nulls": pa.array(half, pa.int64()),
        "timestamps": pa.array([0] * rows, pa.timestamp("s")),
        "decimals": pa.array([1] * rows, pa.decimal128(10, 2)),
        "a dictionary": pa.array(["x"] * rows).dictionary_encode(),
        "float16": pa.array(np.zeros(rows, np.float16)),
        "bytes": pa.array([b"x"] * rows),
    }


def evidence_arrays(made: Made, rng: random.Random) -> Iterator[Case]:
    """Stored images and pictures of other names, shapes and kinds."""
    shapes = ((0,), (1,), (2, 1, 8, 8), (1, 1, 8, 8), (1, 3, 8, 8), (1, 1, 0, 0), (1, 1, 999, 999))
    kinds = (np.uint8, np.uint16, np.float32, np.int64, np.bool_)
    for name in ("examples", "attack-02-fgsm_Linf_0.15-0000"):
        keys = ("clean", "adversarial") if name == "examples" else ("rows", "images")
        for shape in shapes:
            for kind in kinds:
                array = np.ones(shape, kind)
                for told, arrays in (
                    (f"both {shape} {kind.__name__}", {keys[0]: array, keys[1]: array}),
                    (f"one {shape} {kind.__name__}", {keys[0]: array}),
                    (f"rows of {shape} {kind.__name__}", {
                        keys[0]: np.zeros(len(array), np.int64), keys[1]: array}),
                ):  # fmt: skip
                    verb = rng.choice(("report", "verify", "run"))
                    path = f"evidence/{name}.safetensors"
                    yield _evidence(made, verb, f"{path}: {told}", path, serialise(arrays))


def evidence_json(made: Made, rng: random.Random) -> Iterator[Case]:
    """The proof, and notes on failures."""
    verification = made.run / "evidence/verification.json"
    failed = "evidence/attack-02-fgsm_Linf_0.15-0000.failed.json"
    proof = json.loads(verification.read_text())
    for told, content in damaged_json(verification.read_bytes(), rng):
        for verb in ("report", "verify", "run"):
            yield _evidence(
                made, verb, f"verification: {told}", "evidence/verification.json", content
            )
        yield _failure(made, told, failed, content)
    for key in proof:
        for value in _VALUES:
            changed = {k: v for k, v in proof.items() if k != key}
            if value is not _GONE:
                changed[key] = value
            told = f"{key} = {'gone' if value is _GONE else shown(value)}"
            verb = rng.choice(("report", "verify", "run"))
            content = json.dumps(changed).encode()
            yield _evidence(
                made, verb, f"verification: {told}", "evidence/verification.json", content
            )
    reasons = ("x", None, [], "\x1b[31m", "a\nb\u2028c", "<script>", "x" * 100_000)
    for why, reason in product((*_VALUES, "error", "failed"), reasons):
        for key in ("kind", "status"):  # today's, and an earlier version's
            if why is not _GONE:
                content = json.dumps({key: why, "reason": reason}).encode()
                yield _failure(made, f"{key} {shown(why)}, {shown(reason)}", failed, content)


def _failure(made: Made, told: str, name: str, content: bytes) -> Case:
    """A note on a failure in the place of evidence."""

    def lay() -> None:
        run = made.lay_run()
        (run / "evidence/attack-02-fgsm_Linf_0.15-0000.parquet").unlink()
        (run / name).write_bytes(content)

    right = frozenset({2, 3})
    return Case("evidence", f"report: failure: {told}", command("report", "run"), lay, right)


def reports(made: Made, rng: random.Random) -> Iterator[Case]:
    """A finished run's report.json, damaged: the evidence gives it back."""
    raw = (made.run / "report.json").read_bytes()
    content = json.loads(raw)
    damages = [*damaged_json(raw, rng)]
    for path, _ in rng.sample(list(places(content)), 120):
        value = rng.choice(_VALUES)
        where = ".".join(map(str, path))
        told = f"{where} = {'gone' if value is _GONE else shown(value)}"
        damages.append((told, _with(content, path, value).encode()))
    for told, text in damages:
        for verb in ("run", "report", "verify"):
            yield _evidence(made, verb, f"report.json: {told}", "report.json", text, "report")


def caches(made: Made, rng: random.Random) -> Iterator[Case]:
    """Damaged caches of decoded pixels: the data set is read anew."""
    for told, damage in _cache_damages(rng).items():
        for twice in (False, True):
            act = call(lambda damage=damage, twice=twice: _through_cache(damage, twice))
            yield Case("caches", f"cache: {told}", act, _lay_mnist, TAKEN)


def _lay_mnist() -> None:
    """Twenty images of MNIST's form in Parquet."""
    from PIL import Image

    cells = []
    for k in range(20):
        stream = io.BytesIO()
        Image.fromarray(np.full((28, 28), 10 * k, np.uint8)).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": f"{k}.png"})
    table = pa.table({"image": cells, "label": [k % 10 for k in range(20)]})
    Path("data/mnist").mkdir(parents=True)
    pq.write_table(table, "data/mnist/test-00000-of-00001.parquet")


def _through_cache(damage: Callable[[Path], object], twice: bool) -> None:
    """Reads the set, damages its cache, and reads it again."""
    os.environ["XDG_CACHE_HOME"] = str(Path("cache").resolve())
    from robusteval.api import load_dataset

    first = load_dataset("mnist", data_dir=Path("data"))
    for path in [p for p in Path("cache").rglob("*") if p.is_file()]:
        damage(path)
    for _ in range(1 + twice):
        again = load_dataset("mnist", data_dir=Path("data"))
        if not (again.pixels == first.pixels).all() or not (again.labels == first.labels).all():
            raise AssertionError("the cache's pixels were taken for the data set's")


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _cache_damages(rng: random.Random) -> dict[str, Callable[[Path], object]]:
    images, labels = np.zeros((20, 1, 28, 28), np.uint8), np.zeros(20, np.int64)
    names = np.array([str(k) for k in range(10)])
    contents = {
        told: damage(_npz(images=images, labels=labels), rng) for told, damage in _BYTES.items()
    }
    good = {"images": images, "labels": labels, "class_names": names}
    for told, changed in {
        "other content": {},
        "fewer images": {"images": images[:5]},
        "other shape": {"images": images[:, :, :14, :14]},
        "float images": {"images": images.astype(np.float64)},
        "text labels": {"labels": np.array(["x"] * 20)},
        "float labels": {"labels": labels + 0.5},
        "labels of two axes": {"labels": labels[:, None]},
        "labels out of range": {"labels": labels + 99},
        "no images": {"images": images[:0], "labels": labels[:0]},
        "numbers as class names": {"class_names": np.arange(10)},
        "objects": {"images": np.array([object] * 20, dtype=object)},
        "scalars": {"images": np.array(1), "labels": np.array(1), "class_names": np.array(1)},
    }.items():
        contents[told] = _npz(**{**good, **changed})
    found: dict[str, Callable[[Path], object]] = {}
    for told, content in contents.items():
        found[told] = lambda path, content=content: path.write_bytes(content)
    found["a folder"] = lambda path: (path.unlink(), path.mkdir())
    found["a FIFO"] = lambda path: (path.unlink(), os.mkfifo(path))
    found["a link to itself"] = lambda path: (path.unlink(), os.symlink(path.name, path))
    found["/dev/zero"] = lambda path: (path.unlink(), os.symlink("/dev/zero", path))
    found["a file in the place of the folder"] = _flatten
    return found


def _flatten(path: Path) -> None:
    path.unlink()
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
        path.parent.write_text("x")
