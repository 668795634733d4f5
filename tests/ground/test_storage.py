"""Files that are whole or not there: through no link, with the usual mode, cleared after a kill."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from robusteval import storage
from robusteval.errors import EvidenceError, OutputError
from robusteval.evidence.files import Local
from robusteval.evidence.store import Store
from robusteval.report import files
from robusteval.report.files import write_table
from robusteval.storage import append_to, locked, remove_partials, replace_file, require_writable

BUSY = EvidenceError("another process has it")
WRITES = """
import os, sys
from pathlib import Path
from robusteval.storage import replace_file
os.replace = lambda *_: {end}
replace_file(Path(sys.argv[1]), b"new", "")
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("hidden", [0o022, 0o077, 0o002])
def test_a_new_file_gets_the_usual_mode_and_a_replaced_one_keeps_its_own(
    hidden: int, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    with umask(hidden):
        replace_file(path, b"1", "")
        assert mode_of(path) == 0o666 & ~hidden
        path.chmod(0o640)
        replace_file(path, b"2", "")
    assert (mode_of(path), path.read_bytes()) == (0o640, b"2")
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_gives_way_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """Also where it leads nowhere, to itself, or to a folder."""
    kept, folder = tmp_path / "kept", tmp_path / "folder"
    kept.write_text("precious")
    folder.mkdir()
    for target in ("kept", "nowhere", "link", "folder"):
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        replace_file(link, b"new", "")
        assert not link.is_symlink()
        assert link.read_bytes() == b"new"
    assert kept.read_text() == "precious"
    assert list(folder.iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} == {"kept", "link", "folder"}


def test_names_of_unfinished_files_can_neither_be_guessed_nor_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(Path(a).name), real(a, b)))
    for _ in range(2):
        replace_file(tmp_path / "a", b"", "")
    assert seen[0] != seen[1]
    assert all(re.fullmatch(r"\.robusteval\.[0-9a-f]{16}\.partial", name) for name in seen)
    kept = tmp_path / "kept"
    kept.write_text("precious")
    monkeypatch.setattr(storage.secrets, "token_hex", lambda _: "0" * 16)  # were it guessed
    (tmp_path / f".robusteval.{'0' * 16}.partial").symlink_to(kept)
    with pytest.raises(OutputError, match=r"File exists|what is there"):
        replace_file(tmp_path / "a", b"new", "")
    assert kept.read_text() == "precious"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    replace_file(tmp_path / ("a" * 255), b"new", "")
    with pytest.raises(OutputError, match=r"can't be written \(File name too long\): shorten it"):
        replace_file(tmp_path / ("a" * 256), b"new", "shorten it")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def protected(path: Path) -> None:
    path.write_text("precious")
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "what is there is not a file"),
        (a_pipe, "what is there is not a file"),
        (protected, "it is write-protected"),
    ],
)
def test_what_is_no_file_or_protected_stays(
    make: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    make(path)
    monkeypatch.setattr(os, "access", lambda p, _: bool(os.lstat(p).st_mode & 0o200))  # for root
    before = path.lstat()
    with pytest.raises(OutputError, match=rf"can't be written \({said}\): do that"):
        replace_file(path, b"new", "do that")
    assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["\0", "a/\0/b", "\ud800", "x" * 300, "a/" * 3000, "file/x"])
def test_impossible_places_are_one_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / where, tmp_path / "loop" / "x"):
        with pytest.raises(OutputError, match=r"can't be written.*: do that"):
            replace_file(place / "y", b"", "do that")
        with pytest.raises(OutputError, match=r"can't be written.*: do that"):
            require_writable(place, "do that")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    for make in (Path.touch, a_pipe, lambda path: path.symlink_to(path.name)):
        path = tmp_path / "a"
        make(path)
        with pytest.raises(OutputError, match="what is there is not a folder"):
            require_writable(path, "")
        path.unlink()


def test_a_full_disk_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        replace_file(path, b"new", "")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def write_elsewhere(path: Path, end: str) -> "subprocess.Popen[bytes]":
    """A process that has written all but the name, and then comes to its ``end``."""
    told = [sys.executable, "-c", WRITES.format(end=end), str(path)]
    return subprocess.Popen(told, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_what_a_killed_process_left_is_cleared_and_what_another_writes_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.csv"
    write_elsewhere(path, "os._exit(9)").communicate()
    (left,) = tmp_path.iterdir()
    assert storage.is_partial(left.name)
    with write_elsewhere(path, "(print(flush=True), input())") as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        (writing,) = set(tmp_path.iterdir()) - {left}
        remove_partials(tmp_path)
        assert list(tmp_path.iterdir()) == [writing]
        writer.kill()
    write_table(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    made = {"report.json": b"{}"}
    write_elsewhere(tmp_path / "report.html", "os._exit(9)").communicate()
    assert len(list(tmp_path.iterdir())) == 1
    files.write_files(Local(tmp_path), made)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OutputError, match=r"report\.json can't be written"):
        files.write_files(Local(tmp_path), made)


def test_only_what_was_ours_is_cleared(tmp_path: Path) -> None:
    kept = ["film.partial", ".film.partial", ".x.1234567890.partial", ".robusteval.abc.partial"]
    for name in [*kept, ".a.csv.77.partial", f".robusteval.{'a' * 16}.partial"]:
        (tmp_path / name).write_text("")
    (tmp_path / ".link.1.partial").symlink_to(tmp_path / "film.partial")
    (tmp_path / ".folder.1.partial").mkdir()
    os.mkfifo(tmp_path / ".pipe.1.partial")
    remove_partials(tmp_path)
    stay = {*kept, ".link.1.partial", ".folder.1.partial", ".pipe.1.partial"}
    assert {p.name for p in tmp_path.iterdir()} == stay
    remove_partials(tmp_path / "nowhere")


def test_where_there_are_no_locks_age_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", no_locks)
    young, old = tmp_path / ".a.1.partial", tmp_path / ".b.1.partial"
    for path in (young, old):
        path.write_text("")
    os.utime(old, (0, 0))
    with locked(tmp_path / "lock", BUSY, make=True), locked(tmp_path / "lock", BUSY, make=True):
        remove_partials(tmp_path)
    assert young.exists()
    assert not old.exists()
    replace_file(tmp_path / "c", b"new", "")
    assert (tmp_path / "c").read_bytes() == b"new"


def test_a_lock_empties_nothing_and_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("precious")
    lock = tmp_path / "run" / ".lock"
    (tmp_path / "run").mkdir()
    lock.symlink_to(kept)
    store = Store(Local(tmp_path / "run"), "")
    with pytest.raises(OutputError, match=r"\.lock can't be locked \(it is a link\): remove it"):
        store.lock().__enter__()
    lock.unlink()
    lock.symlink_to("nowhere")
    with pytest.raises(OutputError, match="it is a link"):
        store.lock().__enter__()
    assert not (tmp_path / "run" / "nowhere").exists()
    lock.unlink()
    os.link(kept, lock)
    with store.lock():
        pass
    assert kept.read_text() == "precious"


@pytest.mark.parametrize("make", [Path.mkdir, a_pipe])
def test_a_lock_that_is_no_file_is_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / ".lock")
    with pytest.raises(OutputError, match=r"\.lock can't be locked \(.*\): remove it"):
        Store(Local(tmp_path), "").lock().__enter__()


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    kept, log = tmp_path / "kept", tmp_path / "log"
    kept.write_text("precious")
    log.symlink_to(kept)
    with pytest.raises(OutputError, match="log can't be written"):
        append_to(log, "remove it")
    log.unlink()
    for _ in range(2):
        with append_to(log, "") as stream:
            stream.write(b"x")
    assert log.read_bytes() == b"xx"
    assert kept.read_text() == "precious"


def test_a_folder_or_file_can_be_locked_itself(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("content")
    for one in (tmp_path, path):
        with locked(one, BUSY), pytest.raises(EvidenceError, match="another process has it"):
            locked(one, BUSY, patience=0.1).__enter__()
        with locked(one, BUSY):
            pass
    assert path.read_text() == "content"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="nowhere can't be locked"):
        locked(tmp_path / "nowhere", BUSY).__enter__()
