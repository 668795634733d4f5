"""The gradient oracle beside a bare loop of the same gradients.

    python -m benchmarks.oracle [--model ce_at_cifar10] [--samples 128] [--steps 20] [--pairs 5]
                                [--data-dir DIR] [--device cuda]

Both take the same steps with the same form of the model, from the same images, in an L∞ ball so
small that nothing breaks: the batch stays full, and the oracle does all its bookkeeping besides.
The bare loop holds the whole batch at once.  They are timed in turns in this process; prints
seconds and the ratio of the medians.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.search import MARGIN, Search, Step, cosine
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.hardware import keep_freed_memory
from robusteval.models.acceleration import Forms, choose_forms, static_batch
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.types import ThreatModel, parse_eps

TINY = ThreatModel("Linf", parse_eps("1/100000"))


def bare_loop(model: Adapter, images: Tensor, labels: Tensor, schedule: list[Step]) -> Tensor:
    """Sign steps on the margin, and nothing around them."""
    points = images.clone()
    for step in schedule:
        moved = points.requires_grad_()
        (slope,) = torch.autograd.grad(logit_margin(model(moved), labels).sum(), moved)
        points = points.detach() + step.size * slope.sign()
        points = (images + (points - images).clamp(-TINY.radius, TINY.radius)).clamp(0, 1)
    return points


def oracle(forms: Forms, images: Tensor, labels: Tensor, schedule: list[Step]) -> Search:
    """The same by the oracle."""
    counted = Counted(forms.plain, len(images), fast=forms.gradients)
    search = Search(counted, images, labels, TINY)
    search.ascend(search.alive(), images, MARGIN, schedule)
    return search


def correct_samples(model: Adapter, data: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """As many images and labels that the model gets right."""
    pool = data.balanced_subset(min(2 * count, len(data)))
    device = next(model.parameters()).device
    images, labels = pool.images().to(device), pool.labels.to(device)
    with torch.no_grad():
        right = torch.nonzero(model(images).argmax(1) == labels)[:count, 0]
    return images[right], labels[right]


def compare(forms: Forms, images: Tensor, labels: Tensor, steps: int, pairs: int) -> float:
    """The bare loop's median seconds over the oracle's."""
    schedule = cosine(TINY.radius, steps)
    quick = forms.gradients or forms.plain
    bare_loop(quick, images, labels, schedule[:1])
    bare, ours = [], []
    for _ in range(pairs):
        started = time.perf_counter()
        bool(bare_loop(quick, images, labels, schedule).any())  # which waits for an accelerator
        middle = time.perf_counter()
        search = oracle(forms, images, labels, schedule)
        bool(search.broken.any())
        ours.append(time.perf_counter() - middle)
        bare.append(middle - started)
        assert len(search.alive()) == len(images), "a sample broke: the batch was not full"
        print(f"bare {bare[-1]:.2f} s, oracle {ours[-1]:.2f} s")
    return statistics.median(bare) / statistics.median(ours)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ce_at_cifar10")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    entry = find_entry(arguments.model)
    model = load_model(entry, arguments.device)
    data = load_dataset(entry.dataset, "test", arguments.data_dir)
    images, labels = correct_samples(model, data, arguments.samples)
    keep_freed_memory()  # as a run does; both loops gain by it
    forms = Forms.of(model, *choose_forms(model, images[: static_batch(arguments.device)], 0))
    ratio = compare(forms, images, labels, arguments.steps, arguments.pairs)
    print(f"the oracle runs at {ratio:.2f} of the bare loop's speed ({len(images)} images)")
    return 0 if ratio >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
