"""Robust samples left by each attack for how many passes, as curves.

    python -m benchmarks.curves [--model ce_at_digits 'mpat_at_*'] [--attacks adaptive cr]
                                [--budgets 30 60] [--samples 200] [--out FILE] [--data-dir DIR]

``adaptive``, CR, PMA, APGD-T, FMN and PGD at budgets of 30 to 1,000 passes for each survivor, a
backward one counted as two, in L∞ at the data set's ε; beside them AutoAttack, and CR and PMA as
published, each at its own cost.  By default on every adversarially trained entry, and on one of
them behind each of the masks of ``masks``.  All get the same initially correct samples, as in
``attacks``, which also judges and counts.  A row is stored as soon as it is known, and is not
measured again unless its attack, its model or the machine has changed.

Holds where at each budget no other attack leaves fewer samples than ``adaptive``, one sample aside.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import attacks, stored
from benchmarks.attacks import Result
from benchmarks.masks import MASKS, is_copy, of_entry
from benchmarks.rivals import CURVE, CURVES, has_targets
from robusteval import zoo
from robusteval.data.datasets import load_dataset
from robusteval.hardware import hardware_name, keep_freed_memory
from robusteval.types import ThreatModel

OUT = Path(__file__).parent / "results" / "curves.csv"
WHOLE = {"autoattack": "AutoAttack", "cr": "CR as published", "pma": "PMA as published"}
MASKED = "ce_at_digits"  # the entry that is put behind each mask
_WITHIN = 1  # sample: a difference that is chance


def every_model() -> list[str]:
    """Names of the adversarially trained entries with weights, and of masked models."""
    trained = [name for name in zoo.models_called(["all"]) if attacks.trained_adversarially(name)]
    return [*trained, *(f"{MASKED}+{mask}" for mask in MASKS)]


def asked_models(names: Sequence[str]) -> list[str]:
    """Names and patterns as ``zoo`` takes them; masked models by their own names."""
    masked = [name for name in names if is_copy(name)]
    plain = [name for name in names if not is_copy(name)]
    return [*(zoo.models_called(plain) if plain else []), *masked]


def names_of(kinds: Sequence[str], budgets: Sequence[int], classes: int) -> list[str]:
    """Attacks with and without a budget that can run on so many classes, in order of cost."""
    fit = [kind for kind in kinds if kind != "apgd_t" or has_targets(classes)]
    within = [f"{kind}@{budget}" for budget in budgets for kind in fit if kind in CURVES]
    return within + [kind for kind in WHOLE if kind in kinds]


def measure(
    names: Sequence[str],
    kinds: Sequence[str],
    budgets: Sequence[int],
    samples: int,
    out: Path,
    data_dir: Path | None = None,
) -> list[Result]:
    """Every curve's points, those that are stored and hold today as they are."""
    here = hardware_name("cpu")
    results = [r for r in stored.read(out, Result) if r.holds_today]
    for name in names:
        data = load_dataset(of_entry(name).dataset, "test", data_dir)
        threat, at_most = data.info.default_threat("Linf"), min(samples, len(data))
        place = (name, attacks.weights_of(of_entry(name)), "Linf", threat.eps_text, str(at_most))
        results = [r for r in results if r.place != place or r.hardware == here]
        done = {r.attack for r in results if r.place == place}
        for attack in names_of(kinds, budgets, data.info.classes):
            if attack not in done:
                results.append(_point(name, attack, threat, samples, data_dir))
                stored.write(out, results)
    return results


def _point(
    name: str, attack: str, threat: ThreatModel, samples: int, data_dir: Path | None
) -> Result:
    result = attacks.run(name, attack, threat, samples, data_dir)
    told = f"{result.robust} left for {result.forward_equivalents:.0f} passes"
    print(f"{name} {attack}: {told}, {result.seconds:.1f} s", file=sys.stderr, flush=True)
    return result


def table(results: Sequence[Result]) -> Iterator[str]:
    """For each model a table: an attack's row, and at each budget the samples that are left, their
    share with its interval, and the passes that each initially correct sample really took."""
    for group in attacks.grouped(list(results)).values():
        first = next(iter(group.values()))
        yield f"**`{first.model}`**, L∞ {first.eps}, {first.correct} of {first.samples} right:"
        yield ""
        yield f"| attack | {' | '.join(f'{budget:,}' for budget in CURVE)} |"
        yield f"|---|{'---:|' * len(CURVE)}"
        for kind, (title, _) in CURVES.items():
            if any(f"{kind}@{budget}" in group for budget in CURVE):
                cells = [_cell(group.get(f"{kind}@{budget}")) for budget in CURVE]
                yield f"| {title} | {' | '.join(cells)} |"
        yield ""
        whole = [f"{title}: {_cell(group[kind])}" for kind, title in WHOLE.items() if kind in group]
        if whole:
            yield f"At its own cost: {'; '.join(whole)}."
            yield ""


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    return f"{attacks.share_of(result)}, {result.forward_equivalents:,.0f}"


def coverage(results: Sequence[Result]) -> str:
    """Which models have been measured, which have not, and where AutoAttack ran beside them."""
    everything, ran = every_model(), {r.model for r in results}
    missing = [name for name in everything if name not in ran]
    told = f"Measured: {len(everything) - len(missing)} of {len(everything)} models."
    if missing:
        told += f"  Not measured: {_named(missing)}."
    if beside := [r.model for r in results if r.attack == "autoattack"]:
        told += f"  AutoAttack ran on {_named(beside)}."
    return told


def _named(models: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in models)


def summary(results: Sequence[Result]) -> Iterator[str]:
    """At each budget, on how many models each attack leaves fewer samples than ``adaptive``."""
    groups = list(attacks.grouped(list(results)).values())
    yield f"| fewer, as many or more samples left than by `adaptive`, models | {_heads()} |"
    yield f"|---|{'---:|' * len(CURVE)}"
    for kind, (title, _) in CURVES.items():
        if kind != attacks.OURS:
            counts = [_compared(groups, kind, budget) for budget in CURVE]
            yield f"| {title} | {' | '.join(counts)} |"


def _heads() -> str:
    return " | ".join(f"{budget:,}" for budget in CURVE)


def _compared(groups: Sequence[dict[str, Result]], kind: str, budget: int) -> str:
    pairs = [
        (group[f"{kind}@{budget}"].robust, group[f"{attacks.OURS}@{budget}"].robust)
        for group in groups
        if {f"{kind}@{budget}", f"{attacks.OURS}@{budget}"} <= set(group)
    ]
    return attacks.compared(pairs) if pairs else "–"


def problems(results: Sequence[Result]) -> Iterator[str]:
    """Where another attack leaves fewer samples at a budget, beyond chance of one."""
    for group in attacks.grouped(list(results)).values():
        for kind in CURVES:
            for budget in CURVE:
                ours, other = (group.get(f"{k}@{budget}") for k in (attacks.OURS, kind))
                if ours and other and other.robust < ours.robust - _WITHIN:
                    told = f"{kind} leaves {other.robust}, adaptive {ours.robust}"
                    yield f"{ours.model} at {budget}: {told}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = [*CURVES, *(kind for kind in WHOLE if kind not in CURVES)]
    parser.add_argument("--model", nargs="+")
    parser.add_argument("--attacks", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--budgets", nargs="+", type=int, default=list(CURVE), choices=list(CURVE))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args()
    keep_freed_memory()
    names = asked_models(asked.model) if asked.model else every_model()
    run = partial(measure, names, asked.attacks, asked.budgets, asked.samples)
    results = run(asked.out, asked.data_dir)
    print(*summary(results), "", *table(results), sep="\n")
    wrong = list(problems(results))
    for line in wrong:
        print(f"DOES NOT HOLD: {line}")
    return 1 if wrong or not results else 0


if __name__ == "__main__":
    sys.exit(main())
