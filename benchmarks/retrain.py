"""Whether models train anew to the accuracy that their entries state, and how long that takes.

    python -m benchmarks.retrain [--model mpat_at_digits '*_digits' …] [--limit 60]

Each entry is copied without its weights into an empty folder and trained from nothing.  Holds
where the new clean accuracy is within the 95 % interval of the stated one, and no training takes
longer than ``--limit`` seconds.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import tomlkit

from robusteval import api, zoo
from robusteval.models.entry import read_entry
from robusteval.models.entry_tables import Trained
from robusteval.models.registry import find_entry
from robusteval.numerics import wilson


def train_anew(name: str, folder: Path, data_dir: Path | None) -> tuple[Trained, float]:
    """(what was trained, seconds) of an entry without its weights."""
    entry = find_entry(name)
    document = tomlkit.parse(entry.path.read_text("utf-8"))
    for table in ("weights", "trained"):
        document.pop(table, None)
    path = folder / f"{entry.name}.toml"
    path.write_text(tomlkit.dumps(document), "utf-8")
    started = time.perf_counter()
    trained = api.train(read_entry(path), data_dir=data_dir, work_dir=folder / "training")
    return trained, time.perf_counter() - started


def agrees(stated: Trained, found: Trained) -> bool:
    """Whether the new clean accuracy is within the stated one's interval."""
    interval = wilson(stated.clean_correct, stated.clean_total)
    assert interval is not None
    return interval.low <= found.clean_correct / found.clean_total <= interval.high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["*_digits"])
    parser.add_argument("--limit", type=float, default=60.0)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    held = True
    for name in zoo.models_called(arguments.model):
        stated = find_entry(name).trained
        if stated is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found, seconds = train_anew(name, Path(folder), arguments.data_dir)
        fine = agrees(stated, found) and seconds <= arguments.limit
        held = held and fine
        print(
            f"{name:28} stated {stated.clean_correct}/{stated.clean_total}, "
            f"now {found.clean_correct}/{found.clean_total}, {seconds:5.1f} s"
            f"{'' if fine else '  DOES NOT HOLD'}",
            flush=True,
        )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
