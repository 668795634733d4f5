"""Published boards as a stranger may leave them: altered, malformed, or written by two at once."""

import csv
import hashlib
import io
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robusteval.boards import board
from robusteval.boards import publish as leaderboards
from robusteval.boards.scrutiny import wrong_origin
from robusteval.errors import EvidenceError
from robusteval.models.entry import Entry
from robusteval.report.rows import Row, read_rows
from tests.helpers.commands import cli, refused

BOARDS = Path(__file__).resolve().parents[2] / "leaderboards"
NAMES = sorted(path.name for path in BOARDS.glob("*.csv"))
SMALL, SISTER = "cifar10_2_Linf_8_255.csv", "cifar10_2_L2_0.5.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copies of two boards that stand for the same runs."""
    for name in (SMALL, SISTER):
        shutil.copy(BOARDS / name, tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def _entries_are_read_once() -> Iterator[None]:
    entries = leaderboards._entries()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboards, "_entries", lambda: entries)
        yield


def table(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> None:
    """As any program would."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def ranked(rows: list[Row]) -> list[Row]:
    return [{**r, "rank": str(k)} for k, r in zip(board.ranks(rows), rows, strict=True)]


def told(path: Path) -> str:
    """What ``check`` says of a board; empty where it holds."""
    (check,) = (one for one in leaderboards.check(path.parent) if one.name == path.name)
    return "" if check.held else check.told


@pytest.mark.parametrize("name", NAMES)
def test_a_seal_is_the_digest_of_the_table_without_it(name: str) -> None:
    """As pandas reads and writes it; and no option is needed to read a board."""
    text = pd.read_csv(BOARDS / name, dtype=str, keep_default_na=False)
    plain = text.drop(columns="board_sha256").to_csv(index=False, lineterminator="\n")
    expected = hashlib.sha256(plain.encode()).hexdigest()
    assert list(text["board_sha256"]) == [expected, *[""] * (len(text) - 1)]
    numbers = pd.read_csv(BOARDS / name)
    assert numbers["worst_case"].is_monotonic_decreasing
    assert (numbers["samples"] == numbers["samples"].astype(int)).all()


def last(rows: list[Row]) -> list[Row]:
    return ranked(rows[:-1])


def first(rows: list[Row]) -> list[Row]:
    """The row goes, its seal stays."""
    return ranked([{**rows[1], board.SEAL: rows[0][board.SEAL]}, *rows[2:]])


def cells(**changed: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{**row, **changed} for row in rows]


WITHOUT = {
    "the last row": last,
    "the first row": first,
    "the first row and its seal": lambda rows: ranked(rows[1:]),
    "the findings": cells(findings=""),
    "one finding": lambda rows: [{**rows[0], "findings": "suspicious: logits"}, *rows[1:]],
    "the suite": cells(suite="mine"),
    "the seed": cells(seed="7"),
    "the versions": lambda rows: [
        {**row, "versions": row["versions"].replace("torch=2.13.0+cpu", "torch=2.9.0")}
        for row in rows
    ],
    "the run": cells(run="0123abcd"),
    "the evidence's digest": cells(evidence_sha256="0" * 64),
    "the seal": cells(board_sha256=""),
    "the seal's column": lambda rows: [
        {k: v for k, v in row.items() if k != board.SEAL} for row in rows
    ],
    "a seal in every row": lambda rows: cells(board_sha256=rows[0][board.SEAL])(rows),
    "another order": lambda rows: [
        rows[0],
        *sorted(rows[1:], key=lambda row: (int(row["rank"]), row["model"]), reverse=False)[::-1],
    ],
}


@pytest.mark.parametrize("what", WITHOUT)
@pytest.mark.parametrize("name", ["mnist_L2_2.csv", "digits_Linf_0.15.csv"])
def test_what_is_altered_beside_the_seal_shows(what: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    shutil.copy(BOARDS / name, path)
    before = table(path)
    write(path, before)
    assert told(path) == ""  # so far nothing was altered
    after = WITHOUT[what](before)
    if after == before:
        pytest.skip("there is nothing of it on this board")
    write(path, after)
    assert "board_sha256" in told(path)


def resealed(path: Path, at: int, **changed: str) -> str:
    """What is said of a row that was altered by someone who seals the board anew."""
    rows = board.read_board(path)
    rows[at] |= changed
    path.write_bytes(board.as_csv(rows).encode())
    said = told(path)
    assert "board_sha256" not in said
    return said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"suite": "no name"}, "suite is not a suite's name"),
        ({"suite": "mine"}, "its suite differ from its run's on"),
        ({"seed": str(2**32)}, "seed is larger than a run's"),
        ({"seed": "1"}, "its seed differ from its run's on cifar10_2_L2_0.5.csv"),
        ({"clean": "64.60"}, "its clean differ from its run's"),
        ({"attack_magic": "60.00"}, "magic is none of full's attacks"),
        ({"findings": "all is well"}, "findings name no verdict"),
        ({"findings": "ok: logits"}, "findings name no verdict"),
        ({"findings": "suspicious: a; broken: b"}, "findings name no verdict"),
        ({"findings": "suspicious: "}, "findings name no verdict"),
        ({"eps": "16/510"}, "written otherwise"),
        ({"eps": "1e9999999999"}, "not a number as rows have them"),
        ({"eps": "8/0"}, "ε"),
        ({"norm": "L7"}, "norm"),
        ({"run": "0123abcg"}, "its run is not a digest"),
        ({"surrogate": "me"}, "its surrogate is not a model's name and digest"),
        ({"surrogate": "ce_digits 0123abcd"}, "its surrogate differ from its run's on"),
    ],
)
def test_what_is_sealed_anew_must_fit_all_the_same(
    changed: dict[str, str], said: str, folder: Path
) -> None:
    assert said in resealed(folder / SMALL, 1, **changed)


VERSIONS = "python=3.11.7 robusteval=0.1.0 torch=2.13.0+cpu attacks=489cd6ae"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("attacks=489cd6ae", "attacks=489cd6a"),
        ("attacks=489cd6ae", "attacks=489cd6aE"),
        ("attacks=489cd6ae", "attacks"),
        (" attacks=489cd6ae", ""),
        ("robusteval=0.1.0 ", ""),
        ("torch=2.13.0+cpu ", ""),
        ("torch=2.13.0+cpu", "torch=new"),
        ("torch=2.13.0+cpu", "torch=2.13.0+cpu torch=2.13.0+cpu"),
        ("python=3.11.7", "python=3.11.7 magic=1.0"),
        ("python=3.11.7", "python=3.11.7  numpy=1"),
        ("python=3.11.7", "=3.11.7"),
        ("python=3.11.7", "python=３"),
        (VERSIONS, "yes"),
    ],
)
def test_versions_are_those_of_a_run(before: str, after: str) -> None:
    row = {**table(BOARDS / SMALL)[0], "versions": VERSIONS}
    assert list(wrong_origin(row)) == []
    row["versions"] = VERSIONS.replace(before, after)
    assert list(wrong_origin(row)) == ["its versions are not those of a run"]


NO_CELLS = (
    *("nan", "inf", "1e400", "-1", "+30", "1_0", "0x10", "9" * 5000, "1e9999999999", "1e-400"),
    *(
        "٣٠",
        "３０",
        "²",
        " ",
        "30 ",
        "3\n0",
        "\x1b[31m",
        "\u2028",
        "=1+1",
        "0/0",
        "x" * 20000,
    ),
)


@pytest.mark.parametrize("column", list(table(BOARDS / SMALL)[0]))
def test_no_cell_breaks_the_check(column: str, folder: Path) -> None:
    """Nor does one that is none pass it, sealed anew or not."""
    path = folder / SMALL
    content, rows = path.read_bytes(), table(path)
    write(path, [{**rows[0], column: "nan"}, *rows[1:]])
    assert "board_sha256" in told(path)
    for cell in NO_CELLS if column != board.SEAL else ():
        path.write_bytes(content)
        assert 0 < len(resealed(path, 0, **{column: cell})) < 1500


@pytest.mark.parametrize(
    "change",
    [
        lambda c: b"\xef\xbb\xbf" + c,
        lambda c: c.replace(b"\n", b"\r\n"),
        lambda c: c.replace(b"\n", b"\r"),
        lambda c: c.replace(b"\n", b"\n\n"),
        lambda c: c.rstrip(b"\n"),
    ],
)
def test_the_same_table_in_other_bytes_holds(change: Any, folder: Path) -> None:
    path = folder / SMALL
    path.write_bytes(change(path.read_bytes()))
    assert told(path) == ""


UNREADABLE = {
    "undecodable bytes": lambda c: c.replace(b"full", b"f\xffll"),
    "UTF-16": lambda c: c.decode().encode("utf-16"),
    "an open quote": lambda c: c + b'"',
    "a longer row": lambda c: c.rstrip(b"\n") + b",1\n",
    "a shorter row": lambda c: c + b"1,2\n",
    "a doubled column": lambda c: b"rank," + c.replace(b"\n", b"\n1,")[:-2],
    "a column too many": lambda c: b"notes," + c.replace(b"\n", b"\n1,")[:-2],
    "no header": lambda c: c.split(b"\n", 1)[1],
    "a column without a name": lambda c: b"," + c.replace(b"\n", b"\n,")[:-1],
    "a cell beyond every limit": lambda c: c.replace(b"full", b"x" * 200_000),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_table_that_cannot_be_read_is_one_line_and_others_go_on(what: str, folder: Path) -> None:
    path = folder / SMALL
    path.write_bytes(UNREADABLE[what](path.read_bytes()))
    checks = {check.name: check for check in leaderboards.check(folder)}
    assert checks[SISTER].held
    assert not checks[SMALL].held
    assert str(path) in checks[SMALL].told
    (folder / SISTER).unlink()
    refused(cli("leaderboard", "check", "--folder", str(folder)), str(path))


def test_what_is_no_file_is_no_board(folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")
    (folder / "loop.csv").symlink_to("loop.csv")
    (folder / "folder.csv").mkdir()
    checks = {check.name: check.held for check in leaderboards.check(folder)}
    assert checks == {SISTER: True, SMALL: True, "loop.csv": False, "pipe.csv": False}
    with pytest.raises(EvidenceError, match=r"folder\.csv is not a file"):
        read_rows(folder / "folder.csv")


def test_an_empty_board_does_not_hold(folder: Path) -> None:
    for content in (b"", b"\n", (folder / SMALL).read_bytes().split(b"\n")[0]):
        (folder / SMALL).write_bytes(content)
        assert told(folder / SMALL) == "it holds no row: restore it, or remove it"


def test_check_is_linear_and_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the rows ask for twice the shares; an entry is asked once, however often it stands."""
    rows = table(BOARDS / SMALL)
    digest = Entry.digest.fget  # type: ignore[attr-defined]
    asked: dict[str, int] = {}

    def counts(name: str, real: Any) -> Any:
        def act(*arguments: Any) -> Any:
            asked[name] = asked.get(name, 0) + 1
            return real(*arguments)

        return act

    monkeypatch.setattr(board, "_share", counts("share", board._share))
    monkeypatch.setattr(Entry, "digest", property(counts("digest", digest)))
    shares = []
    (folder / SISTER).unlink()
    for times in (200, 400):
        asked.clear()
        (folder / SMALL).write_bytes(board.as_csv(rows * times).encode())
        said = told(folder / SMALL)
        shares.append(asked["share"])
        assert asked["digest"] <= 4
        assert "mpat_at_cifar10_2: twice" in said
        assert len(said) < 1000
    assert shares[1] == 2 * shares[0]
    worse = [{**row, "seed": "x"} for row in rows * 200]
    (folder / SMALL).write_bytes(board.as_csv(worse).encode())
    assert told(folder / SMALL).count("its seed is 'x', no count") == 4
    assert told(folder / SMALL).endswith("more")


def test_what_check_cannot_tell_is_said(folder: Path, at_terminal: Callable[[int], None]) -> None:
    at_terminal(100)
    result = cli("leaderboard", "check", "--folder", str(folder))
    assert result.exit_code == 0
    assert "A row is proven by its run alone" in " ".join(result.stdout.split())
    assert cli("leaderboard", "check", "--folder", str(folder), "--json").stdout.startswith("[")


@pytest.fixture
def without_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's rows are those of a board: runs are verified elsewhere."""
    monkeypatch.setattr(
        leaderboards, "_rows", lambda run, *_: [table(BOARDS / SMALL)[int(run.name)]]
    )
    monkeypatch.setattr(leaderboards, "_require_open_boards", lambda *_: None)


def test_a_board_whose_seal_is_broken_takes_no_row(folder: Path, without_runs: None) -> None:
    path = folder / SMALL
    write(path, table(path)[:1])
    before = path.read_bytes()
    refused(cli("leaderboard", "add", "1", "--folder", str(folder)), "board_sha256", "restore it")
    assert path.read_bytes() == before
    write(path, cells(clean="nan")(table(BOARDS / SMALL)))
    refused(cli("leaderboard", "add", "1", "--folder", str(folder)), "no number of percent")


def test_a_board_of_an_earlier_version_is_sealed_by_the_next_add(
    folder: Path, without_runs: None
) -> None:
    path = folder / SMALL
    whole = path.read_bytes()
    write(path, WITHOUT["the seal's column"](table(path)))
    assert "the next `leaderboard add` writes it" in told(path)
    assert leaderboards.add([Path("1")], folder) == [path]
    assert path.read_bytes() == whole


def test_a_broken_board_is_told_before_runs_are_verified(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spec:
        dataset = "cifar10_2"

        def threat_models(self) -> list[Any]:
            from robusteval.types import ThreatModel, parse_eps

            return [ThreatModel("L2", parse_eps("0.5")), ThreatModel("Linf", parse_eps("8/255"))]

    monkeypatch.setattr(leaderboards, "open_store", lambda _: (None, Spec(), {}))
    monkeypatch.setattr(leaderboards, "_rows", lambda *_: pytest.fail("verified"))
    write(folder / SMALL, table(folder / SMALL)[:1])
    with pytest.raises(EvidenceError, match="board_sha256"):
        leaderboards.add([Path("1")], folder)


def add_in_a_process(run: str, folder: Path, pipe: Any, waits: bool) -> None:
    """``leaderboard add``, which says when it wants the folder, and may wait within it."""
    locked, write_table = leaderboards.locked, leaderboards.write_table

    def wanted(*arguments: Any, **named: Any) -> Any:
        pipe.send("wants it")
        return locked(*arguments, **named)

    def held(*arguments: Any) -> None:
        if waits:
            pipe.send("has it")
            pipe.recv()
        write_table(*arguments)

    leaderboards.locked, leaderboards.write_table = wanted, held  # type: ignore[assignment]
    leaderboards.add([Path(run)], folder)
    os._exit(0)


def test_two_adds_at_once_lose_no_row(tmp_path: Path, without_runs: None) -> None:
    """The second wants the folder while the first has read its board, and not yet written it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = zip(*(context.Pipe() for _ in range(2)), strict=True)
    one, two = (
        context.Process(target=add_in_a_process, args=(run, tmp_path, theirs[i], run == "0"))
        for i, run in enumerate(("0", "1"))
    )
    one.start()
    assert [ours[0].recv(), ours[0].recv()] == ["wants it", "has it"]
    two.start()
    assert ours[1].recv() == "wants it"
    ours[0].send("go on")
    for process in (one, two):
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / SMALL).read_bytes() == (BOARDS / SMALL).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [SMALL]


def test_an_add_that_waits_too_long_says_so(
    tmp_path: Path, without_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboards, "_PATIENCE", 0.0)
    with leaderboards.locked(tmp_path, EvidenceError("")):
        refused(cli("leaderboard", "add", "0", "--folder", str(tmp_path)), "another process writes")


@pytest.mark.parametrize("place", ["file", "file/b", "loop", "pipe", "x" * 300, "y/" * 3000])
def test_a_folder_that_cannot_be_written_is_told_before_runs_are_verified(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(leaderboards, "_rows", lambda *_: pytest.fail("verified"))
    folder = str(tmp_path / place)
    refused(cli("leaderboard", "add", str(tmp_path), "--folder", folder), "--folder")
    assert cli("leaderboard", "check", "--folder", folder).exit_code == 2


def test_what_a_killed_add_left_is_cleared(tmp_path: Path, without_runs: None) -> None:
    (tmp_path / f".{SMALL}.77.partial").write_text("half")
    leaderboards.add([Path("0"), Path("1")], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SMALL]
    assert io.StringIO((tmp_path / SMALL).read_text()).readline().startswith("rank,")
