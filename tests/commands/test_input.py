"""Bad input: one line that says what, where and what to do; exit code 2; early."""

import hashlib
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save
from torch import nn
from typer.testing import Result

import robusteval
from robusteval import api, hardware, listing
from robusteval.catalogue import near_names
from robusteval.data.datasets import load_dataset
from robusteval.errors import (
    AttackError,
    EntryError,
    EvidenceError,
    OutputError,
    RobustevalError,
    SuiteError,
    ThreatError,
    UnknownNameError,
    WeightsError,
    reason,
    shown,
)
from robusteval.models.entry import Entry, read_entry
from robusteval.models.fitting import fill
from robusteval.models.loading import build_network, load_model
from robusteval.models.registry import (
    all_entries,
    built_in_folder,
    entry_paths,
    find_entry,
    readable_entries,
)
from robusteval.plan.suite import Suite, read_suite
from robusteval.plan.threats import threats_for
from robusteval.reading import parse_path, read_file
from robusteval.run.options import Options, check_options
from robusteval.run.precision import precision
from robusteval.schema import first_problem
from robusteval.types import ThreatModel, parse_eps, parse_number, parse_whole
from tests.helpers.commands import cli
from tests.helpers.entries import FACTORY, with_weights, write_entry
from tests.helpers.models import file_of
from tests.helpers.plugins import Install

# What schemas and Python say, which nobody asked for.
FOREIGN = ("Input should", "Extra inputs", "Field required", "Value error", "validation error")


def one_line(text: str, *said: str) -> None:
    assert text.strip()
    assert len(text.splitlines()) == 1, text
    assert len(text) < 2000
    assert not [words for words in FOREIGN if words in text], text
    for part in said:
        assert part in text


def refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("robusteval: ")
    one_line(result.stderr, *said)


def refuses(act: Callable[[], object], *said: str, kind: type[Exception] = RobustevalError) -> None:
    """One line, within a second of computing."""
    began = time.process_time()
    with pytest.raises(kind) as caught:
        act()
    assert time.process_time() - began < 1
    one_line(str(caught.value), *said)


# Numbers

NO_NUMBERS = [
    *("", " ", ",", "-", "+", ".", "e5", "1e", "0x10", "big", "nan", "inf", "-inf", "True", "None"),
    *("1e9999999999", "1e-9999999999", "1E+999999999", "1e99999999999999999999", "9" * 5000),
    *("1/" + "9" * 5000, "0." + "0" * 5000 + "1", "1e" + "9" * 5000),
    *("٣", "٣/٢٥٥", "８/255", "8/２55", "०.१", "½", "²", "Ⅷ", "1_0", "1_0/255", "1e1_0"),
    *("1/0", "0/0", "8//255", "8/255/3", "8/-255", "8/0.5", "1/1e5", "1,5", "3%", "8 / 255"),
    *("0.1\0", "0.1\x1b[31m", "8\u2044255", "−1", "0.1\u200b"),
]
NO_EPS = [
    "0",
    "-0",
    "0/255",
    "-1",
    "-8/255",
    "1e-400",
    "1e400",
    "1e308",
    "4.9e-324",
    "1/" + "9" * 90,
]


@pytest.mark.parametrize("text", NO_NUMBERS + NO_EPS, ids=range(len(NO_NUMBERS + NO_EPS)))
def test_what_is_no_eps_is_told_at_once(text: str) -> None:
    refuses(lambda: parse_eps(text), "ε", kind=ThreatError)


@pytest.mark.parametrize(
    "value", [True, None, float("nan"), float("inf"), 10**5000, [], 1e-320], ids=range(7)
)
def test_values_that_are_no_eps(value: Any) -> None:
    refuses(lambda: parse_eps(value), "ε", kind=ThreatError)


def test_numbers_are_exact() -> None:
    """Against ``Fraction``, on all that both take."""
    rng = random.Random(0)
    for _ in range(300):
        whole, part = rng.randrange(10**6), rng.randrange(1, 10**6)
        text = rng.choice(
            [f"{whole}/{part}", f"{whole}.{part}", f".{part}", f"{whole}.", f"{whole}"]
        )
        if "/" not in text:
            text += rng.choice(["", f"e{rng.randrange(-99, 99)}", f"E+{rng.randrange(99)}"])
        assert parse_number(rng.choice(["", "+", "-", " "]) + text) in (
            Fraction(text),
            -Fraction(text),
        )
    assert parse_number(0.1) == Fraction(1, 10)
    assert parse_number(np.float32(0.1)) == Fraction(1, 10)
    assert parse_number(Fraction(8, 255)) == Fraction(8, 255)
    assert [parse_whole(v) for v in ("7", "-7", 7, np.int64(7), torch.tensor(7))] == [
        7,
        -7,
        7,
        7,
        7,
    ]


@pytest.mark.parametrize("value", [*NO_NUMBERS, "1.0", "1e3", "8/255", 1.0, None, 10**18, "9" * 19])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ValueError, match="whole number") as caught:
        parse_whole(value)
    one_line(str(caught.value))


HOW_MANY = ("--samples", "--seed", "--threads", "--workers", "--batch-size", "--time-limit")


@pytest.mark.parametrize("option", HOW_MANY)
def test_numbers_on_the_command_line(option: str) -> None:
    texts = random.Random(option).sample(NO_NUMBERS[:-5], 12)
    for text in (*texts, "-1", "9" * 5000, "٣", "1e9999999999"):
        refused(cli("run", "--model", "pcl_digits", f"{option}={text}"), option)
    refused(cli("verify", "nowhere", f"--again={'9' * 5000}"), "--again")


@pytest.mark.parametrize("option", ["--eps", "--only", "--source", "--out", "--data-dir"])
@pytest.mark.parametrize("text", ["", ",", " , "])
def test_an_option_that_is_given_names_something(option: str, text: str) -> None:
    if text and option in ("--out", "--data-dir"):
        return
    refused(cli("run", "--model", "pcl_digits", f"{option}={text}"), option, "empty")
    assert not Path("runs").exists()


def test_names_are_told_apart_by_commas_and_spaces() -> None:
    result = cli(
        "run", "--model", "pcl_digits", "--suite", "quick", "--only", "fgsm, pgd", "--dry-run"
    )
    refused(result, "'pgd'", "pgd10")


def test_an_eps_beyond_the_images_diagonal() -> None:
    """8×8 grey images: 8 from corner to corner."""
    data, suite = load_dataset("digits"), read_suite("full")
    assert threats_for(suite, data, ["L2:8"])[-1].radius == 8
    refuses(lambda: threats_for(suite, data, ["L2:8.01"]), "diagonal 8 ", kind=ThreatError)
    again = [str(t) for t in threats_for(suite, data, ["0.1", "1/10", "0.10"])]
    assert again == ["Linf 0.1", "L2 0.6"], "one ε, however it is written"


# TOML


def nested(depth: int, kind: str) -> str:
    return {
        "lists": f"x = {'[' * depth}{']' * depth}\n",
        "tables": f"x = {'{a = ' * depth}1{'}' * depth}\n",
        "keys": f"x.{'.'.join('a' * depth)} = 1\n",
        "headers": f"[x.{'.'.join('a' * depth)}]\n",
    }[kind]


def files(text: str) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    """What may stand in a TOML file's place, and what is said of it."""
    for name, content, said in (
        ("utf16", text.encode("utf-16"), "UTF-16"),
        ("latin", text.encode() + b"# \xe9", "UTF-8"),
        ("nul", text.encode() + b"\0", "TOML"),
        ("long", text.encode() + b"#" * 2**20, "1,048,576 bytes"),
        ("digits", b"x = " + b"9" * 5000 + b"\n" + text.encode(), "digits"),
        ("hex", b"x = 0x" + b"f" * 5000 + b"\n" + text.encode(), "64 bits"),
        ("unquoted", text.encode() + b"\nx = 8/255", "TOML"),
        ("half", text.encode()[:-9] + b'"', "TOML"),
        *(
            (f"{kind} {depth}", (nested(depth, kind) + text).encode(), "")
            for kind in ("lists", "tables")
            for depth in (30, 5000)
        ),
        *(
            (f"{k} {d}", (text + nested(d, k)).encode(), "")
            for k in ("keys", "headers")
            for d in (30, 59, 400_000)
        ),
    ):
        yield name, lambda path, content=content: path.write_bytes(content), said
    yield "fifo", os.mkfifo, "not a regular file"
    yield "device", lambda path: path.symlink_to("/dev/zero"), "not a regular file"
    yield "folder", lambda path: path.mkdir(), "a folder"
    yield "loop", lambda path: path.symlink_to(path), "symbolic links"
    yield "gone", lambda path: path.symlink_to("nowhere"), "does not exist"


SUITE = 'name = "x"\n[[attacks]]\nname = "a"\ntitle = "A"\nlibrary = "torchattacks"\n'
SUITE += 'attack = "FGSM"\nnorms = ["Linf"]\n'


@pytest.mark.parametrize("name", [name for name, _, _ in files(SUITE)])
def test_files_that_are_no_toml(name: str, tmp_path: Path) -> None:
    entry_text = write_entry(tmp_path).read_text()
    for read, kind, text in (
        (lambda p: find_entry(str(p)), EntryError, entry_text),
        (lambda p: read_suite(str(p)), SuiteError, SUITE),
    ):
        lay, said = next((lay, said) for n, lay, said in files(text) if n == name)
        path = tmp_path / f"{kind.__name__}.toml"
        lay(path)
        refuses(lambda read=read, path=path: read(path), path.name, said, kind=kind)


NAMES = ["x" * 300, "d/" * 2500 + "x", "a\0b", os.fsdecode(b"\xff\xfe"), "a\nb", "../gone", "-x"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_no_file_has(name: str) -> None:
    for end in ("", ".toml", ".pt"):
        for read in (find_entry, read_suite, load_model_by_name):
            refuses(lambda read=read: read(name + end))  # noqa: B023 - called at once
    Options(out="fine")
    if name not in NAMES[4:]:
        refuses(lambda: Options(out=name), "out")
        refuses(lambda: Options(outlier_folders=[name]), "outlier_folders")


def load_model_by_name(name: str) -> object:
    return api.load_model(name)


def test_a_byte_order_mark_and_other_lines_ends_are_read(tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    plain, text = read_entry(path), path.read_text()
    for content in (b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode()):
        path.write_bytes(content)
        assert read_entry(path) == plain
    suite = tmp_path / "s.toml"
    suite.write_bytes(b"\xef\xbb\xbf" + SUITE.encode())
    assert read_suite(suite).name == "x"
    suite.rename(tmp_path / "S.TOML")
    assert read_suite(str(tmp_path / "S.TOML")).name == "x"


def test_without_permission(tmp_path: Path) -> None:
    path = write_entry(tmp_path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    refuses(lambda: read_entry(path), "Permission denied")


# Schemas

FULL = """
name = "tiny"
method = "ce"
dataset = "digits"
paper_training = { lr = 0.1, deep = { x = [1, 2] } }
[paper]
title = "T"
year = 2020
[input]
mean = [0.3]
std = [0.4]
[backbone]
name = "cnn6"
[head]
temperature = 1.0
[head.branch_dims]
[weights]
file = "tiny.safetensors"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
[[claims]]
attack = "pgd"
accuracy = 32
norm = "Linf"
eps = "8/255"
[training]
recipe = "ce"
epochs = 2
lr = 0.1
warmup_lr = 0.1
validation = 10
options = { weight = 1.0 }
stopping_eps = "0.1"
[training.adversarial]
attack = "pgd"
eps = ["0.1", "0.2"]
step_size = 0.5
[trained]
seed = 0
epochs = 2
best_epoch = 1
seconds = 1.5
hardware = "h"
precision = "p"
commit = "c"
date = "d"
validation_accuracy = 0.5
validation_robust = 0.5
clean_accuracy = 0.5
clean_correct = 1
clean_total = 2
"""


def full_entry() -> dict[str, Any]:
    import tomllib

    return tomllib.loads(FULL)


def full_suite() -> dict[str, Any]:
    attack = {
        "name": "a",
        "title": "A",
        "library": "torchattacks",
        "attack": "PGD",
        "norms": ["Linf"],
    }
    attack |= {"restarts": 1, "parameters": {"steps": 3, "x": 0.5}, "times_eps": {"alpha": "0.25"}}
    detection = {"detectors": ["max_logit"], "natural": 1, "attacks": ["a"]}
    threats = {"Linf": ["0.1"], "L2": ["1"]}
    return {"name": "s", "threats": threats, "attacks": [attack], "detection": detection} | {
        "diagnostics": {"samples": 4},
        "description": "d",
    }


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below a value, tables and lists, too."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, one in inner:
        yield (*place, key)
        yield from leaves(one, (*place, key))


def changed(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(content))
    at = copy
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return copy


WRONG = [
    None,
    True,
    -1,
    10**30,
    10**5000,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x\0",
    "٣",
    [],
    [[]],
    {},
    {"a": {}},
]
SCHEMAS: list[tuple[type[BaseModel], Callable[[], dict[str, Any]]]] = [
    (Entry, full_entry),
    (Suite, full_suite),
]


@pytest.mark.parametrize(("schema", "full"), SCHEMAS)
def test_every_leaf_is_taken_or_told_in_our_words(
    schema: type[BaseModel], full: Callable[[], dict[str, Any]]
) -> None:
    content, told = full(), 0
    schema.model_validate(content)
    for place in leaves(content):
        for value in WRONG:
            wrong = changed(content, place, value)
            try:
                json.dumps(schema.model_validate(wrong).model_dump(mode="json"), allow_nan=False)
            except ValueError as error:
                told += 1
                one_line(first_problem(error, schema, wrong))  # type: ignore[arg-type]
    assert told > 300


@pytest.mark.parametrize(("schema", "full"), SCHEMAS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_is_infinite(
    schema: type[BaseModel], full: Callable[[], dict[str, Any]], value: float
) -> None:
    content = full()
    for place in leaves(content):
        wrong = changed(content, place, value)
        with pytest.raises(ValueError, match=r"finite|needs") as caught:
            schema.model_validate(wrong)
        one_line(first_problem(caught.value, schema, wrong), str(place[0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[head]", "[haed]", "unknown table [haed]: did you mean [head]"),
        ("[[claims]]", "[[clams]]", "unknown table [clams]: did you mean [claims]?"),
        ("[[claims]]", "[claims]", "claims needs a list in [ ]"),
        ("temperature", "temprature", "unknown field head.temprature: did you mean temperature?"),
        ("accuracy = 32", "acuracy = 32", "unknown field claims.0.acuracy: did you mean accuracy?"),
        ("accuracy = 32", "accuracy = 320", "claims.0.accuracy must be 100.0 or less, not 320"),
        ("accuracy = 32", 'accuracy = "high"', "claims.0.accuracy needs a number, not 'high'"),
        ("epochs = 2\nlr", "epochs = 0\nlr", "training.epochs must be 1 or more, not 0"),
        ("epochs = 2\nlr", "epochs = true\nlr", "training.epochs needs a whole number, not True"),
        ("epochs = 2\nlr", "epochs = 2.5\nlr", "training.epochs needs a whole number, not 2.5"),
        ("lr = 0.1\nwarm", "lr = nan\nwarm", "training.lr needs a finite number, not nan"),
        ("lr = 0.1\nwarm", "lr = 0\nwarm", "training.lr must be above 0"),
        ("{ lr = 0.1,", "{ lr = inf,", "paper_training.lr needs a finite number, not inf"),
        ("[1, 2]", "[1, -inf]", "paper_training.deep.x.1 needs a finite number"),
        (
            "{ weight = 1.0 }",
            '{ weight = ["a"] }',
            "training.options.weight needs a number or text",
        ),
        ('method = "ce"', "", "method is missing: give it"),
        (
            'method = "ce"',
            'methud = "ce"',
            "unknown field methud: did you mean method? (and 1 more)",
        ),
        ('norm = "Linf"', 'norm = "linf"', "claims.0.norm must be 'Linf' or 'L2', not 'linf'"),
        ('eps = "8/255"', 'eps = "8 / 255"', "claims.0.eps: ε '8 / 255' is not a number"),
        ('eps = "8/255"', 'eps = "1e9999999999"', "claims.0.eps: ε '1e9999999999' is not a number"),
        ('["0.1", "0.2"]', '["0.1"]', "training.adversarial.eps.1 is missing"),
        ('["0.1", "0.2"]', '["0.1", "0.2", "0.3"]', "training.adversarial.eps takes 2 values"),
        ('["0.1", "0.2"]', '["0.1", "8"]', "training.adversarial.eps: ε 8 is larger"),
        ('stopping_eps = "0.1"', 'stopping_eps = "8"', "training.stopping_eps: ε 8 is larger"),
        ('name = "tiny"', 'name = "../tiny"', "name: takes a-z"),
        ('name = "tiny"', f'name = "{"x" * 200}"', "name: has 200 characters"),
        ('name = "tiny"', 'name = "tiny"\npath = "x"', "unknown field path"),
        ("std = [0.4]", "std = [1e-320]", "input: mean and std"),
        ("temperature = 1.0", "temperature = 1e-320", "head.temperature must be 1e-06 or more"),
        ("[head.branch_dims]", "[head.branch_dims]\nfc1 = 0", "head.branch_dims.fc1 must be 1 or"),
        ("mean = [0.3]", 'mean = "0.3"', "input.mean needs a list in [ ], not '0.3'"),
        ('sha256 = "0', 'sha256 = "g', "weights.sha256: needs 64 hex digits"),
        (
            "seed = 0",
            "seed = 99999999999999999999",
            "trained.seed is a whole number beyond 64 bits",
        ),
        ('title = "T"', 'title = "\\u0000"', "paper.title holds a NUL character"),
    ],
)
def test_what_a_schema_refuses_is_told_in_our_words(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.toml"
    assert FULL.count(old) >= 1
    path.write_text(FULL.replace(old, new, 1))
    refuses(lambda: read_entry(path), f"{path}: {said}", kind=EntryError)


def test_an_eps_may_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(
        FULL.replace('eps = "8/255"', "eps = 0.15").replace('["0.1", "0.2"]', "[0.1, 1]")
    )
    entry = read_entry(path)
    assert entry.claims[0].eps == "0.15"
    assert entry.training is not None
    assert entry.training.adversarial is not None
    assert entry.training.adversarial.eps == ("0.1", "1")
    suite = Suite.model_validate(changed(full_suite(), ("threats", "Linf", 0), 0.15))
    assert suite.threats["Linf"] == ["0.15"]
    assert Suite(**json.loads(json.dumps(suite.model_dump()))) == suite, "as a run's record has it"


def test_dates_are_kept_as_text(tmp_path: Path) -> None:
    """TOML has dates; a record in JSON says the same as the entry."""
    path = tmp_path / "tiny.toml"
    path.write_text(FULL.replace("lr = 0.1, deep", "on = 2020-01-02, lr = 0.1, deep"))
    plain = read_entry(path).model_dump(mode="json")
    assert Entry(**json.loads(json.dumps(plain))).model_dump(mode="json") == plain


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("stem = 16", "has no option 'stem': it takes widths, hidden, kernel_size"),
        ("kernel_size = true", "kernel_size needs a whole number from 1"),
        ("kernel_size = -1", "kernel_size needs a whole number"),
        ("kernel_size = [3]", "kernel_size needs a whole number"),
        ('widths = "abc"', "widths needs a list"),
        ("widths = 3", "widths needs a list"),
        (f"widths = {[4] * 500}", "widths needs a list of at most 200"),
        ("widths = [0]", "widths needs a list"),
        ("hidden = [4000000000000, 2]", "hidden needs a list"),
        ("hidden = [8]", "too few values"),
        (
            "widths = [65536, 65536]",
            "widths needs a list of at most 200 whole numbers from 1 to 4096",
        ),
    ],
)
def test_networks_that_nobody_could_build(options: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(FULL.replace('name = "cnn6"', f'name = "cnn6"\n{options}'))
    entry = read_entry(path)
    refuses(lambda: build_network(entry), str(path), said, kind=EntryError)


def test_a_network_of_thousands_of_blocks(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(FULL.replace('"cnn6"', '"resnet_small"\nblocks = [4000, 1, 1]'))
    entry = read_entry(path)
    refuses(lambda: build_network(entry), "4002 blocks, 1000 at most", kind=EntryError)


# The registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "models"
    place.mkdir()
    monkeypatch.setenv("ROBUSTEVAL_MODELS", str(place))
    return place


@pytest.mark.parametrize("name", ["hex", "tables 5000", "fifo", "loop"])
def test_one_bad_file_is_told_and_the_others_go_on(name: str, folder: Path) -> None:
    lay = next(lay for n, lay, _ in files(SUITE) if n == name)
    lay(folder / "bad.toml")
    rows = listing.models(None)
    assert any("bad.toml" in row.get("problem", "") for row in rows)
    assert any(row["name"] == "pcl_digits" for row in rows)
    Path("boards").mkdir()
    board = built_in_folder().parent / "leaderboards" / "mnist_L2_2.csv"
    Path("boards", board.name).write_bytes(board.read_bytes())
    checked = cli("leaderboard", "check", "--folder", "boards")
    assert checked.exit_code == 0
    one_line(checked.stderr, "bad.toml")
    assert find_entry("pcl_digits").name == "pcl_digits"


def test_a_run_with_diagnostics_goes_on_beside_a_bad_file(folder: Path) -> None:
    (folder / "bad.toml").write_text("= 3")
    unknown = file_of("ce_digits.toml").read_text()
    unknown = unknown.replace('"ce_digits"', '"other"').replace('"digits"', '"nothing"')
    (folder / "other.toml").write_text(unknown)
    Path("s.toml").write_text(f"{SUITE}[diagnostics]\nsamples = 4\n")
    result = cli("run", "--model", "pcl_digits", "--suite", "s.toml", "--samples", "10")
    assert result.exit_code == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("robusteval: ")]
    assert len(told) == 2
    assert "bad.toml" in told[0]
    assert "unknown data set 'nothing'" in told[1]


def test_a_source_that_cannot_be_loaded_gives_way_to_the_next(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = file_of("ce_digits.toml").read_text()
    (folder / "a_digits.toml").write_text(text.replace('"ce_digits"', '"a_digits"'))
    (folder / "ce_digits.safetensors").write_bytes(b"no weights")
    from robusteval.run.prepare import prepare
    from robusteval.run.subject import Asked

    with caplog.at_level(logging.WARNING, "robusteval"):
        prepared = prepare(Asked("pcl_digits"), "quick", Options(samples=10))
    assert prepared.spec.transfer_source[0] == "ce_digits"
    assert "a_digits is not a source for the diagnostics: weights" in caplog.text


def test_folders_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    wrong = [str(tmp_path / "no"), str(tmp_path / "file"), "x" * 300, str(tmp_path / "loop")]
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("ROBUSTEVAL_MODELS", os.pathsep.join(wrong))
    assert "pcl_digits" in entry_paths()
    assert len(caplog.records) == len(wrong)
    problems = [str(e) for e in all_entries() if not isinstance(e, Entry)]
    for place, problem in zip(wrong, problems, strict=True):
        one_line(problem, place, "$ROBUSTEVAL_MODELS")
    result = cli("list", "models", "--json")
    assert sum(row["name"] == "(broken)" for row in json.loads(result.stdout)) == len(wrong)


def test_a_name_that_two_folders_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_entry(tmp_path / place, "mine")
    folders = os.pathsep.join(str(tmp_path / place) for place in ("a", "b"))
    monkeypatch.setenv("ROBUSTEVAL_MODELS", folders)
    assert find_entry("mine").path == tmp_path / "a" / "mine.toml"
    (problem,) = [str(e) for e in all_entries() if not isinstance(e, Entry)]
    one_line(problem, str(tmp_path / "b" / "mine.toml"), "is not used")


def test_hidden_files_are_no_entries(folder: Path) -> None:
    (folder / "._mine.toml").write_bytes(b"\0\5\26\7")
    assert all(isinstance(entry, Entry) for entry in all_entries())


def test_a_package_of_entries_that_leads_nowhere(
    install: Install, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "site" / "raising_package").mkdir()
    (tmp_path / "site" / "raising_package" / "__init__.py").write_text("raise OSError('no disk')\n")
    points = {"a": "no_such_package", "b": "raising_package.inner"}
    install("odd-package", "1.0", {"models": points}, {})
    assert "pcl_digits" in {entry.name for entry in readable_entries()}
    assert len(caplog.records) == 2
    assert "no disk" in caplog.text
    assert all("odd-package" in record.message for record in caplog.records)


# What isn't an entry


@pytest.mark.parametrize(
    "name", ["cnn.pt", "x/model.pth", "a.CKPT", "weights.safetensors", "m.onnx"]
)
def test_a_checkpoint_is_no_entry(name: str) -> None:
    refused(cli("run", "--model", name), name, "is a checkpoint", "wrap_module", "docs/entry.md")


def test_other_things_that_are_no_entries(tmp_path: Path) -> None:
    refused(cli("run", "--model", "net.py"), "factory")
    refused(cli("show", f"{tmp_path}/"), "a folder")
    (tmp_path / "x.yaml").touch()
    refused(cli("show", str(tmp_path / "x.yaml")), "not a TOML file")
    refused(cli("run", "--model", "pcl_digits", "--suite", f"{tmp_path}/"), "not a TOML file")


def test_far_names_are_not_listed() -> None:
    refused(cli("run", "--model", "resnet50"), "robusteval list models", "none is like it")
    refused(
        cli("run", "--model", "pcl_digits", "--suite", "quick", "--only", "adaptive"),
        "it is in full",
    )
    assert near_names("x" * 10**6, ["pcl"]) == "known: pcl"


# Options


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"eps": 0.1}, {"eps": ("0.1",)}),
        (
            {"eps": [0.1, "8/255", Fraction(4, 255), np.float32(0.5)]},
            {"eps": ("0.1", "8/255", "4/255", "0.5")},
        ),
        ({"eps": 1}, {"eps": ("1",)}),
        ({"samples": "100"}, {"samples": 100}),
        ({"samples": "all"}, {"samples": None}),
        ({"samples": np.int64(5)}, {"samples": 5}),
        ({"time_limit": "60"}, {"time_limit": 60.0}),
        ({"time_limit": 60}, {"time_limit": 60.0}),
        ({"only": None, "sources": "ce_digits"}, {"only": (), "sources": ("ce_digits",)}),
        ({"device": torch.device("cpu")}, {"device": "cpu"}),
        ({"outlier_folders": "x", "out": "y"}, {"outlier_folders": (Path("x"),), "out": Path("y")}),
    ],
)
def test_options_are_taken_in_every_form_that_is_clear(
    given: dict[str, Any], meant: dict[str, Any]
) -> None:
    options = Options(**given)
    for name, value in meant.items():
        assert getattr(options, name) == value
        assert type(getattr(options, name)) is type(value)


MANY = [
    True,
    "x\0",
    b"x",
    [],
    {},
    {"a": 1},
    object(),
    0.5,
    -1,
    10**5000,
    "٣",
    float("nan"),
    [[1]],
    "",
    3j,
]


# Objects of the caller's: what they are is seen when they are used.
OBJECTS = ("progress", "fit_images")


@pytest.mark.parametrize("name", [n for n in Options.__dataclass_fields__ if n not in OBJECTS])
def test_every_option_of_a_wrong_kind_is_one_line(name: str) -> None:
    """Taken, or refused when it is given, when it is checked, or when a threat is made of it."""
    told = 0
    for value in MANY:
        try:
            options = Options(**{name: value})
            check_options(options)
            threats_for(read_suite("quick"), load_dataset("digits"), list(options.eps))
        except RobustevalError as error:
            told += 1
            one_line(str(error))
    assert told >= (1 if name in ("download", "allow_code", "at_most") else 4)


def test_what_runs_code_takes_no_word_for_yes() -> None:
    refuses(lambda: Options(allow_code="no"), "allow_code", "True or False")  # type: ignore[arg-type]


# The machine


def test_threads_and_workers_are_bounded() -> None:
    for option in ("--threads", "--workers"):
        refused(cli("run", "--model", "pcl_digits", option, "100000"), option, "on this machine")
    check_options(Options(threads=hardware.most_threads(), workers=hardware.most_workers()))
    refused(cli("run", "--model", "pcl_digits", "--batch-size", "1000000"), "--batch-size")


def test_a_spec_of_a_larger_machine_does_not_kill_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for threads in (100_000, 2, 0):
        spec = type("Spec", (), {"threads": threads})()
        with precision(spec):  # type: ignore[arg-type]
            pass
    assert asked[0::2] == [hardware.most_threads(), 2, 1]


@pytest.mark.parametrize(
    "device", ["gpu", "", "meta", "cpu:1", "cuda:99", "CPU", "cuda:-1", "x" * 500, "\0", "cpu\n"]
)
def test_unknown_devices_are_told_with_those_there_are(device: str) -> None:
    refuses(lambda: hardware.check_device(device), "choose cpu", kind=UnknownNameError)
    if not torch.cuda.is_available():
        with pytest.raises(UnknownNameError) as caught:
            hardware.check_device("gpu")
        assert "cuda" not in str(caught.value), "none is advised where there is none"


def test_low_memory_never_advises_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither evidence nor weights."""
    Path("s.toml").write_text(SUITE)
    report = api.evaluate("pcl_digits", "s.toml", options=Options(samples=5, out=tmp_path))

    def none_left(self: Path) -> bytes:
        raise MemoryError

    path = with_weights(tmp_path)
    entry = read_entry(path)
    monkeypatch.setattr(Path, "read_bytes", none_left)
    for act, kind in (
        (lambda: load_model(entry), WeightsError),
        (lambda: api.rebuild_report(report.folder), EvidenceError),
    ):
        with pytest.raises(kind, match="memory") as caught:  # type: ignore[arg-type]
            act()
        assert "delete" not in str(caught.value)
        assert "corrupt" not in str(caught.value)


def test_a_pipe_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[OSError] = []

    def read() -> None:
        try:
            read_file(tmp_path / "pipe")
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert found[0].strerror == "it is not a regular file"


@pytest.mark.parametrize("value", ["", "a\0b", "x" * 256, "é" * 200, "d/" * 2048, b"x", 3, None])
def test_paths_that_none_can_be(value: object) -> None:
    with pytest.raises(ValueError, match=r"path|name") as caught:
        parse_path(value)
    one_line(str(caught.value))
    assert parse_path("x" * 255 + "/y") == Path("x" * 255, "y")


# Factories


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise SystemExit(0)", "SystemExit"),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise ValueError('a\\nb' * 1000)", "ValueError: a"),
        ("raise ValueError('\\udcff')", "udcff"),
        ("raise type('Odd', (Exception,), {'__str__': lambda s: 1 / 0})", "Odd"),
        ("import no_such_module", "no_such_module"),
        ("return 3", "no torch module but 3"),
        ("return nn.Flatten", "no torch module but <class"),
        ("return [][0]", "IndexError"),
    ],
)
def test_whatever_a_factory_does_is_one_line(body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "makers.py").write_text(f"from torch import nn\ndef make():\n    {body}\n")
    path = tmp_path / "foreign.toml"
    path.write_text(FACTORY.replace("torch.nn:Flatten", "makers:make"))
    refused(
        cli("run", "--model", str(path), "--allow-code", "--suite", "quick"), "makers:make", said
    )


@pytest.mark.parametrize(
    "factory",
    [
        "",
        ":",
        "makers",
        "makers:",
        ":make",
        ".x:make",
        "a b:c",
        "no_such:make",
        "torch.nn:Flatten.x",
    ],
)
def test_factories_that_lead_nowhere(factory: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.toml"
    path.write_text(FACTORY.replace("torch.nn:Flatten", factory))
    refuses(lambda: load_model(read_entry(path), allow_code=True), kind=EntryError)


def test_a_factory_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "makers.py").write_text("def make(a):\n    pass\nvalue = 3\n")
    path = tmp_path / "foreign.toml"
    for factory, said in (
        ("makers", 'names no function: write factory = "module:function"'),
        ("makers:mak", "no function 'mak': did you mean make?"),
        ("makers:value", "no function 'value'"),
        ("makers:make", "takes arguments"),
    ):
        path.write_text(FACTORY.replace("torch.nn:Flatten", factory))
        entry = read_entry(path)
        refuses(lambda entry=entry: load_model(entry, allow_code=True), said, kind=EntryError)


def test_each_entry_gets_its_own_module(tmp_path: Path) -> None:
    """Of the same name, from another folder, and with a helper of the same name beside it."""
    paths = []
    for value in (1.0, 2.0):
        place = tmp_path / str(value)
        place.mkdir()
        (place / "helper_beside.py").write_text(f"VALUE = {value}\n")
        (place / "makers.py").write_text(
            "import helper_beside\nfrom torch import nn\nclass Net(nn.Module):\n"
            "    def forward(self, x):\n        return x.flatten(1)[:, :10] * helper_beside.VALUE\n"
            "def make():\n    return Net()\n"
        )
        paths.append(place / "foreign.toml")
        text = FACTORY.replace("torch.nn:Flatten", "makers:make").replace("classes = 64\n", "")
        paths[-1].write_text(text)
    image, before = torch.rand(1, 1, 8, 8), set(sys.path)
    models = [load_model(read_entry(path), allow_code=True) for path in (*paths, paths[0])]
    for model, value in zip(models, (1.0, 2.0, 1.0), strict=True):
        assert torch.equal(model(image), image.flatten(1)[:, :10] * value)
    assert set(sys.path) == before


def test_a_module_beside_an_entry_may_have_the_name_of_another(tmp_path: Path) -> None:
    """Such as one of the standard library, which stays what it was."""
    (tmp_path / "colorsys.py").write_text("from torch import nn\nmake = nn.Flatten\n")
    import colorsys

    path = tmp_path / "foreign.toml"
    path.write_text(FACTORY.replace("torch.nn:Flatten", "colorsys:make"))
    assert isinstance(load_model(read_entry(path), allow_code=True), nn.Module)
    assert sys.modules["colorsys"] is colorsys


def test_what_a_factory_prints_is_no_output_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "makers.py").write_text(
        "print('loading')\nfrom torch import nn\n"
        "def make():\n    print('made')\n    return nn.Flatten()\n"
    )
    path = tmp_path / "foreign.toml"
    path.write_text(FACTORY.replace("torch.nn:Flatten", "makers:make"))
    load_model(read_entry(path), allow_code=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split() == ["loading", "made"]


# Early trials


class Shaped(nn.Module):
    def __init__(self, change: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: torch.Tensor) -> object:
        return self.change(images.flatten(1)[:, :10])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.squeeze(), "squeeze"),
        (lambda x: x[:, :9], "(1, 9)"),
        (lambda x: x.argmax(1), "torch.int64"),
        (lambda x: x > 0, "torch.bool"),
        (lambda x: x.to(torch.complex64), "torch.complex64"),
        (lambda x: x.sum(1), "(1,)"),
        (lambda x: x[:, None], "(1, 1, 10)"),
        (lambda x: x @ torch.zeros(3, 3), "shapes"),
        (lambda x: list(x)[1], "index"),
    ],
)
def test_a_model_is_tried_on_one_image_before_anything_runs(
    change: Callable[[torch.Tensor], object], said: str
) -> None:
    model = robusteval.wrap_module(Shaped(change), classes=10)
    for verb in (api.evaluate, api.estimate):
        with pytest.raises(AttackError) as caught:
            verb(model, "quick", dataset="digits", name="m", options=Options(samples=20))
        one_line(str(caught.value), said)
    assert not Path("runs").exists()


def test_a_source_is_tried_before_anything_runs(folder: Path) -> None:
    text = file_of("ce_digits.toml").read_text().replace('"ce_digits"', '"lame"')
    (folder / "lame.toml").write_text(text)
    refused(cli("run", "--model", "pcl_digits", "--suite", "quick", "--source", "lame"), "weights")
    assert not Path("runs").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_are_finite(value: float, tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    entry = read_entry(path)
    tensors = load_file(entry.weights_path)
    name = sorted(tensors)[0]
    tensors[name][0] = value
    content = save(tensors)
    entry.weights_path.write_bytes(content)
    old = str(entry.weights and entry.weights.sha256)
    path.write_text(path.read_text().replace(old, hashlib.sha256(content).hexdigest()))
    with pytest.raises(WeightsError) as caught:
        load_model(read_entry(path))
    one_line(str(caught.value), "NaN or infinity", name)


def test_weights_that_do_not_fit_are_told_whole() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    own = module.state_dict()
    some = {k: v for k, v in own.items() if int(k.partition(".")[0]) < 2}
    for given, said in (
        (some, ("20 of 24 lacking: 10.bias (2,), 10.weight (2, 2), 11.bias (2,) and 17 more",)),
        ({**own, "new": torch.zeros(3, 1)}, ("1 of 25 unknown: new (3, 1)",)),
        ({**own, "0.bias": torch.zeros(5)}, ("of another shape: 0.bias is (5,), not (2,)",)),
        ({f"module.{k}": v for k, v in own.items()}, ("without 'module.' (DataParallel)",)),
        ({f"_orig_mod.{k}": v for k, v in own.items()}, ("'_orig_mod.'",)),
    ):
        refuses(lambda given=given: fill(module, given, Path("w")), *said, kind=WeightsError)
    fill(module, own, Path("w"))


# Words


def test_values_and_errors_are_shown_in_one_short_line() -> None:
    for value in ("a" * 1000, 10**5000, "a\nb", "\udcff", UnsayableError(), b"\xff", object()):
        assert len(shown(value)) <= 80
        one_line(shown(value))
    assert reason(ValueError("a\nb")) == "a"
    assert reason(ValueError("")) == "ValueError"
    assert reason(UnsayableError()) == "UnsayableError"
    one_line(str(RobustevalError("a\nb \udcff c\u2028d")))


def test_usage_errors_are_one_line() -> None:
    for arguments in (
        ["run"],
        ["run", "--modle", "x"],
        ["rnu"],
        ["show"],
        ["run", "--seed"],
        ["x" * 10**5],
        ["list", "a", "b"],
    ):
        refused(cli(*arguments), "--help")
    assert "Commands:" in cli().output
    assert ThreatModel("L2", parse_eps("0.5")).radius == 0.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: api.evaluate("ce_digits", options=0),  # type: ignore[arg-type]
        lambda: api.estimate("ce_digits", options="quick"),  # type: ignore[arg-type]
        lambda: api.estimate("ce_digits", []),  # type: ignore[arg-type]
        lambda: api.load_model(["ce_digits"]),  # type: ignore[arg-type]
        lambda: api.train(7),  # type: ignore[arg-type]
        lambda: api.rebuild_report(1.5),  # type: ignore[arg-type]
        lambda: api.verify(None),  # type: ignore[arg-type]
        lambda: api.compare([1.5, 2]),  # type: ignore[list-item]
    ],
)
def test_arguments_of_a_wrong_kind_are_told(call: Callable[[], object]) -> None:
    refuses(call)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("spec", "threads"), 10**6, "threads must be 1024 or less, not 1000000"),
        (("spec", "magic"), 1, "unknown field magic"),
        (("provenance", "versions", "torch"), "<b>", "provenance.versions.torch doesn't fit"),
        (("provenance", "date"), "2026-99-99", "provenance.date"),
        (("model", "classes"), "ten", "model.classes needs a whole number, not 'ten'"),
    ],
)
def test_a_malformed_record_is_told_in_our_words(
    place: tuple[str, ...], value: object, said: str, tmp_path: Path
) -> None:
    report = api.evaluate(
        "ce_digits", "quick", options=Options(samples=3, only=("fgsm",), out=tmp_path)
    )
    path = report.folder / "run.json"
    record = json.loads(path.read_text("utf-8"))
    table = record
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value
    path.write_text(json.dumps(record), "utf-8")
    refuses(lambda: api.rebuild_report(report.folder), said, kind=EvidenceError)


def test_a_report_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    """Nothing is removed before it is known that all can be written."""
    options = Options(samples=3, only=("fgsm",), out=tmp_path)
    folder = api.evaluate("ce_digits", "quick", options=options).folder
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    refuses(lambda: api.rebuild_report(folder), "report.html", kind=OutputError)
    assert (folder / "report.json").is_file()
