"""How seconds grow with samples and with classes: a line fitted to their logarithms.

    python -m benchmarks.scaling [--model ce_mnist ce_at_mnist]
                                 [--samples 100 316 1000 3162 10000] [--classes 2 5 10 32 100]
                                 [--data-dir DIR]

Samples: whole runs, from loading to the written report, of the suite ``quick`` and of ``adaptive``
alone, on a model that breaks and on one that holds.  Classes: ``adaptive`` on random networks with
so many outputs, whose own predictions are the labels.  Holds where no exponent in samples is above
1.05; what every run begins with draws it below 1.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from robusteval import api
from robusteval.attacks.adaptive import adaptive
from robusteval.models.adapter import PrototypeAdapter
from robusteval.models.backbones import resnet_small
from robusteval.models.head import Head
from robusteval.models.network import PrototypeNetwork
from robusteval.types import ThreatModel, parse_eps

_THREAT = ThreatModel("Linf", parse_eps("1/1000"))  # so small that most survive


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """b of seconds ∝ size^b, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# What runs: a suite, and which of its attacks (all, if none is named).
_RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "quick": ("quick", ()),
    "adaptive": ("full", ("adaptive",)),
}


def seconds_of_run(model: str, what: str, samples: int, data_dir: Path | None) -> float:
    """A run from nothing to its report."""
    suite, only = _RUNS[what]
    with tempfile.TemporaryDirectory() as folder:
        options = api.Options(samples=samples, only=only, out=Path(folder), data_dir=data_dir)
        started = time.perf_counter()
        api.evaluate(model, suite, options=options)
        return time.perf_counter() - started


def seconds_of_classes(classes: int, count: int = 64) -> float:
    """``adaptive`` on a random network's own predictions."""
    torch.manual_seed(0)
    backbone = resnet_small(3, widths=(16, 32), blocks=(1, 1), stem=8, embedding=128)
    head = Head(layers=["fc"])
    model = PrototypeAdapter(
        PrototypeNetwork(backbone, head, classes, [0.5] * 3, [0.25] * 3).eval()
    )
    images = torch.rand((count, 3, 16, 16))
    with torch.no_grad():
        labels = model(images).argmax(1)
    started = time.perf_counter()
    adaptive(model, images, labels, _THREAT)
    return time.perf_counter() - started


def show(what: str, sizes: list[int], seconds: list[float]) -> float:
    """Prints the measurements; returns the fitted exponent."""
    for size, taken in zip(sizes, seconds, strict=True):
        print(f"{size:6d} {what}: {taken:8.2f} s", flush=True)
    found = exponent(sizes, seconds)
    print(f"seconds grow as {what} to the power {found:.2f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["ce_mnist", "ce_at_mnist"])
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 316, 1000, 3162, 10000])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 5, 10, 32, 100])
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    by_samples = []
    for model, what in itertools.product(arguments.model, _RUNS):
        seconds_of_run(model, what, 20, arguments.data_dir)  # loads the libraries
        runs = [seconds_of_run(model, what, n, arguments.data_dir) for n in arguments.samples]
        told = f"samples of {model}, {what}"
        by_samples.append(show(told, arguments.samples, runs))
    seconds_of_classes(2)  # to warm up
    show("classes", arguments.classes, [seconds_of_classes(k) for k in arguments.classes])
    return 0 if max(by_samples) <= 1.05 else 1


if __name__ == "__main__":
    sys.exit(main())
