"""What each part of ``adaptive`` breaks that the others don't, on validation images.

    python -m benchmarks.ablation [--model '*_at_cifar10'] [--norm Linf] [--samples 400]
                                  [--budget 400] [--out ablation.csv] [--data-dir DIR]

For each model, the whole cascade, then the cascade without one part or with another in its place,
all with the same budget and the same images: how many samples each leaves, how many of these the
whole cascade breaks (what the part is worth), and how many it breaks that the whole doesn't (what
chance is worth).  A row is written as soon as it is known; a model that is in the file whole, by
the same attacks, is not done again.  Images come from the validation part of the training data:
the test split is for reporting, not for choosing.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import masks, stored
from benchmarks.attacks import OURS, VERSION, weights_of
from benchmarks.rivals import stands
from benchmarks.variants import VARIANTS_ON_COPIES, WHOLE, variants_in
from robusteval import zoo
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import Counted
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.evidence.judge import predict
from robusteval.models.acceleration import Forms, choose_forms, static_batch
from robusteval.models.adapter import Adapter
from robusteval.plan.spec import default_batch
from robusteval.types import Norm, ThreatModel

Place = tuple[str, str, str, int, int]  # model, weights, norm, budget, samples


@dataclass(frozen=True)
class Result:
    """A variant on the ``correct`` initially correct ones of a model's validation images.

    ``only_it``: how many it leaves that the whole breaks; ``only_whole``: the other way round.
    ``passes`` are per sample left, backward ones twice.  ``weights``: which training of the model;
    ``version``: which one of ``adaptive``.
    """

    model: str
    weights: str
    norm: str
    budget: int
    samples: int
    correct: int
    variant: str
    left: int
    only_it: int
    only_whole: int
    passes: float
    version: int

    @property
    def holds_today(self) -> bool:
        """Whether today's version would leave the same."""
        return stands(OURS, self.version, masks.is_copy(self.model))

    @property
    def place(self) -> Place:
        """What results of one table's column share."""
        return self.model, self.weights, self.norm, self.budget, self.samples


@dataclass(frozen=True)
class Left:
    """Which samples (N,) a variant leaves, and its passes for each of them, backward ones twice."""

    robust: Tensor
    passes: float


def attacked(
    variant: type[Cascade], forms: Forms, data: Dataset, threat: ThreatModel, budget: int
) -> Left:
    """A variant on initially correct samples, chunk by chunk."""
    robust, passes = [], 0.0
    for rows in torch.arange(len(data)).split(default_batch(data.info.shape)):
        model = Counted(forms.plain, len(rows), fast=forms.gradients)
        cascade = variant(model, data.images(rows), data.labels[rows], threat, 0, budget)
        cascade.run()
        robust.append(~cascade.search.broken)
        passes += float(model.passes(len(rows)).sum())
    held = torch.cat(robust)
    return Left(held, passes / max(int(held.sum()), 1))


def validation_samples(name: str, count: int, data_dir: Path | None) -> tuple[Adapter, Dataset]:
    """A model, and those of its validation images that it gets right."""
    entry = masks.of_entry(name)
    assert entry.training is not None
    model = masks.loaded(name)
    _, data = load_dataset(entry.dataset, "train", data_dir).split_off(entry.training.validation)
    data = data.balanced_subset(min(count, len(data)))
    right = predict(model, data.images()).argmax(1) == data.labels
    return model, data.take(torch.nonzero(right)[:, 0])


def variants_of(name: str, norm: Norm) -> dict[str, type[Cascade]]:
    """Of a model, or of a copy that hides its gradients."""
    return VARIANTS_ON_COPIES if masks.is_copy(name) else variants_in(norm)


def measured(
    name: str, norm: Norm, samples: int, budget: int, data_dir: Path | None
) -> Iterator[Result]:
    """Every variant on one model, beside the whole."""
    model, data = validation_samples(name, samples, data_dir)
    threat = data.info.default_threat(norm)
    passes = len(data) * budget / 3
    forms = Forms.of(model, *choose_forms(model, data.images(slice(0, static_batch())), passes))
    whole = attacked(Cascade, forms, data, threat, budget)
    for told, variant in variants_of(name, norm).items():
        left = whole
        if variant is not Cascade:
            left = attacked(variant, forms, data, threat, budget)
        yield Result(
            model=name,
            weights=weights_of(masks.of_entry(name)),
            norm=norm,
            budget=budget,
            samples=samples,
            correct=len(data),
            variant=told,
            left=int(left.robust.sum()),
            only_it=int((left.robust & ~whole.robust).sum()),
            only_whole=int((whole.robust & ~left.robust).sum()),
            passes=round(left.passes, 1),
            version=VERSION,
        )


def table(results: list[Result]) -> Iterator[str]:
    """Variants by models in L∞, in L2, and by copies that hide gradients, each where there are
    results."""
    kinds: dict[str, list[Result]] = {}
    for result in results:
        kind = "copies" if masks.is_copy(result.model) else result.norm
        kinds.setdefault(kind, []).append(result)
    for place, (kind, own) in enumerate(kinds.items()):
        yield from [""] if place else []
        variants = VARIANTS_ON_COPIES if kind == "copies" else variants_in(own[0].norm)
        yield from _table(own, variants)


def _table(results: list[Result], variants: Iterable[str]) -> Iterator[str]:
    """How many samples each variant leaves, of these broken by the whole, and the reverse.

    A dash where a variant has not been run.
    """
    columns: dict[Place, dict[str, Result]] = {}
    for result in results:
        columns.setdefault(result.place, {})[result.variant] = result
    heads = []
    for told in columns.values():
        one = next(iter(told.values()))
        in_l2 = " in L2" if one.norm == "L2" else ""
        heads.append(f"`{one.model}`{in_l2}, {one.budget} passes, {one.correct} images")
    yield f"| variant | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    for variant in variants:
        cells = [_cell(told[variant]) if variant in told else "–" for told in columns.values()]
        yield f"| {variant} | {' | '.join(cells)} |"


def _cell(result: Result) -> str:
    beside = "" if result.variant == WHOLE else f" (+{result.only_it} −{result.only_whole})"
    return f"{result.left}{beside}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["*_at_cifar10"])
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--budget", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("ablation.csv"))
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    results = [r for r in stored.read(arguments.out, Result) if r.holds_today]
    for name in zoo.models_called(arguments.model):
        weights = weights_of(masks.of_entry(name))
        place = (name, weights, arguments.norm, arguments.budget, arguments.samples)
        done = {r.variant for r in results if r.place == place}
        if done >= set(variants_of(name, arguments.norm)):
            continue
        results = [r for r in results if r.place != place]
        for result in measured(
            name, arguments.norm, arguments.samples, arguments.budget, arguments.data_dir
        ):
            results.append(result)
            stored.write(arguments.out, results)
            print(f"{name}, {result.variant}: {_cell(result)}", file=sys.stderr, flush=True)
    print(*table(results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
