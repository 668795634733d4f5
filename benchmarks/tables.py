"""The tables of README.md and docs/, from entries, leaderboards, ``results/`` and the code.

    python -m benchmarks.tables [--check]

Each stands between two marks, ``<!-- name -->`` and ``<!-- /name -->``, and is written anew;
``--check`` writes nothing, and exits 1 where a document says something else.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import (
    ablation,
    at_scale,
    attacks,
    curves,
    detection,
    epochs,
    evasion,
    foreign,
    masked,
    masks,
    never_above,
    papers,
    published,
    reference,
    resnet18,
    stored,
    truths,
    workers,
)
from robusteval.papers.paper import paper_names

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Kind = TypeVar("Kind")
Measured = TypeVar("Measured", attacks.Result, ablation.Result, masked.Result)


def _block(
    results: list[Kind], table: Callable[[list[Kind]], Iterator[str]], by: str
) -> Iterator[str]:
    """A table, and by what it was made; or that there is none yet."""
    if not results:
        yield "Not yet run."
        return
    yield from table(results)
    yield ""
    yield f"By {by}."


def contest(file: str = "attacks.csv") -> Iterator[str]:
    """``adaptive`` beside the others, for models that are as they were then."""
    current = _current(file, attacks.Result)
    return _block(current, attacks.contest, _measured_by(current))


def by_budget() -> Iterator[str]:
    """Every attack's curve over budgets, for models that are as they were then."""
    current = _current("curves.csv", attacks.Result)
    yield curves.coverage(current)
    yield ""
    if not current:
        return
    yield from curves.summary(current)
    yield ""
    yield from curves.table(current)
    yield f"By {_measured_by(current)}."


def full_width() -> Iterator[str]:
    """The ResNet-18 that is trained anew, and the contest on it."""
    made = stored.read(RESULTS / "resnet18.csv", resnet18.Made)
    if not made:
        yield "Not yet run."
        return
    results = stored.read(RESULTS / "resnet18_attacks.csv", attacks.Result)
    yield from resnet18.table(made, results)
    if results:
        yield ""
        yield f"By {_measured_by(results)}."


def parts() -> Iterator[str]:
    """What each part of ``adaptive`` is worth, on models that are as they were then."""
    current = _current("ablation.csv", ablation.Result)
    return _block(current, ablation.table, _versions(current))


def masked_copies() -> Iterator[str]:
    """What ``adaptive`` leaves of copies that hide gradients, beside the truth."""
    current = _current("masked.csv", masked.Result)
    return _block(current, masked.table, _versions(current))


def detectors_attacked() -> Iterator[str]:
    """Every detector's AUROCs, and what an attacker who knows it leaves of them."""
    weights = {entry.name: attacks.weights_of(entry) for entry in reference.entries()}
    every = stored.read(RESULTS / "detection.csv", detection.Result)
    current = [r for r in every if weights.get(r.model) == r.weights]
    if not current:
        yield "Not yet run."
        return
    yield from detection.table(current)


def evading() -> Iterator[str]:
    """Ways to have errors accepted by a detector."""
    results = stored.read(RESULTS / "evasion.csv", evasion.Result)
    if not results:
        yield "Not yet run."
        return
    yield from evasion.table(results)
    yield ""
    yield f"{results[0].passes} passes an image, at most {results[0].samples} test images a cell."


def other_tools() -> Iterator[str]:
    """What other tools' attacks break of what ``adaptive`` leaves."""
    results = stored.read(RESULTS / "foreign.csv", foreign.Result)
    return _block(results, foreign.table, _versions(results))


def beside_published() -> Iterator[str]:
    """What ``adaptive`` leaves of published rows, beside what others left."""
    results = stored.read(RESULTS / "never_above.csv", attacks.Result)
    pairs = never_above.beside(never_above.published(["*"], ["*"]), results)
    return _block(pairs, never_above.table, f"version {attacks.versions(results)} of `adaptive`")


def engines() -> Iterator[str]:
    """What one-thread workers of each engine take."""
    yield from workers.table(stored.read(RESULTS / "workers.csv", workers.Result))


def known_truths() -> Iterator[str]:
    """Exact truths beside what ``adaptive`` and ``smallest`` leave."""
    results = stored.read(RESULTS / "truths.csv", truths.Result)
    return _block(results, truths.table, truths.told_versions(results))


def times_of_epochs() -> Iterator[str]:
    """Epochs of the papers' trainings, side by side."""
    results = stored.read(RESULTS / "epochs.csv", epochs.Result)
    return epochs.table(results) if results else iter(["Not yet run."])


def _measured_by(results: list[attacks.Result]) -> str:
    """Each version of ``adaptive`` with the models that it was run on."""
    of_version: dict[str, list[attacks.Result]] = {}
    for model in dict.fromkeys(result.model for result in results):
        rows = [result for result in results if result.model == model]
        of_version.setdefault(attacks.versions(rows), []).extend(rows)
    told = (f"version {v} of `adaptive`, on {attacks.machines(r)}" for v, r in of_version.items())
    return "; by ".join(told)


def _versions(results: Sequence[ablation.Result | masked.Result | foreign.Result]) -> str:
    versions = sorted({result.version for result in results})
    return f"version {', '.join(str(v) for v in versions)} of `adaptive`"


def _current(file: str, kind: type[Measured]) -> list[Measured]:
    """The results of a file whose models are trained as they were then."""
    weights = {entry.name: attacks.weights_of(entry) for entry in reference.entries()}
    stored_then = stored.read(RESULTS / file, kind)
    return [r for r in stored_then if weights.get(masks.base(r.model)) == r.weights]


TABLES = {
    "README.md": {"found": published.in_readme},
    "docs/leaderboards.md": {"numbers": published.numbers, "found": published.found},
    "docs/papers.md": {
        "counts": papers.overview,
        "items": papers.item_overview,
        "times": times_of_epochs,
        **{name: partial(papers.summary, name) for name in paper_names()},
    },
    "docs/zoo.md": {"models": reference.models},
    "docs/data.md": {"datasets": reference.datasets},
    "docs/suites.md": {"suites": reference.suites},
    "docs/detectors.md": {"detectors": reference.detectors, "settings": reference.settings},
    "docs/commands.md": {"commands": reference.commands},
    "docs/exporting.md": {"samples": reference.samples},
    "docs/many_machines.md": {"at_scale": at_scale.lines, "workers": engines},
    "docs/lab/contests.md": {
        "contest": contest,
        "contest of two classes": partial(contest, "attacks_cifar10_2.csv"),
        "contest on an accelerator": partial(contest, "attacks_h100.csv"),
        "curves": by_budget,
        "full width": full_width,
        "never above": beside_published,
        "foreign": other_tools,
    },
    "docs/lab/ablation.md": {"ablation": parts},
    "docs/lab/detection.md": {"detection": detectors_attacked},
    "docs/attacked_detectors.md": {"evasion": evading},
    "docs/lab/benchmarks.md": {"truths": known_truths},
    "docs/masked_gradients.md": {"masked": masked_copies},
    "docs/lab/trainings.md": {"trainings": reference.trainings},
}


def written_anew(text: str, name: str, lines: list[str]) -> str:
    """A document with the lines between the two marks replaced."""
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    start, end = text.index(first) + len(first), text.index(last)
    return text[:start] + "".join(line + "\n" for line in lines) + text[end:]


def main(root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if not equal")
    check, stale = parser.parse_args().check, []
    for document, tables in TABLES.items():
        before = after = (root / document).read_text("utf-8")
        for name, make in tables.items():
            after = written_anew(after, name, list(make()))
        if after != before:
            stale.append(document)
            if not check:
                (root / document).write_text(after, "utf-8")
    told = "don't say what entries, leaderboards and results say" if check else "written anew"
    print(f"{', '.join(stale)} {told}" if stale else "every table is as it should be")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
