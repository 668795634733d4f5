"""``adaptive`` beside AutoAttack and others: robust accuracy, passes and seconds, in one run.

    python -m benchmarks.attacks --model '*_cifar10' [--samples 500] [--attacks adaptive autoattack]
                                 [--norm L2] [--anew] [--out attacks.csv] [--data-dir DIR]
                                 [--device cuda]

Every attack gets the same initially correct test samples, one attack after the other in this
process.  AutoAttack and the others are called on the plain model, as their users call them, in
chunks of the size that a run gives them; ``adaptive`` gets all samples at once, since it cuts its
batches itself, and takes its gradients from the form that is fastest here, the choice of which is
part of its seconds.  All returned images are put into the ball and judged alike, by the plain
model in float32; a minimum-norm attack's count where they lie in it.  A row is written as soon as
it is known; what is in the file already is not done again, unless the project's own attacks have
changed since, another machine made it, or ``--anew`` is given: seconds compare where one go
measured them.

Holds where ``adaptive`` is at or below AutoAttack on every model, with at most 1/25 of its passes
and 1/50 of its seconds on adversarially trained ones and no slower on the others, and no attack
leaves fewer samples for fewer passes.  Where one of the two has not run, nothing holds.  Targeted
APGD is left out where a model has too few classes for it.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import stored
from benchmarks.masks import is_copy, loaded, of_entry
from benchmarks.rivals import (
    ATTACKS,
    ATTACKS_BY_BUDGET,
    BUDGET,
    BUDGETS,
    OTHERS,
    base,
    has_targets,
    is_told_no_eps,
    stands,
    version_of,
)
from robusteval import zoo
from robusteval.attacks.counting import BACKWARD, Counted
from robusteval.attacks.libraries.torchattacks import torchattacks_module
from robusteval.data.datasets import load_dataset
from robusteval.data.readers import Shape
from robusteval.errors import TrainingError
from robusteval.evidence.judge import in_threat, judge, predict
from robusteval.hardware import check_device, exact_float32, hardware_name, keep_freed_memory
from robusteval.models.acceleration import Forms, choose_forms, static_batch
from robusteval.models.adapter import Adapter
from robusteval.models.entry import Entry
from robusteval.models.registry import find_entry
from robusteval.numerics import wilson
from robusteval.plan.spec import default_batch
from robusteval.types import ThreatModel

OURS = "adaptive"
VERSION = version_of(OURS)


@dataclass(frozen=True)
class Result:
    """One attack on one model; passes are per initially correct sample.

    ``weights``: the first of their SHA-256, since a model may be trained anew.  ``version``: which
    version of the project's own attacks it was.
    """

    model: str
    weights: str
    norm: str
    eps: str
    attack: str
    samples: int
    correct: int
    robust: int
    forward: float
    backward: float
    seconds: float
    hardware: str
    version: int = 0

    @property
    def holds_today(self) -> bool:
        """Whether the same images would be found again: by a library, or by ours as it stands."""
        return stands(self.attack, self.version, is_copy(self.model))

    @property
    def place(self) -> tuple[str, ...]:
        """What results must share to be compared."""
        return self.model, self.weights, self.norm, self.eps, str(self.samples)

    @property
    def forward_equivalents(self) -> float:
        """Passes per initially correct sample, a backward one counted as two."""
        return self.forward + BACKWARD * self.backward

    @property
    def weighted(self) -> float:
        """The same of all samples, for each that survives."""
        return self.forward_equivalents * self.correct / max(self.robust, 1)


def run(
    name: str,
    attack: str,
    threat: ThreatModel,
    samples: int,
    data_dir: Path | None,
    device: str = "cpu",
) -> Result:
    """One attack on one model's initially correct samples."""
    entry, model = of_entry(name), loaded(name, device)
    data = load_dataset(entry.dataset, "test", data_dir)
    data = data.balanced_subset(min(samples, len(data)))
    with exact_float32():
        right = predict(model, data.images().to(device)).argmax(1).cpu() == data.labels
    chosen = torch.nonzero(right)[:, 0]
    if len(chosen) == 0:
        raise TrainingError(f"{name} predicts none of {len(data)} samples right: train it longer")
    robust, forward, backward = 0, 0.0, 0.0
    started = time.perf_counter()
    probe = data.images(chosen[: static_batch(device)]).to(device)
    forms = _forms(model, probe, attack, len(chosen))
    for rows in chosen.split(_at_once(attack, data.info.shape, len(chosen), device)):
        images, labels = data.images(rows).to(device), data.labels[rows].to(device)
        counted = Counted(model, len(rows), fast=forms.gradients)
        found = {**ATTACKS, **ATTACKS_BY_BUDGET}[attack](counted, images, labels, threat)
        counts = in_threat(found, images, None if is_told_no_eps(attack) else threat)
        with exact_float32():
            fooled = judge(model, counts, images, labels, threat, bound=True).fooled
        robust += int((~fooled).sum())
        forward += float(counted.forward_passes.sum())
        backward += float(counted.backward_passes.sum())
    seconds = time.perf_counter() - started
    n = len(chosen)
    return Result(
        model=name if is_copy(name) else entry.name,
        weights=weights_of(entry),
        norm=threat.norm,
        eps=threat.eps_text,
        attack=attack,
        samples=len(data),
        correct=n,
        robust=robust,
        forward=forward / n,
        backward=backward / n,
        seconds=seconds,
        hardware=hardware_name(device),
        version=version_of(attack) or VERSION,
    )


def weights_of(entry: Entry) -> str:
    """What tells one training of a model from another."""
    return start_of_digest(entry.weights.sha256) if entry.weights else ""


def start_of_digest(sha256: str) -> str:
    """As much of it as results keep."""
    return sha256[:12]


def left_out(attack: str, classes: int, threat: ThreatModel) -> str:
    """Why an attack can't run, if it can't."""
    if base(attack) == "apgd_t" and not has_targets(classes):
        return "for want of classes"
    return "which is of L∞ alone" if threat.norm == "L2" and base(attack) in ("cr", "pma") else ""


def _at_once(attack: str, shape: Shape, count: int, device: str) -> int:
    return count if base(attack) == OURS else default_batch(shape, device)


def _forms(model: Adapter, images: Tensor, attack: str, count: int) -> Forms:
    if base(attack) != OURS:
        return Forms(model, model, None)
    budget = int(attack.removeprefix(OURS)[1:] or BUDGET)
    return Forms.of(model, *choose_forms(model, images, count * budget / 3))


def show(results: list[Result]) -> bool:
    """Prints a table, and what doesn't hold; whether all does."""
    print("| model | threat | attack | left | passes for each that survives | seconds |")
    print("|---|---|---|---:|---:|---:|")
    for r in results:
        print(
            f"| `{r.model}` | {r.norm} {r.eps} | {r.attack} | {share_of(r)} | {r.weighted:,.0f} | "
            f"{r.seconds:.1f} |"
        )
    print(*contest(results), sep="\n")
    wrong = [line for group in grouped(results).values() for line in problems(group)]
    for line in wrong:
        print(f"DOES NOT HOLD: {line}")
    return bool(results) and not wrong


def contest(results: list[Result]) -> Iterator[str]:
    """A table, one row for each model: accuracies, our passes a sample and seconds, with their
    share of AutoAttack's, samples left after fewer and more passes, and by the others, with how
    many times our passes."""
    columns = _beside_columns(results)
    heads = ["model", "AutoAttack", "`adaptive`", "passes per sample", "seconds", *columns]
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    for group in grouped(results).values():
        if (ours := group.get(OURS)) is None or (theirs := group.get("autoattack")) is None:
            continue
        passes, seconds = savings(ours, theirs)
        cells = [
            f"`{ours.model}`",
            share_of(theirs),
            share_of(ours),
            f"{ours.forward_equivalents:,.0f}, 1/{passes:.3g}",
            f"{ours.seconds:.3g}, 1/{seconds:.3g}",
            *(told(group) for told in columns.values()),
        ]
        yield f"| {' | '.join(cells)} |"


def _beside_columns(results: list[Result]) -> dict[str, Callable[[dict[str, Result]], str]]:
    """What a contest's table says besides, by the column's head: of attacks that have run."""
    ran = {result.attack for result in results}
    columns: dict[str, Callable[[dict[str, Result]], str]] = {}
    if any(name.startswith(f"{OURS}_") for name in ran):
        budgets = ", ".join(f"{b:,}" for b in BUDGETS)
        columns[f"robust samples at a budget of {budgets}"] = _by_budget
        columns["AutoAttack's verdict from a budget of, passes, seconds"] = _verdict_from
    for name, title in OTHERS.items():
        if name in ran:
            columns[title] = partial(_beside, name)
    return columns


def _curve(group: dict[str, Result]) -> list[Result | None]:
    """Ours at each budget."""
    return [group.get(OURS if b == BUDGET else f"{OURS}_{b}") for b in BUDGETS]


def _by_budget(group: dict[str, Result]) -> str:
    return ", ".join(str(r.robust) if r else "–" for r in _curve(group))


def _verdict_from(group: dict[str, Result]) -> str:
    """The smallest budget from which on we leave no more than AutoAttack, and what share of its
    passes and seconds that is."""
    theirs = group["autoattack"]
    told = "–"
    for budget, ours in zip(reversed(BUDGETS), reversed(_curve(group)), strict=True):
        if ours is None or ours.robust > theirs.robust:
            break
        passes, seconds = savings(ours, theirs)
        told = f"{budget:,}, 1/{passes:.3g}, 1/{seconds:.3g}"
    return told


def _beside(name: str, group: dict[str, Result]) -> str:
    """What another attack leaves, and for how many times our passes."""
    if name not in group:
        return "–"
    passes, _ = savings(group[OURS], group[name])
    return f"{group[name].robust} at {passes:.3g}×"


def machines(results: list[Result]) -> str:
    """Which models were measured on which machine."""
    models: dict[str, dict[str, None]] = {}
    for result in results:
        models.setdefault(result.hardware, {})[f"`{result.model}`"] = None
    return "; ".join(f"{hardware}: {', '.join(named)}" for hardware, named in models.items())


def versions(results: list[Result]) -> str:
    """Which versions of ``adaptive`` made its rows; 0 is from before they were counted."""
    found = sorted({r.version for r in results if r.attack.startswith(OURS)})
    return ", ".join(str(v) if v else "0 (from before they were counted)" for v in found)


def savings(ours: Result, theirs: Result) -> tuple[float, float]:
    """How many times our passes, and our seconds, theirs are."""
    passes = theirs.forward_equivalents / ours.forward_equivalents
    return passes, theirs.seconds / ours.seconds


def share_of(result: Result) -> str:
    """Robust accuracy with its interval and count."""
    return share(result.robust, result.samples)


def share(k: int, n: int) -> str:
    """In percent, with the 95 % interval and the count."""
    rate = wilson(k, n)
    assert rate is not None
    low, high = 100 * rate.low, 100 * rate.high
    return f"{100 * rate.value:.1f} % [{low:.1f}, {high:.1f}] ({rate.k}/{rate.n})"


def compared(pairs: Sequence[tuple[int, int]]) -> str:
    """In how many of the pairs the first is fewer, as many, or more than the second."""
    fewer, equal = sum(a < b for a, b in pairs), sum(a == b for a, b in pairs)
    return f"{fewer}, {equal}, {len(pairs) - fewer - equal}"


def grouped(results: list[Result]) -> dict[tuple[str, ...], dict[str, Result]]:
    """Results by what they can be compared on, then by attack."""
    groups: dict[tuple[str, ...], dict[str, Result]] = {}
    for result in results:
        groups.setdefault(result.place, {})[result.attack] = result
    return groups


def problems(group: dict[str, Result]) -> Iterator[str]:
    """What doesn't hold for one model, threat and set of samples."""
    ours, theirs = group.get(OURS), group.get("autoattack")
    place = " ".join(next(iter(group.values())).place)
    if ours is None or theirs is None:
        yield f"{place}: nothing is compared without both adaptive and autoattack"
        return
    passes, seconds = savings(ours, theirs)
    told = f"{place}: {ours.robust} left against AutoAttack's {theirs.robust}"
    print(f"{told}; passes 1/{passes:.1f}, seconds 1/{seconds:.1f}")
    if ours.robust > theirs.robust:
        yield told
    least = (25, 50) if trained_adversarially(ours.model) else (0, 1)
    if passes < least[0] or seconds < least[1]:
        yield f"{ours.model}: at least 1/{least[0]} of the passes, 1/{least[1]} of the seconds"
    for other in group.values():
        cheaper = other.forward_equivalents < ours.forward_equivalents
        if other.robust < ours.robust and cheaper and not other.attack.startswith(OURS):
            yield f"{ours.model}: {other.attack} is cheaper and stronger"


def trained_adversarially(model: str) -> bool:
    """Whether an entry says so."""
    training = find_entry(model).training
    return training is not None and training.adversarial is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["*_cifar10"])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--out", type=Path, default=Path("attacks.csv"))
    parser.add_argument("--anew", action="store_true", help="these models' rows once more")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    check_device(arguments.device)
    models, here = zoo.models_called(arguments.model), hardware_name(arguments.device)
    results = [
        r
        for r in stored.read(arguments.out, Result)
        if r.holds_today and not (r.model in models and (arguments.anew or r.hardware != here))
    ]
    keep_freed_memory()  # as a run does; every attack gains by it
    torchattacks_module()  # loading a library is no attack's time
    importlib.import_module("pyautoattack")
    done = {(*r.place, r.attack) for r in results}
    for name in models:
        entry = find_entry(name)
        data = load_dataset(entry.dataset, "test", arguments.data_dir)
        threat = data.info.default_threat(arguments.norm)
        samples = min(arguments.samples, len(data))
        for attack in arguments.attacks:
            if reason := left_out(attack, data.info.classes, threat):
                print(f"{name} {attack}: left out, {reason}", file=sys.stderr)
                continue
            place = (name, weights_of(entry), threat.norm, threat.eps_text, str(samples))
            if (*place, attack) in done:
                continue
            folder, device = arguments.data_dir, arguments.device
            results.append(run(name, attack, threat, arguments.samples, folder, device))
            stored.write(arguments.out, results)
            print(f"{name} {attack}: {results[-1].robust} left", file=sys.stderr, flush=True)
    return 0 if show(results) else 1


if __name__ == "__main__":
    sys.exit(main())
