"""A run in one file: the same bytes each time, its folder's verdicts, and no other zip."""

import json
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import robusteval
from benchmarks.blocks import FGSM, PGD_3
from robusteval import api
from robusteval.boards import publish
from robusteval.errors import BusyError, EvidenceError, OutputError
from robusteval.evidence import archive
from robusteval.evidence.archive import Archive
from robusteval.evidence.files import Local
from robusteval.evidence.located import files_at
from robusteval.evidence.store import Store
from robusteval.evidence.zips import entry_of
from tests.helpers.commands import cli, refused
from tests.helpers.forging import change_rows, images_file, rows_file
from tests.helpers.runs import options

OLDER = Path(__file__).parent / "older" / "schema_2"

TWO = (
    """
name = "two"
"""
    + FGSM
    + PGD_3
    + """
[detection]
detectors = ["max_logit"]
attacks = ["pgd"]
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    (out / "two.toml").write_text(TWO)
    asked = options(out, samples=12, batch_size=10)
    return api.evaluate("pcl_digits", out / "two.toml", options=asked).folder


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return robusteval.export(folder, "archive", tmp_path_factory.mktemp("packed"))


def verdicts(run: Path, **options: Any) -> list[dict[str, Any]]:
    """Every check, as JSON; the run's own place in what is told is left out."""
    told = json.dumps([check.to_json() for check in api.verify(run, **options)])
    found: list[dict[str, Any]] = json.loads(told.replace(str(run), "RUN"))
    return found


# What it is


def test_it_is_a_plain_zip_of_the_run(folder: Path, packed: Path) -> None:
    (folder / "workers.log").write_text("of this machine")
    try:
        again = api.export(folder, "archive", "again.zip")
    finally:
        (folder / "workers.log").unlink()
    assert packed.name == f"{folder.name}.zip"
    with zipfile.ZipFile(packed) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        assert names == sorted(names)
        kept = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert set(names) == kept - {".lock"}
        assert all(opened.read(name) == (folder / name).read_bytes() for name in names)
        assert {i.date_time for i in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert again.read_bytes() == packed.read_bytes()
    assert api.export(packed, "archive", "third.zip").read_bytes() == packed.read_bytes()


def test_other_times_and_modes_change_nothing(folder: Path, packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile))
    (copy / "run.json").chmod(0o600)
    assert api.export(copy, "archive", "b.zip").read_bytes() == packed.read_bytes()


def test_it_reads_as_its_folder(folder: Path, packed: Path) -> None:
    local, one = Local(folder), Archive(packed)
    assert one.names("evidence") == local.names("evidence")
    assert one.names("nowhere") == []
    for name in ("run.json", "row.csv", "evidence/nothing", "workers.log"):
        assert (one.has(name), one.size(name)) == (local.has(name), local.size(name))
    assert one.read("row.csv") == local.read("row.csv")
    with pytest.raises(FileNotFoundError):
        one.read("evidence/nothing")
    assert one.where("run.json") == f"{packed}/run.json"


def test_nothing_is_written_into_it(packed: Path) -> None:
    one, before = Archive(packed), packed.read_bytes()
    tries: list[Callable[[], Any]] = [
        lambda: one.write("run.json", b"", ""),
        lambda: one.create("evidence/x", b"", ""),
        lambda: one.remove("run.json", ""),
        lambda: one.require_replaceable("run.json", ""),
        lambda: one.prepare("", ""),
        lambda: one.lock(EvidenceError("")).__enter__(),
        lambda: one.remove_all(""),
    ]
    for write in tries:
        with pytest.raises(OutputError, match="stays as it is: unpack it first"):
            write()
    assert packed.read_bytes() == before


# Every verb that reads a run reads it


def test_verify_says_the_same(folder: Path, packed: Path) -> None:
    assert verdicts(packed) == verdicts(folder)
    result = cli("verify", str(packed), "--again", "1")
    assert result.exit_code == 0, result.output
    assert "jobs done again" in result.stdout


def test_a_report_is_printed_and_not_written(folder: Path, packed: Path) -> None:
    before = packed.read_bytes()
    of_folder, of_archive = (cli("report", str(run)) for run in (folder, packed))
    assert of_archive.exit_code == of_folder.exit_code == 0
    assert of_archive.stdout.splitlines()[-1] == str(packed)
    assert of_archive.stdout.splitlines()[:-1] == of_folder.stdout.splitlines()[:-1]
    report = api.rebuild_report(packed)
    assert report.content == api.rebuild_report(folder).content
    assert (report.page, report.folder) == (packed, packed)
    assert report.samples.equals(api.rebuild_report(folder).samples)
    assert packed.read_bytes() == before


def test_it_is_compared_and_exported(folder: Path, packed: Path) -> None:
    (pair,) = api.compare([folder, packed])["pairs"]
    assert (pair["first"], pair["second"]) == (folder.name, packed.name)
    assert all(row["difference"] == 0 for row in pair["rows"])
    tables = [api.export(run, "parquet", f"{n}.parquet") for n, run in enumerate((folder, packed))]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_a_leaderboard_takes_it(
    folder: Path, packed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where so few samples, and this suite, would do."""
    monkeypatch.setattr(publish, "lacking", lambda *_: [])
    monkeypatch.setattr(publish, "fewest", lambda _: 1)
    monkeypatch.setattr(publish, "_unfit", lambda *_: [])
    boards = [tmp_path / name for name in ("a", "b")]
    for run, board in zip((folder, packed), boards, strict=True):
        assert publish.add([run], board)
    texts = [{p.name: p.read_bytes() for p in board.iterdir()} for board in boards]
    assert texts[0] == texts[1]
    assert texts[0]


def test_a_run_of_an_earlier_version_is_read_from_one(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(OLDER, tmp_path / "older"))
    report = api.rebuild_report(copy).content
    assert api.rebuild_report(api.export(copy, "archive")).content == report


# Forgeries are found as in a folder


def change_images(folder: Path) -> None:
    path = images_file(folder)
    arrays = load_file(path)
    arrays["images"] = arrays["images"].copy()
    arrays["images"][0, 0, 0, 0] ^= 1
    save_file(arrays, path, {"job": path.stem})


def first(folder: Path, pattern: str) -> Path:
    return sorted((folder / "evidence").glob(f"{pattern}.parquet"))[0]


def worse(values: np.ndarray) -> np.ndarray:
    return ~values


FORGERIES: dict[str, Callable[[Path], Any]] = {
    "rows": lambda run: change_rows(rows_file(run), fooled=worse),
    "labels": lambda run: change_rows(rows_file(run, "pgd"), label=lambda v: (v + 1) % 10),
    "images": change_images,
    "margins": lambda run: change_rows(rows_file(run), margin=lambda v: v * 2),
    "clean": lambda run: change_rows(first(run, "clean-*"), gap=lambda v: v + 1),
    "a stranger": lambda run: (run / "evidence" / "x").touch(),
    "half a file": lambda run: rows_file(run).write_bytes(rows_file(run).read_bytes()[:900]),
    "the report": lambda run: (run / "report.md").write_text("better"),
    "the report, gone": lambda run: (run / "report.md").unlink(),
    "the record": lambda run: (run / "run.json").write_text(
        (run / "run.json").read_text("utf-8").replace('"seed": 0', '"seed": 1'), "utf-8"
    ),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_a_forgery_is_found_as_in_a_folder(how: str, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    FORGERIES[how](copy)
    of_folder = verdicts(copy)
    of_archive = verdicts(api.export(copy, "archive", "forged.zip"))
    assert of_archive == of_folder
    failed = [check["name"] for check in of_folder if not check["held"]]
    assert failed, "the forgery is seen at all"


@pytest.mark.parametrize("name", ["run.json", "evidence", "evidence/verification.json"])
def test_what_is_gone_is_missed(name: str, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    whole = altered(api.export(copy, "archive", "whole.zip"), lambda entries: strike(entries, name))
    if name == "run.json":
        refused(cli("verify", str(whole)), "is not a run")
    else:
        assert cli("verify", str(whole)).exit_code == 1


# No other zip


def entries_of(path: Path) -> dict[str, tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(path) as opened:
        return {info.filename: (info, opened.read(info)) for info in opened.infolist()}


Entries = list[tuple[zipfile.ZipInfo, bytes]]


def altered(path: Path, change: Callable[[Entries], Entries]) -> Path:
    """Another archive, of what ``change`` makes of the entries of this one."""
    other = path.with_name(f"altered-{path.name}")
    with zipfile.ZipFile(other, "w") as made:
        for info, content in change(list(entries_of(path).values())):
            made.writestr(info, content, info.compress_type)
    return other


def strike(entries: Entries, name: str) -> Entries:
    return [(i, c) for i, c in entries if not i.filename.startswith(name)]


def more(
    name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644, packed: int = 0
) -> Any:
    """One entry more."""

    def change(entries: Entries) -> Entries:
        info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        info.create_system, info.external_attr = 3, mode << 16
        info.compress_type = packed
        return [*entries, (info, content)]

    return change


STRANGE = {
    "an absolute name": (more("/etc/passwd"), "'/etc/passwd'"),
    "a way up": (more("evidence/../../x"), "'evidence/../../x'"),
    "up": (more("evidence/.."), "'evidence/..'"),
    "a backslash": (more("evidence\\x"), r"'evidence\\x'"),
    "a drive": (more("C:/x"), "'C:/x'"),
    "a folder": (more("evidence/", b""), "'evidence/'"),
    "deeper": (more("evidence/a/b"), "'evidence/a/b'"),
    "another file": (more("run.py"), "'run.py'"),
    "a log": (more("workers.log"), "'workers.log'"),
    "an escape": (more("evidence/\x1b[31m"), "x1b"),
    "a link": (
        more("evidence/x", b"/etc/passwd", stat.S_IFLNK | 0o777),
        "evidence/x is not a file",
    ),
    "a device": (more("evidence/x", b"", stat.S_IFCHR | 0o777), "evidence/x is not a file"),
    "a mode of nothing": (more("evidence/x", b"", 0), "evidence/x is not a file"),
    "packed": (
        more("evidence/x", b"0" * 10**6, packed=zipfile.ZIP_DEFLATED),
        "evidence/x is packed",
    ),
    "bzip2": (more("evidence/x", b"0" * 10**6, packed=zipfile.ZIP_BZIP2), "evidence/x is packed"),
    "twice": (more("run.json"), "a file twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", STRANGE)
def test_what_no_run_has_is_refused(how: str, packed: Path, tmp_path: Path) -> None:
    change, told = STRANGE[how]
    other = altered(Path(shutil.copy(packed, tmp_path)), change)
    for verb in ("verify", "report"):
        result = cli(verb, str(other))
        refused(result, "is not an archive of a run", told)
    with pytest.raises(EvidenceError, match="is not an archive of a run"):
        api.compare([packed, other])


def test_it_can_not_swell(packed: Path, tmp_path: Path) -> None:
    """Entries that lie upon one another, as in a bomb."""
    content, bomb = b"\0" * 100_000, tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w") as made:
        first = entry_of("evidence/x")
        made.writestr(first, content)
        for number in range(20):
            other = entry_of(f"evidence/{number}")
            other.header_offset, other.CRC = first.header_offset, first.CRC
            other.file_size = other.compress_size = len(content)
            made.filelist.append(other)
            made.NameToInfo[other.filename] = other
    refused(cli("verify", str(bomb)), "more than it has")


def test_there_is_a_most_of_files(
    folder: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_FILES", 5)
    refused(cli("verify", str(packed)), "lists more than 5 files")
    refused(cli("export", str(folder), "--as", "archive"), "more than 5 files")
    assert list(Path.cwd().iterdir()) == []
    monkeypatch.setattr(archive, "MOST_FILES", 100)
    monkeypatch.setattr(archive, "_MOST_DIRECTORY", 50)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # asked before anything is parsed
    refused(cli("verify", str(packed)), "lists more than 100 files")


def test_half_of_it_is_none(packed: Path, tmp_path: Path) -> None:
    content, part = packed.read_bytes(), tmp_path / "part.zip"
    lengths = random.Random(0).sample(range(len(content)), 60)
    for length in (0, 1, 21, 22, len(content) - 1, *lengths):
        part.write_bytes(content[:length])
        with pytest.raises(EvidenceError, match="is not an archive of a run"):
            Archive(part)
    part.write_bytes(content + b"x")
    refused(cli("verify", str(part)), "is not a zip, or was cut short")


def test_an_altered_byte_is_seen(packed: Path, tmp_path: Path) -> None:
    """It reads as it did (what is nobody's name or content may differ), or not at all."""
    content, other = packed.read_bytes(), tmp_path / "other.zip"
    honest = {name: inner for name, (_, inner) in entries_of(packed).items()}
    rng, directory, seen = random.Random(1), content.index(b"PK\x01\x02"), 0
    places = [rng.randrange(directory) for _ in range(60)]
    places += [rng.randrange(directory, len(content)) for _ in range(300)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        other.write_bytes(changed)
        try:
            one = Archive(other)
            found = {name: one.read(name) for name in one._zip.namelist()}
        except (EvidenceError, OSError):
            seen += 1
        else:
            assert found == honest, place
    assert seen > 120


def test_an_altered_byte_is_told(packed: Path, tmp_path: Path) -> None:
    content, name = packed.read_bytes(), tmp_path / "x.zip"
    rows = next(n for n in entries_of(packed) if "fgsm" in n and n.endswith(".parquet"))
    for target, code, said in (
        ("run.json", 2, "can't be read (the archive is damaged there)"),
        (rows, 1, "evidence can be read"),
    ):
        _, inner = entries_of(packed)[target]
        start = content.index(inner)
        name.write_bytes(content[: start + 9] + b"~" + content[start + 10 :])
        refused(cli("verify", str(name)), said, code=code)


def test_a_large_one_is_read(
    folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of more than 4 GiB is written: with a second end before the last."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 1000)
        large = api.export(folder, "archive", tmp_path / "large.zip")
    content = large.read_bytes()
    assert content[-42:-38] == b"PK\x06\x07"
    assert verdicts(large) == verdicts(folder)
    for place, said in ((-58, "lists more than"), (-34, "its end is elsewhere")):
        (tmp_path / "x.zip").write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        refused(cli("verify", str(tmp_path / "x.zip")), said)


def test_what_is_no_archive_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    refused(cli("verify", str(tmp_path / "empty.zip")), "is not a run")
    (tmp_path / "notes.txt").write_text("notes")
    refused(cli("report", str(tmp_path / "notes.txt")), "is not an archive of a run")
    refused(cli("verify", str(tmp_path / "nowhere.zip")), "is not a run")


# Making one


def test_what_is_no_file_of_a_run_is_not_packed(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    (copy / "evidence" / "more").mkdir()
    refused(cli("export", str(copy), "--as", "archive"), "evidence/more can't be read", "a folder")
    (copy / "evidence" / "more").rmdir()
    (copy / "evidence" / "a\nb").touch()
    refused(cli("export", str(copy), "--as", "archive"), "is not a file of a run: remove it")
    assert not list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*"))


def test_a_run_at_work_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(Local(folder), "").lock():
        with pytest.raises(BusyError, match="another process is at work"):
            api.export(folder, "archive")
        assert api.export(folder, "json").is_file()

    def fail(*_: Any) -> None:
        raise OutputError("it can't be written")

    monkeypatch.setattr(Local, "prepare", fail)  # where nobody can be at work
    assert api.export(folder, "archive").is_file()


def test_a_path_tells_which_it_is(folder: Path, packed: Path) -> None:
    assert isinstance(files_at(packed), Archive)
    assert isinstance(files_at(folder), Local)
    assert isinstance(files_at(Path("nowhere.zip")), Local)
