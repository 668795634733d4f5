"""A run's files: whole or absent, made once, and locked."""

import subprocess
import sys
from pathlib import Path

import pytest

from robusteval.errors import EvidenceError, OutputError
from robusteval.evidence.files import Local

BUSY = EvidenceError("another process has it")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = Local(tmp_path / "run")
    run.prepare("evidence", "no")
    assert run.names("evidence") == []
    assert run.size("run.json") == -1
    with pytest.raises(FileNotFoundError):
        run.read("run.json")
    run.write("run.json", b"one", "no")
    run.write("run.json", b"three", "no")
    run.write("evidence/b", b"", "no")
    run.write("evidence/a", b"", "no")
    assert (run.read("run.json"), run.size("run.json"), run.has("run.json")) == (b"three", 5, True)
    assert run.names("evidence") == ["a", "b"]
    run.remove("evidence/a", "no")
    run.remove("evidence/a", "no")
    assert run.names("evidence") == ["b"]
    assert run.where("evidence/b") == str(tmp_path / "run" / "evidence" / "b")
    assert sorted(run.sizes()) == [0, 5]
    run.remove_all("no")
    run.remove_all("no")
    assert run.sizes() == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_half_written_is_none_of_them(tmp_path: Path) -> None:
    run = Local(tmp_path)
    run.prepare("evidence", "no")
    (tmp_path / "evidence" / f".robusteval.{'0' * 16}.partial").touch()
    assert run.names("evidence") == []
    run.prepare("evidence", "no")
    assert list((tmp_path / "evidence").iterdir()) == []


def test_of_several_one_creates_it(tmp_path: Path) -> None:
    """And what is there stays, whatever it is."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom robusteval.evidence.files import Local\n"
        "sys.stdin.readline()\n"
        "print(Local(Path(sys.argv[1])).create('claim', sys.argv[2].encode(), 'no'))"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    told = [other.communicate("go\n")[0].strip() for other in others]
    assert sorted(told) == ["False", "False", "False", "True"]
    assert Local(tmp_path).read("claim").decode() == str(told.index("True"))
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]


def test_nothing_is_created_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/claim can't be written .*: mend that"):
        Local(tmp_path / "nowhere").create("claim", b"", "mend that")


def test_one_at_a_time(tmp_path: Path) -> None:
    run = Local(tmp_path)
    with run.lock(BUSY), pytest.raises(EvidenceError, match="another process has it"):
        run.lock(BUSY).__enter__()
    with run.lock(BUSY):
        pass
