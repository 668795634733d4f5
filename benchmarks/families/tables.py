"""Entries and suites: damaged TOML, each field with each wrong value, fields that there aren't."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tomlkit

from benchmarks.families.made import MODEL, Made, boards_folder, texts_of
from benchmarks.families.paths import no_files
from benchmarks.trials import (
    EITHER,
    REFUSED,
    TAKEN,
    Case,
    Seen,
    Setting,
    command,
    shown,
)

_MARK = "@@here@@"
_DEEP = 20_000
# Values as TOML writes them, none of which fits everywhere.
_VALUES = (
    *('"text"', '""', '" "', "-1", "0", "1.5", "nan", "inf", "-inf", "true", "[]", '["a"]', "[1]"),
    *("{}", "{ a = 1 }", "1979-05-27", "07:32:00", "9" * 5000, "9" * 30, "1e400", "[nan]", '[""]'),
    *(f'"{"x" * 100_000}"', "[" * 200 + "]" * 200, '"\\u0000"', '"\\u001b[31mred"', '"a\\nb"'),
    *('"../../etc/passwd"', "[[1], [2]]", "[{ a = 1 }]", '"=1+1"', '"<b>"', '"\\u2028"', "[1, 2]"),
)
_CONTAINERS = ("[", "{")
Path_ = tuple[str | int, ...]


def full_entry(made: Made) -> dict[str, Any]:
    """A sound entry that uses every table and nearly every field."""
    entry = tomlkit.parse(texts_of(made.folder)[0]).unwrap()
    entry["paper"] |= {"arxiv": "2303.12345"}
    entry["head"] |= {"pooling": "max", "temperature": 1.0}
    entry["claims"] = [
        {"attack": "pgd20", "accuracy": 52.0, "norm": "Linf", "eps": "8/255"},
        {"attack": "clean", "accuracy": 88.0, "source": "Table 1", "note": "theirs"},
    ]
    entry["training"] |= {"warmup_epochs": 0, "warmup_lr": 0.1, "momentum": 0.9}
    entry["training"] |= {"schedule": "steps", "milestones": [10, 20], "stopping_eps": "0.15"}
    return dict(entry)


def full_suite(made: Made) -> dict[str, Any]:
    """A sound suite that uses nearly every field."""
    suite = tomlkit.parse(texts_of(made.folder)[1]).unwrap()
    suite["threats"] = {"Linf": ["0.15"], "L2": ["0.6"]}
    suite["attacks"][0]["restarts"] = 1
    return dict(suite)


def places(table: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every table and value, with where it is."""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in items:
        yield (*path, key), value
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def with_value(table: Any, path: Path_, raw: str) -> str:
    """TOML with a value, as TOML writes it, in one place."""
    changed = _changed(table, path, _MARK)
    return tomlkit.dumps(changed).replace(json.dumps(_MARK), raw)


def _changed(table: Any, path: Path_, value: Any) -> Any:
    changed = json.loads(json.dumps(table))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


def _right(old: Any, raw: str) -> frozenset[int]:
    """Whether a value of that form may stand in the place of another."""
    if isinstance(old, bool):
        return REFUSED if raw.startswith(_CONTAINERS) or raw in ("nan", "inf") else EITHER
    if isinstance(old, int | float):
        number = raw.lstrip("-").replace(".", "").isdigit() or raw == "true"
        return EITHER if number and len(raw) < 40 else REFUSED
    if isinstance(old, str):
        return REFUSED if raw.startswith(_CONTAINERS) or raw in ("true", "07:32:00") else EITHER
    if isinstance(old, dict):
        return EITHER if raw.startswith("{") else REFUSED
    return EITHER if raw.startswith("[") else REFUSED


Text = str | bytes | Callable[[], str | bytes]


def lay_text(name: str, text: Text) -> Callable[[], object]:
    """Lays one file; text that takes long to make is made then."""

    def lay() -> None:
        content = text() if callable(text) else text
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        Path(name).write_bytes(raw)

    return lay


_SHOW = ("show", "given.toml")
_RUN = ("run", "--model", "ce_digits", "--suite", "given.toml", "--samples", "4", "--dry-run")


def entry_values(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each field of an entry with each value."""
    yield from values_in(
        full_entry(made), "entry", _SHOW, ("paper_training", "options", "backbone")
    )


def suite_values(made: Made, rng: random.Random) -> Iterator[Case]:
    """Each field of a suite with each value."""
    yield from values_in(full_suite(made), "suite", _RUN, ("parameters",))


def values_in(
    table: Any, kind: str, door: tuple[str, ...], free: tuple[str, ...]
) -> Iterator[Case]:
    for path, old in places(table):
        for raw in _VALUES:
            where = ".".join(map(str, path))
            is_free = any(part in free for part in path) or "parameters" in path
            right = EITHER if is_free else _right(old, raw)
            if "eps" in str(path[-1]) and raw in ("1.5", "0", "-1"):
                right = EITHER
            says = ("given.toml",) if right == REFUSED and len(raw) < 1000 else ()
            lay = lay_text("given.toml", partial(with_value, table, path, raw))
            yield Case(kind, f"{kind}: {where} = {shown(raw)}", command(*door), lay, right, says)


def entry_names(made: Made, rng: random.Random) -> Iterator[Case]:
    """Fields of an entry that there aren't, and ones that are missing."""
    required = {"name", "method", "dataset", "mean", "std", "recipe", "lr", "validation", "file"}
    required |= {"sha256", "accuracy", "title", "epochs"}
    yield from names_in(full_entry(made), "entry", _SHOW, ("options", "backbone"), required)


def suite_names(made: Made, rng: random.Random) -> Iterator[Case]:
    """Fields of a suite that there aren't, and ones that are missing."""
    required = {"name", "title", "library", "attack", "norms"}
    yield from names_in(full_suite(made), "suite", _RUN, ("parameters", "times_eps"), required)


def names_in(
    table: Any, kind: str, door: tuple[str, ...], free: tuple[str, ...], required: set[str]
) -> Iterator[Case]:
    for path, _ in places(table):
        name = path[-1]
        if not isinstance(name, str) or any(part in free for part in path[:-1]):
            continue
        where = ".".join(map(str, path))
        for wrong in misspelt(name):
            lay, told = (
                lay_text("given.toml", partial(_as_renamed, table, path, wrong)),
                f"{kind}: {where} spelt {wrong!r}",
            )
            says = ("given.toml", wrong, name)
            yield Case(kind, told, command(*door), lay, says=says)
        lay = lay_text("given.toml", partial(_as_changed, table, path, None))
        right = REFUSED if name in required and "trained" not in path else EITHER
        says = ("given.toml", name) if right == REFUSED else ()
        yield Case(kind, f"{kind}: without {where}", command(*door), lay, right, says)
    for path in [(), *(p for p, value in places(table) if isinstance(value, dict))]:
        if any(part in free for part in path) or "paper_training" in path or "threats" in path:
            continue
        for name in ("colour", "__class__", "é", "a b", "path", "x" * 300, "model_config"):
            lay = lay_text("given.toml", partial(_as_changed, table, (*path, name), 1))
            told = f"{kind}: {'.'.join(map(str, (*path, shown(name))))} = 1"
            yield Case(kind, told, command(*door), lay, says=("given.toml", name[:20]))


def _as_changed(table: Any, path: Path_, value: Any) -> str:
    return tomlkit.dumps(_changed(table, path, value))


def _as_renamed(table: Any, path: Path_, name: str) -> str:
    inner: Any = table
    for key in path:
        inner = inner[key]
    return _as_changed(_changed(table, path, None), (*path[:-1], name), inner)


def misspelt(name: str) -> Iterator[str]:
    """Slips of the fingers, none of which is the name."""
    if len(name) > 3:
        yield name[0] + name[2] + name[1] + name[3:] if name[1] != name[2] else name[:-1]
        yield name[:-1]
        yield name + "s" if not name.endswith("s") else name + "es"
    if "_" in name:
        yield name.replace("_", "-")
        yield name.replace("_", "")
    if name != name.title():
        yield name.title()


def damaged(text: str, rng: random.Random) -> Iterator[tuple[str, bytes, frozenset[int]]]:
    """Whole texts that are no TOML, or TOML of a strange form."""
    raw = text.encode()
    yield "a UTF-8 BOM", b"\xef\xbb\xbf" + raw, TAKEN
    yield "Windows line ends", raw.replace(b"\n", b"\r\n"), TAKEN
    yield "without a last line feed", raw.rstrip(b"\n"), TAKEN
    yield "two BOMs", b"\xef\xbb\xbf" * 2 + raw, REFUSED
    yield "bare CRs", raw.replace(b"\n", b"\r"), EITHER
    yield "UTF-16", text.encode("utf-16"), REFUSED
    yield "UTF-32", text.encode("utf-32"), REFUSED
    yield "Latin-1", raw.replace(b'name = "', b'name = "\xe9', 1), REFUSED
    yield "empty", b"", REFUSED
    yield "only a comment", b"# nothing\n", REFUSED
    yield "NUL bytes", raw.replace(b"\n", b"\0\n", 3), REFUSED
    yield "JSON", json.dumps({"name": "x"}).encode(), REFUSED
    yield "a pickle", b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x02os", REFUSED
    yield "a surrogate", raw + b'\nx = "\xed\xa0\x80"\n', REFUSED
    yield "an unknown escape", raw + b'\nx = "\\q"\n', REFUSED
    yield "twice the same", raw + raw, REFUSED
    yield "an open string", raw + b'\nx = "open', REFUSED
    yield "a merge conflict", b"<<<<<<< HEAD\n" + raw + b"=======\n>>>>>>>\n", REFUSED
    for told, deep in (
        ("lists", "x = " + "[" * _DEEP + "]" * _DEEP),
        ("open lists", "x = " + "[" * _DEEP),
        ("inline tables", "x = " + "{ a = " * _DEEP + "1" + " }" * _DEEP),
        ("dotted keys", ".".join("a" * _DEEP) + " = 1"),
        ("a dotted table", "[" + ".".join("a" * _DEEP) + "]"),
        ("lists of tables", "[[" + ".".join("a" * _DEEP) + "]]"),
        ("lists, a hundred", "x = " + "[" * 100 + "]" * 100),
        ("lists, a thousand", "x = " + "[" * 900 + "]" * 900),
    ):
        yield f"deep: {told}, first", f"{deep}\n{text}".encode(), REFUSED
        yield f"deep: {told}, last", f"{text}\n{deep}\n".encode(), REFUSED
        yield f"deep: {told}, alone", deep.encode(), REFUSED
    yield "a number of 5,000 digits", f"seeds = {'9' * 5000}\n{text}".encode(), REFUSED
    yield "a line of 10 MB", f"# {'x' * 10_000_000}\n{text}".encode(), EITHER
    yield "100,000 keys", (text + "\n[extra]\n" + "".join(f"k{i} = 1\n" for i in range(100_000))).encode(), REFUSED  # noqa: E501  # fmt: skip
    for cut in sorted(rng.sample(range(1, len(raw)), 25)):
        yield f"cut after {cut} bytes", raw[:cut], EITHER
    for place in sorted(rng.sample(range(len(raw)), 60)):
        flipped = bytes([raw[place] ^ (1 << rng.randrange(8))])
        yield f"byte {place} is {flipped!r}", raw[:place] + flipped + raw[place + 1 :], EITHER


def entry_texts(made: Made, rng: random.Random) -> Iterator[Case]:
    """Damaged entries: shown, run, trained."""
    text = texts_of(made.folder)[0]
    for told, content, right in damaged(text, rng):
        says = ("given.toml",) if right == REFUSED else ()
        lay = lay_text("given.toml", content)
        yield Case("toml", f"show: {told}", command(*_SHOW), lay, right, says)
        if right == REFUSED:
            dry = command("run", "--model", "given.toml", "--dry-run")
            yield Case("toml", f"run: {told}", dry, lay, says=says)
            train = command("train", "given.toml")
            yield Case("toml", f"train: {told}", train, lay, says=says)


def suite_texts(made: Made, rng: random.Random) -> Iterator[Case]:
    """Damaged suites."""
    for told, content, right in damaged(texts_of(made.folder)[1], rng):
        lay = lay_text("given.toml", content)
        says = ("given.toml",) if right == REFUSED else ()
        yield Case("toml", f"suite: {told}", command(*_RUN), lay, right, says)


_NOT_A_COUNT = ("0", "-5", "true", '"10"', "nan", "inf", "1.5", "[]", '""', "9" * 30, "false")


def attack_parameters(made: Made, rng: random.Random) -> Iterator[Case]:
    """Parameters of libraries' attacks and of ours, and norms that an attack hasn't."""
    counts = (
        *(("torchattacks", name, "steps") for name in ("PGD", "BIM", "MIFGSM", "PGDL2", "CW")),
        *(("torchattacks", name, "steps") for name in ("DeepFool", "APGD", "TPGD", "EOTPGD")),
        ("torchattacks", "Square", "n_queries"),
        ("torchattacks", "APGD", "n_restarts"),
        ("torchattacks", "EOTPGD", "eot_iter"),
        ("robusteval", "adaptive", "passes_per_sample"),
        *(("robusteval", name, "steps") for name in ("joint_pc", "prototype_margin", "smallest")),
        ("robusteval", "gaussian_noise", "draws"),
    )
    for library, attack, name in counts:
        norm = "L2" if attack in ("PGDL2", "CW", "DeepFool") else "Linf"
        for raw in _NOT_A_COUNT:
            told = f"{attack}: {name} = {shown(raw)}"
            right = EITHER if len(raw) == 30 else REFUSED
            yield _attack(told, library, attack, norm, f"{name} = {raw}", right)
        yield _attack(f"{attack}: step = 10", library, attack, norm, "step = 10")
        yield _attack(f"{attack}: eps = 0.1", library, attack, norm, "eps = 0.1")
        other = "Linf" if norm == "L2" else "L2"
        only_one = attack in ("PGD", "BIM", "MIFGSM", "PGDL2", "CW", "DeepFool", "TPGD", "EOTPGD")
        if only_one:
            yield _attack(f"{attack} in {other}", library, attack, other, "")
    for attack in ("FGSN", "fgsm", "", " ", "__class__", "attack", "Attack", "os", "x" * 300):
        for library in ("torchattacks", "advlib", "robusteval"):
            yield _attack(f"attack {shown(attack)} of {library}", library, attack, "Linf", "")
    for library in ("foolbox", "", "torchattack", "os"):
        yield _attack(f"library {library!r}", library, "FGSM", "Linf", "")
    for source in ('""', '"no_such"', '"ce_mnist"', '"*"', '"x.toml"', "1", '"../x.toml"'):
        told = f"transfer from {source}"
        yield _attack(told, "robusteval", "transfer", "Linf", f"source = {source}")
    yield _attack("autoattack with steps", "autoattack", "standard", "Linf", "steps = 1")
    yield _attack("autoattack rand", "autoattack", "rand", "Linf", "")


def _attack(
    told: str,
    library: str,
    attack: str,
    norm: str,
    parameters: str,
    right: frozenset[int] = REFUSED,
) -> Case:
    named = {"name": "one", "title": "One", "library": library, "attack": attack}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in named.items())
    text = f'name = "x"\n[[attacks]]\n{lines}norms = ["{norm}"]\nparameters = {{ {parameters} }}\n'
    model = "pcl_digits" if attack in ("joint_pc", "prototype_margin") else "ce_digits"
    asked = ("run", "--model", model, "--suite", "given.toml", "--samples", "4", "--dry-run")
    return Case("suite", f"suite: {told}", command(*asked), lay_text("given.toml", text), right)


def architectures(made: Made, rng: random.Random) -> Iterator[Case]:
    """Entries of the right form that describe what can't be built, or isn't their weights'."""
    changes: dict[Path_, tuple[str, ...]] = {
        ("backbone", "name"): ('"resnet_smal"', '""', '"__class__"', '"cnn6"'),
        ("backbone", "widths"): ("[]", "[0]", "[-1, 2, 3]", '["a"]', "[1e9]", "12", "[12, 24]"),
        ("backbone", "stem"): ("0", "-1", "1.5", '"16"', "true", str(10**9), str(10**18), "nan"),
        ("backbone", "blocks"): ("[]", "[0, 0, 0]", "[1]", "[1000000, 1, 1]", '"abc"', "[-1,1,1]"),
        ("backbone", "embedding"): ("0", "-1", str(10**10), str(2**63), "nan", '"32"', "[]"),
        ("backbone", "depth"): ("1", '"x"', "nan"),
        ("head", "layers"): ('["x"]', '["fc", "fc"]', '[""]', "[]"),
        ("head", "prototypes_per_class"): (str(10**9), str(10**18), "6", "1"),
        ("head", "branch_dims"): ("{ fc = 0 }", "{ fc = -1 }", "{ fc = 1000000000000 }"),
        ("head", "temperature"): ("1e-320", "1e308"),
        ("input", "mean"): ("[0.1, 0.2]", "[0.1, 0.2, 0.3]", "[]", "[nan]", "[inf]", "[1e39]"),
        ("input", "std"): ("[0]", "[-1]", "[1e-45]", "[1e-320]", "[nan]", "[1, 1]"),
        ("dataset",): ('"digit"', '""', '"mnist"', '"cifar10"', '"../digits"', '"\\u0000"'),
        ("classes",): ("2", "9", "11", str(10**12), "1", "0", "-1", "10.5"),
        ("weights", "file"): (
            '"x.safetensors"',
            '"../x.safetensors"',
            '"/etc/passwd"',
            '"x.pt"',
            '""',
            '"\\u0000.safetensors"',
            '".safetensors"',
            f'"{"x" * 300}.safetensors"',
        ),
        ("weights", "sha256"): ('""', f'"{"0" * 64}"', f'"{"A" * 64}"', '"e5"', f'"{"٣" * 64}"'),
        ("factory",): ('"a:b"', '""'),
        ("training", "batch_size"): ("1", "0", str(10**12), "-5"),
        ("training", "validation"): ("0", "-1", "100000", str(10**30), "1437"),
        ("training", "recipe"): ('"mpatt"', '""', '"ce"'),
        ("training", "options", "tau"): ("-1", "nan", '"x"', "true", "0", "inf"),
        ("training", "options", "tua"): ("0.2",),
        ("training", "augment"): ('["crops"]', '["crop", 1]', '"crop"'),
        ("training", "crop_padding"): ("0", "-1", str(10**9)),
        ("training", "seed"): ("-1", str(2**64), str(10**30), "1.5"),
        ("training", "lr"): ("0", "-1", "nan", "inf", "1e400"),
        ("training", "epochs"): ("0", "-1", "1.5", str(10**30)),
    }
    entry = full_entry(made)
    entry["training"]["epochs"] = 1  # should it be trained after all
    for path, raws in changes.items():
        for raw in raws:
            where = ".".join(map(str, path))
            verb = "train" if path[0] == "training" else "run"

            def lay(path: Path_ = path, raw: str = raw) -> None:
                made.lay_models()
                Path(f"models/{MODEL}.toml").write_text(with_value(entry, path, raw), "utf-8")

            asked = ("run", "--model", f"models/{MODEL}.toml", "--dry-run", "--samples", "4")
            if verb == "train":
                asked = ("train", f"models/{MODEL}.toml")
            loose = raw in ('["fc", "fc"]', '".safetensors"', "6", "[1e39]", "[1e-45]", "1e308")
            loose |= path == ("backbone", "stem") and raw == "1.5"
            loose |= path == ("training", "batch_size") and raw == str(10**12)
            loose |= path[-1] == "seed" and raw in (str(2**64), "-1")
            loose |= raw == "1e-320" or (path[-1] == "tau" and raw == "0")
            told = f"{verb}: {where} = {shown(raw)}"
            right = EITHER if loose else REFUSED
            yield Case("architectures", told, command(*asked), lay, right)


def neighbours(made: Made, rng: random.Random) -> Iterator[Case]:
    """One bad file among the entries of ``$ROBUSTEVAL_MODELS``: it is told, the others go on."""
    for told, lay_bad, powerless in _bad_files(made, rng):
        setting = Setting({"ROBUSTEVAL_MODELS": "models"}, powerless=powerless)
        dry = ("run", "--model", "ce_digits", "--suite", "quick", "--samples", "4", "--dry-run")
        for verb, arguments in {
            "list": ("list", "models"),
            "list --json": ("list", "models", "--json"),
            "show": ("show", MODEL),
            "run": dry,
            "pattern": ("run", "--model", "mpat_at_d*s", *dry[3:]),
            "check": ("leaderboard", "check", "--folder", "boards"),
        }.items():

            def lay(lay_bad: Callable[[], object] = lay_bad) -> None:
                made.lay_models()
                lay_bad()
                shutil.copytree(
                    boards_folder(), "boards", ignore=lambda _, names: set(names) - _BOARDS
                )

            look = _tells if verb.startswith("list") else None
            act = command(*arguments, setting=setting)
            yield Case("models folder", f"{verb}: {told}", act, lay, right=TAKEN, look=look)


_BOARDS = {"mnist_L2_2.csv"}


def _tells(seen: Seen) -> str:
    told = seen.stdout + seen.stderr
    if MODEL not in told or "ce_digits" not in told:
        return "other models aren't listed"
    return "" if "there" in told else "the bad file isn't named"


def _bad_files(made: Made, rng: random.Random) -> Iterator[tuple[str, Callable[[], object], bool]]:
    name = "models/there.toml"
    for bad in no_files(name):
        yield bad.told, bad.lay, bad.powerless
    text = texts_of(made.folder)[0].replace(f'"{MODEL}"', '"there"')
    for told, content, right in damaged(text, rng):
        if right == REFUSED and "deep" not in told:
            yield told, lay_text(name, content), False
    for told in ("lists, last", "dotted keys, alone", "inline tables, first"):
        (content,) = (c for t, c, _ in damaged(text, rng) if t == f"deep: {told}")
        yield f"deep: {told}", lay_text(name, content), False
    for told, old, new in (
        ("another name", '"there"', '"elsewhere"'),
        ("NaN", "mean = [0.305]", "mean = [nan]"),
        ("an ε that hangs", '["0.15", "0.15"]', '["0.15", "1e9999999999"]'),
        ("an unknown data set", '"digits"', '"digit"'),
        ("an unknown backbone", '"resnet_small"', '"resnet_smal"'),
        ("a wrong table", "[head]", "[haed]"),
        ("a weights file that isn't there", f'"{MODEL}.safetensors"', '"gone.safetensors"'),
        ("a weights file of 300 letters", f'"{MODEL}.safetensors"', f'"{"x" * 300}.safetensors"'),
        ("NUL in the weights file's name", f'"{MODEL}.safetensors"', '"\\u0000.safetensors"'),
        ("an escape in its description", 'description = "', 'description = "\\u001b[31m'),
        ("accuracy of 1e308", "clean_accuracy = 0.9917", "clean_accuracy = 1e308"),
    ):
        yield told, lay_text(name, text.replace(old, new, 1)), False
    yield "a file that is not an entry's", lambda: os.symlink("/etc/passwd", name), False
