"""Peak memory is measured of a process, and large images have a bound."""

import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import pytest

from benchmarks import memory


def test_a_peak_is_that_of_the_process(tmp_path: Path) -> None:
    """Or that of this one, where it is larger: Linux keeps it over the start of another."""
    mine = getrusage(RUSAGE_SELF).ru_maxrss * 1024
    used = memory.peak([sys.executable, "-c", "b'x' * (500 * 2**20)"], str(tmp_path))
    assert 500 * 2**20 < used < max(600 * 2**20, mine + 100 * 2**20)
    with pytest.raises(SystemExit, match="no such name"):
        memory.peak([sys.executable, "-c", "raise NameError('no such name')"], str(tmp_path))


@pytest.mark.parametrize(("used", "code"), [(memory.MOST - 1, 0), (memory.MOST, 1)])
def test_large_images_have_a_bound(
    used: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "of_large_images", lambda side, samples: used)
    monkeypatch.setattr("sys.argv", ["memory", "--side", "224", "--samples", "50"])
    assert memory.main() == code
    assert capsys.readouterr().out == "50 images of 3×224×224: peak 4.00 GiB\n"


@pytest.mark.slow
def test_what_is_measured_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small version, in this process."""
    asked = ["memory", "--attack-in", str(tmp_path), "--side", "32", "--samples", "3"]
    monkeypatch.setattr("sys.argv", asked)
    assert memory.main() == 0
    assert len(list(tmp_path.glob("*/report.html"))) == 1
