"""What eight detectors cost beside one, where all read of one pass.

    python -m benchmarks.detectors [--model pcl_cifar10] [--images 10000] [--turns 3]

The eight read logits, features or distances and are fitted to the run's part of the train split
where they need it; fits are not timed.  The one is ``--one``.  Both are timed in turns in this
process, on images of random pixels.  Prints seconds and the ratio of the medians, and exits 1 where
it is above 1.5.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from robusteval import api
from robusteval.detection.reading import Gathered
from robusteval.detection.record import State
from robusteval.detection.registry import find
from robusteval.detection.scoring import scores_together
from robusteval.models.adapter import Adapter
from robusteval.models.registry import find_entry
from robusteval.plan.fitting_data import fitting_data

EIGHT = (
    *("max_softmax", "energy", "gen", "mahalanobis", "knn", "she", "kl_matching"),
    "local_intrinsic_dimensionality",
)
MOST = 1.5  # times one


def fitted(model: Adapter, dataset: str, names: tuple[str, ...]) -> dict[str, State]:
    """The detectors' states, on the train split's part.  Raises DataError where it isn't there."""
    data = fitting_data(dataset, None)
    if data is None:
        raise SystemExit(f"{dataset} has no train split here: name another model")
    batches = [data.images(slice(i, i + 250)) for i in range(0, len(data), 250)]
    gathered = Gathered(model, lambda: iter(batches), torch.no_grad)
    states: dict[str, State] = {}
    for name in names:
        record = find(name)
        states[name] = {}
        if record.needs_training_data:
            states[name] = record.fit_to(model, gathered.read(record.reads), data.labels)
    return states


def seconds(states: Mapping[str, State], model: Adapter, images: Tensor) -> float:
    """Of one scoring of all images by these."""
    started = time.perf_counter()
    scores_together(states, model, images)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pcl_cifar10")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", default="max_softmax")
    asked = parser.parse_args()
    model = api.load_model(asked.model)
    states = fitted(model, find_entry(asked.model).dataset, (asked.one, *EIGHT))
    sample = api.load_dataset(find_entry(asked.model).dataset).images(slice(0, 1))
    images = torch.rand(asked.images, *sample.shape[1:])
    seconds(states, model, images[:500])  # what is made once
    one, eight = [], []
    for _ in range(asked.turns):
        one.append(seconds({asked.one: states[asked.one]}, model, images))
        eight.append(seconds({name: states[name] for name in EIGHT}, model, images))
    ratio = statistics.median(eight) / statistics.median(one)
    print(f"{asked.model}, {asked.images} images, medians of {asked.turns} turns")
    print(f"{asked.one}: {statistics.median(one):.2f} s")
    print(f"{', '.join(EIGHT)}: {statistics.median(eight):.2f} s, {ratio:.2f} times")
    return 0 if ratio <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
