"""How much faster ``robusteval train`` is than a plain loop, and whether it ends as well.

    python -m benchmarks.training_speed [--model ce_cifar10] [--samples 20000] [--epochs 6]
                                        [--seeds 3] [--data-dir DIR]

The plain loop is float32, eager and NCHW: the same network, batch size, optimiser and schedule,
written down as one would, in an order of its own.  Both keep the epoch that is best on the
validation part, which they look at after each.  Both train on the same class-balanced samples
with each seed, one after the other, each in a process of its own (how a process keeps its memory is
part of how fast it trains), and are judged on the whole test split.  Prints seconds per epoch (the
first of each left out, as it may compile), their ratio, and the mean difference in accuracy with
its standard error.
"""

import argparse
import copy
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.data.datasets import Dataset, load_dataset
from robusteval.hardware import keep_freed_memory
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Training
from robusteval.models.loading import build_network
from robusteval.models.network import PrototypeNetwork
from robusteval.models.registry import find_entry
from robusteval.training.batches import batches
from robusteval.training.loop import Trainer, accuracy_of
from robusteval.training.recipe import RECIPES
from robusteval.training.schedule import make_optimizer, scale_learning_rates
from robusteval.training.speed import choose_speed
from robusteval.training.train import train as _registers_recipes  # noqa: F401


@dataclass(frozen=True)
class Trained:
    """Seconds of an epoch, and accuracy on the test split."""

    seconds: float
    accuracy: float
    how: str


def settings_of(entry: Entry, epochs: int, seed: int) -> Training:
    """The entry's settings, cross-entropy on clean images, for fewer epochs."""
    assert entry.training is not None
    changed = {"recipe": "ce", "options": {}, "adversarial": None, "warmup_epochs": 0}
    return entry.training.model_copy(update={**changed, "epochs": epochs, "seed": seed})


def plainly(
    entry: Entry, settings: Training, data: Dataset, validation: Dataset, test: Dataset
) -> Trained:
    """The bare loop."""
    torch.manual_seed(settings.seed)
    network = build_network(entry)
    recipe = RECIPES.get("ce")(network, settings)
    optimizer = make_optimizer(network, recipe, settings)
    total, seconds = math.ceil(len(data) / settings.batch_size), []
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    for epoch in range(settings.epochs):
        generator = torch.Generator().manual_seed(1000 * settings.seed + epoch)
        network.train()
        started = time.perf_counter()
        source = batches(
            data, settings.batch_size, settings.augment, settings.crop_padding, generator
        )
        for i, (images, labels) in enumerate(source):
            scale_learning_rates(optimizer, settings, epoch + i / total)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (score := accuracy_of(network, validation)) >= best[0]:
            best = (score, copy.deepcopy(network.state_dict()))
        seconds.append(time.perf_counter() - started)
    network.load_state_dict(best[1])
    return Trained(statistics.median(seconds[1:] or seconds), accuracy_of(network, test), "float32")


def as_we_train(
    entry: Entry, settings: Training, data: Dataset, validation: Dataset, test: Dataset
) -> Trained:
    """The project's own loop, with what it finds fastest here; it chooses its epoch."""
    keep_freed_memory()  # as ``robusteval train`` does
    torch.manual_seed(settings.seed)
    network: PrototypeNetwork = build_network(entry)
    recipe = RECIPES.get("ce")(network, settings)
    speed = choose_speed(network, data, settings)
    trainer = Trainer(network, recipe, data, validation, settings, speed=speed)
    with tempfile.TemporaryDirectory() as folder:
        lines = list(trainer.fit(Path(folder) / "checkpoint.safetensors"))
    seconds = [line.seconds for line in lines]
    told = f"{speed}, channels-last"
    return Trained(statistics.median(seconds[1:] or seconds), accuracy_of(network, test), told)


def apart(train: Callable[..., Trained], *arguments: object) -> Trained:
    """What a training comes to in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(train, *arguments).result()


def compare(
    entry: Entry, data: Dataset, test: Dataset, epochs: int, seeds: int
) -> list[tuple[Trained, Trained]]:
    """(plain, ours) for each seed, in turns; both train on what validation leaves."""
    pairs = []
    data, validation = data.split_off(len(data) // 20)
    for seed in range(seeds):
        settings = settings_of(entry, epochs, seed)
        plain = apart(plainly, entry, settings, data, validation, test)
        ours = apart(as_we_train, entry, settings, data, validation, test)
        pairs.append((plain, ours))
        print(
            f"seed {seed}: plain {plain.seconds:.1f} s an epoch, {100 * plain.accuracy:.2f} %; "
            f"ours ({ours.how}) {ours.seconds:.1f} s, {100 * ours.accuracy:.2f} %; "
            f"{plain.seconds / ours.seconds:.2f} times faster",
            flush=True,
        )
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ce_cifar10")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    entry = find_entry(arguments.model)
    data = load_dataset(entry.dataset, "train", arguments.data_dir)
    data = data.balanced_subset(min(arguments.samples, len(data)))
    test = load_dataset(entry.dataset, "test", arguments.data_dir)
    pairs = compare(entry, data, test, arguments.epochs, arguments.seeds)
    ratio = statistics.median(plain.seconds / ours.seconds for plain, ours in pairs)
    differences = [100 * (ours.accuracy - plain.accuracy) for plain, ours in pairs]
    mean = statistics.mean(differences)
    spread = statistics.stdev(differences) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    print(
        f"{ratio:.2f} times faster; accuracy {mean:+.2f} points (standard error {spread:.2f}, "
        f"{len(pairs)} seeds, {len(test)} test images)"
    )
    return 0 if ratio >= 2.5 and abs(mean) <= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
