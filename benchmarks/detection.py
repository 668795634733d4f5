"""Every detector on outliers and attacked images; then the best under an attacker who knows them.

    python -m benchmarks.detection [--models ce_mnist 'pcl_*'] [--samples 1000] [--attacked 100]
                                   [--passes 200] [--best 8] [--folder detection_runs]
                                   [--out benchmarks/results/detection.csv] [--data-dir DIR]

By default all entries of MNIST and CIFAR-10 whose weights are there.  Outliers are near, far, and
noise; attacked images are of one PGD-20 that knows no detector, misclassified ones against correct
clean ones.  The eight detectors of the highest mean AUROC over these are attacked: inliers to be
rejected, outliers of the first near set (the first far one, if there is none) to be accepted, with
the score in the attack's loop.  They are chosen by the images that they are then tried on, so that
their unattacked figures flatter them a little; what is left of them under attack doesn't.

Runs stay in ``--folder``, so that a killed one goes on; rows are written as soon as an entry is
done, and an entry whose rows are there, with these weights and this code, isn't done again.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import stored
from benchmarks.attacks import weights_of
from benchmarks.reference import entries
from robusteval import api
from robusteval.detection.registry import DETECTORS
from robusteval.models.entry import Entry
from robusteval.report.returned import Report

RESULTS = Path(__file__).parent / "results"
DATA = ("mnist", "cifar10")
GROUPS = ("near", "far", "noise", "PGD")
# The strict reading counts; the papers' own stands beside theirs.
READINGS = {"strict": "PGD", "paper": "PGD, paper"}
SIDES = ("none", "outliers", "inliers", "both")
_METRICS = (
    *("auroc", "auroc_low", "auroc_high", "fpr95", "detection_error", "aupr_in", "aupr_out"),
)
# SCPL's Table 3, CIFAR (PGD), largest probability: FPR at 95 % TPR, detection error, AUROC,
# AUPR-In, AUPR-Out, in percent.
PAPER = {
    "ce_cifar10": ("ResNet", (100.0, 50.0, 27.9, 33.5, 5.1)),
    "scpl_cifar10": ("Ours", (89.9, 37.3, 66.5, 67.1, 62.8)),
}
_PGD = """
[[attacks]]
name = "pgd20"
title = "PGD-20"
library = "torchattacks"
attack = "PGD"
norms = ["Linf"]
parameters = { steps = 20, random_start = true }
times_eps = { alpha = "1/4" }
"""


@dataclass(frozen=True)
class Result:
    """One detector of one model.

    ``attacked``: which side an attacker who knows the detector moved: "none" or not asked about
    ("") where ``group`` is told apart as it is; shares with their 95 % intervals.
    """

    model: str
    weights: str
    detector: str
    group: str
    against: str
    attacked: str
    auroc: float
    low: float
    high: float
    fpr95: float
    detection_error: float
    aupr_in: float
    aupr_out: float
    inside: int
    outside: int


def suite(detectors: Sequence[str], sets: Sequence[str], attackers: str = "") -> str:
    """As TOML."""
    names, groups = (
        "[" + ", ".join(f'"{name}"' for name in listed) + "]" for listed in (detectors, sets)
    )
    attacks = 'attacks = ["pgd20"]\n' if not attackers else ""
    head = 'name = "detection_benchmark"\n' + ("" if attackers else _PGD)
    return f"{head}\n[detection]\ndetectors = {names}\nsets = {groups}\n{attacks}{attackers}"


def attackers(detectors: Sequence[str], samples: int, passes: int) -> str:
    """The table of attacks on these."""
    names = ", ".join(f'"{name}"' for name in detectors)
    return (
        f"\n[detection.attackers]\ndetectors = [{names}]\n"
        f'goals = ["reject", "accept"]\nsamples = {samples}\npasses = {passes}\n'
    )


def told_apart(entry: Entry, report: Report) -> Iterator[Result]:
    """Every detector on every outlier set, and on the images of PGD."""
    outliers, attacks = report.outliers, report.detection
    for row in outliers[outliers.status == "done"].to_dict("records"):
        yield _result(entry, row, str(row["group"]), "")
    for row in attacks[attacks.status == "done"].to_dict("records"):
        if row["reading"] in READINGS:
            yield _result(entry, row, READINGS[row["reading"]], "")


def _result(entry: Entry, row: dict[str, Any], group: str, attacked: str) -> Result:
    return Result(
        *(entry.name, weights_of(entry), row["detector"], group, row["against"], attacked),
        *(round(float(row[name]), 4) for name in _METRICS),
        *(int(row["n_in"]), int(row["n_out"])),
    )


def best_of(results: Sequence[Result], count: int) -> list[str]:
    """The detectors of the highest mean AUROC: of each group's mean, so that many noises don't
    outweigh one near set."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in (r for r in results if r.group in GROUPS):
        found.setdefault(result.detector, {}).setdefault(result.group, []).append(result.auroc)
    mean = {name: fmean(map(fmean, groups.values())) for name, groups in found.items()}
    return sorted(mean, key=lambda name: -mean[name])[:count]


@dataclass(frozen=True)
class Asked:
    """How an entry is measured."""

    folder: Path
    samples: int = 1000
    attacked: int = 100
    passes: int = 200
    best: int = 8
    data_dir: Path | None = None


def measured(entry: Entry, asked: Asked) -> list[Result]:
    """Both parts of an entry."""
    first = _run(entry, asked, "told_apart", suite(list(DETECTORS), ["near", "far", "noise"]))
    found = list(told_apart(entry, first))
    best = best_of(found, asked.best)
    groups = {result.group for result in found}
    sets = ["near"] if "near" in groups else ["far"]
    table = attackers(best, asked.attacked, asked.passes)
    second = _run(entry, asked, "attacked", suite(best, sets, table))
    of_set = {result.against: result.group for result in found}
    rows = second.under_attack
    for row in rows[rows.attacked.isin(SIDES)].to_dict("records"):
        found.append(_result(entry, row, of_set[row["against"]], row["attacked"]))
    return found


def _run(entry: Entry, asked: Asked, name: str, text: str) -> Report:
    folder = asked.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{entry.name}.toml"
    path.write_text(text, "utf-8")
    options = api.Options(samples=asked.samples, out=folder, threads=1, data_dir=asked.data_dir)
    return api.evaluate(entry.path, suite=path, options=options)


def table(results: Sequence[Result]) -> Iterator[str]:
    """For each detector its mean AUROC over models, group by group; then those that were attacked,
    on the same images, under each side of the attack."""
    models = len({result.model for result in results})
    yield f"Mean AUROC over {models} models, in percent; the best first:"
    yield ""
    yield "| detector | models | " + " | ".join(GROUPS) + " |"
    yield "|---|---:|" + "---:|" * len(GROUPS)
    plain = [r for r in results if not r.attacked and r.group in GROUPS]
    for name in best_of(plain, len(DETECTORS)):
        own = [result for result in plain if result.detector == name]
        cells = [_mean([r for r in own if r.group == group]) for group in GROUPS]
        yield f"| `{name}` | {len({r.model for r in own})} | {' | '.join(cells)} |"
    yield ""
    yield from _attacked([result for result in results if result.attacked])
    yield from _papers(results)


def _attacked(results: Sequence[Result]) -> Iterator[str]:
    if not results:
        return
    yield "The best of each model under an attacker who knows them, mean AUROC on the same images:"
    yield ""
    yield "| detector | models | neither side moved | outliers | inliers | both | highest of both |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    names = sorted({r.detector for r in results}, key=lambda n: (-_share(results, n, "both"), n))
    for name in names:
        own = [result for result in results if result.detector == name]
        cells = [_mean([r for r in own if r.attacked == side]) for side in SIDES]
        top = max((r for r in own if r.attacked == "both"), key=lambda r: r.auroc)
        most = f"{100 * top.auroc:.1f} [{100 * top.low:.1f}, {100 * top.high:.1f}] (`{top.model}`)"
        yield f"| `{name}` | {len({r.model for r in own})} | {' | '.join(cells)} | {most} |"
    yield ""
    below = [r for r in results if r.attacked == "both" and r.high < 0.5]
    every = [r for r in results if r.attacked == "both"]
    yield (
        f"With both sides moved {len(below)} of {len(every)} detectors of a model are surely worse "
        "than chance (the whole 95 % interval of the AUROC is below 50)."
    )


def _papers(results: Sequence[Result]) -> Iterator[str]:
    """SCPL's Table 3 beside the same reading here."""
    rows = {r.model: r for r in results if (r.group, r.detector) == ("PGD, paper", "max_softmax")}
    if not rows.keys() & PAPER.keys():
        return
    yield ""
    yield (
        "SCPL's Table 3 (CIFAR, PGD, largest probability; the whole test set against all attacked "
        "images), the paper's → found here:"
    )
    yield ""
    yield "| row of the paper | entry | FPR@95TPR | detection error | AUROC | AUPR-In | AUPR-Out |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for model, (title, theirs) in PAPER.items():
        if (r := rows.get(model)) is not None:
            ours = (r.fpr95, r.detection_error, r.auroc, r.aupr_in, r.aupr_out)
            cells = [f"{a:.1f} → {100 * b:.1f}" for a, b in zip(theirs, ours, strict=True)]
            yield f"| {title} | `{model}` | {' | '.join(cells)} |"


def _share(results: Sequence[Result], detector: str, side: str) -> float:
    return fmean(r.auroc for r in results if r.detector == detector and r.attacked == side)


def _mean(results: Sequence[Result]) -> str:
    return f"{100 * fmean(r.auroc for r in results):.1f}" if results else "–"


def chosen(patterns: Sequence[str]) -> list[Entry]:
    """The entries that are measured: small ones first."""
    found = [e for e in entries() if e.dataset in DATA and e.stored is not None]
    if patterns:
        found = [e for e in found if any(fnmatch(e.name, pattern) for pattern in patterns)]
    return sorted(found, key=lambda entry: (DATA.index(entry.dataset), entry.name))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--attacked", type=int, default=100)
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--best", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("detection_runs"))
    parser.add_argument("--out", type=Path, default=RESULTS / "detection.csv")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args(argv)
    asked = Asked(
        *(given.folder, given.samples, given.attacked, given.passes, given.best, given.data_dir)
    )
    results = stored.read(given.out, Result)
    for entry in chosen(given.models):
        known = [r for r in results if r.model == entry.name]
        if known and known[0].weights == weights_of(entry):
            continue
        results = [r for r in results if r.model != entry.name] + measured(entry, asked)
        stored.write(given.out, results)
        print(f"{entry.name}: done", flush=True)
    print("\n".join(table(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
