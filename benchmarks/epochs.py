"""How long an epoch of the papers' trainings takes, side by side in one run.

    python -m benchmarks.epochs [--samples 2000] [--rounds 5] [--out CSV] [--data-dir DIR]

PCL's Table 12 and MPAT's Table 1 print times of training.  What entries tell of their own training
was measured on different days, beside other work.  Here the models of a table train on the same
number of images of their own data set, an epoch each in turns, in the stage of their own loss and
their own adversarial training: rounds share whatever else the machine does.  All in one number
format, so that none is compiled and another is not.  A ratio is that of a round, of its first model
or of the row above that it is compared with; told is the median, with the least and the most.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import torch

from benchmarks import stored
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.hardware import hardware_name, keep_freed_memory
from robusteval.models.entry import Entry
from robusteval.models.loading import build_network
from robusteval.models.registry import find_entry
from robusteval.papers.paper import cells_of, read_paper
from robusteval.training.loop import EpochLog, Trainer
from robusteval.training.recipe import RECIPES
from robusteval.training.speed import Speed
from robusteval.training.train import train as _registers_recipes  # noqa: F401

_VALIDATION = 10  # images, which an epoch looks at, too: a matter of milliseconds


@dataclass(frozen=True)
class Timed:
    """A row or column of a paper's table: its number there, the entry that stands for it, and the
    entry that its time is divided by."""

    paper: str
    table: str
    name: str
    entry: str
    base: str


@dataclass(frozen=True)
class Result:
    """Seconds of an epoch, and how many times those of ``base``: median, least and most of so many
    rounds.  ``paper_ratio``: that of the paper's numbers."""

    paper: str
    table: str
    name: str
    entry: str
    base: str
    seconds: float
    ratio: float
    least: float
    most: float
    paper_ratio: float
    images: int
    rounds: int
    hardware: str


PCL = [
    Timed("pcl", "12", name, entry, "ce_cifar10")
    for name, entry in (
        ("L_CE", "ce_cifar10"),
        ("L_CL", "centre_deep_cifar10"),
        ("L_Co", "contrastive_deep_cifar10"),
        ("L_T", "triplet_deep_cifar10"),
        ("L_PC", "pcl_cifar10"),
    )
]
MPAT = [
    Timed("mpat", "1", name, entry, base)
    for name, entry, base in (
        ("PGD-AT [19]", "ce_at_cifar10", "ce_at_cifar10"),
        ("Ours (PGD)", "mpat_at_cifar10", "ce_at_cifar10"),
        ("Free-AT [37]", "ce_free_cifar10", "ce_free_cifar10"),
        ("Ours (Free)", "mpat_free_cifar10", "ce_free_cifar10"),
        ("Fast-AT [38]", "ce_fast_cifar10", "ce_fast_cifar10"),
        ("Ours (Fast)", "mpat_fast_cifar10", "ce_fast_cifar10"),
    )
]


def measure(timed: Sequence[Timed], samples: int, rounds: int, root: Path | None) -> list[Result]:
    """One result for each; an epoch before the first round is left out."""
    keep_freed_memory()  # as ``robusteval train`` does
    entries = {one.entry: find_entry(one.entry) for one in timed}
    with tempfile.TemporaryDirectory() as place:
        fits = {
            name: _fit(entry, _data(entry, samples, root), rounds + 1, Path(place))
            for name, entry in entries.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in fits}
        for _ in range(rounds + 1):
            for name, fit in fits.items():
                seconds[name].append(next(fit).seconds)
    kept = {name: those[1:] for name, those in seconds.items()}
    return [_result(one, kept, _paper_ratio(one, timed), samples) for one in timed]


def _data(entry: Entry, samples: int, root: Path | None) -> tuple[Dataset, Dataset]:
    whole = load_dataset(entry.dataset, "train", root).balanced_subset(samples + _VALIDATION)
    return whole.split_off(_VALIDATION)


def _fit(
    entry: Entry, data: tuple[Dataset, Dataset], epochs: int, folder: Path
) -> Iterator[EpochLog]:
    assert entry.training is not None
    # Its own stage alone, on all images that are given.
    changed = {"epochs": epochs, "warmup_epochs": 0, "samples": None, "share": None}
    settings = entry.training.model_copy(update=changed)
    torch.manual_seed(settings.seed)
    network = build_network(entry)
    recipe = RECIPES.get(settings.recipe)(network, settings)
    trainer = Trainer(network, recipe, *data, settings, speed=Speed(bfloat16=True))
    return trainer.fit(folder / f"{entry.name}.safetensors")


def _result(one: Timed, seconds: dict[str, list[float]], paper_ratio: float, images: int) -> Result:
    own, base = seconds[one.entry], seconds[one.base]
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    told = (median(own), median(ratios), min(ratios), max(ratios), paper_ratio)
    rounded = (round(value, 3) for value in told)
    return Result(
        *(one.paper, one.table, one.name, one.entry, one.base),
        *rounded,
        images,
        len(own),
        hardware_name(),
    )


def _paper_ratio(one: Timed, among: Sequence[Timed]) -> float:
    """Of the paper's own times: of an epoch, or of as many epochs."""
    times = _times(one.paper, one.table)
    (base,) = (other.name for other in among if other.entry == one.base)
    return times[one.name] / times[base]


@cache
def _times(paper: str, table: str) -> dict[str, float]:
    """The times that a table prints, by the row or the column that names the model."""
    found = read_paper(paper)
    (meant,) = found.chosen(table)
    timed = [c for c in cells_of(found, meant) if c.meaning.read in ("minutes", "seconds_an_epoch")]
    is_in_rows = len({cell.row for cell in timed}) > 1
    return {(c.row if is_in_rows else c.column): float(c.value) for c in timed}


def table(results: Sequence[Result]) -> Iterator[str]:
    """A row for each model."""
    yield "| paper, table | model | entry | s an epoch | times | here | in the paper |"
    yield "|---|---|---|---:|---|---:|---:|"
    for one in results:
        here = f"{one.ratio:.2f} [{one.least:.2f}, {one.most:.2f}]"
        yield (
            f"| {one.paper}, {one.table} | {one.name} | `{one.entry}` | {one.seconds:.1f} | "
            f"`{one.base}` | {'1' if one.entry == one.base else here} | {one.paper_ratio:.2f} |"
        )
    yield ""
    by_setting = stored.grouped(results, "images", "rounds", "hardware")
    for (images, rounds, hardware), those in by_setting.items():
        papers = " and ".join(dict.fromkeys(one.paper.upper() for one in those))
        yield f"- {papers}: epochs of {images:,} images, medians of {rounds} rounds, {hardware}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a CSV file for the figures")
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args()
    results = [
        one
        for timed in (PCL, MPAT)
        for one in measure(timed, asked.samples, asked.rounds, asked.data_dir)
    ]
    for line in table(results):
        print(line)
    if asked.out:
        stored.write(asked.out, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
