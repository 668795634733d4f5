"""A ResNet-18 of full width, trained anew in under 90 minutes, in the contest of attacks.

    python -m benchmarks.resnet18 [--folder resnet18] [--minutes 80] [--device cuda]
                                  [--samples 64] [--attacks adaptive autoattack] [--data-dir DIR]

Fast adversarial training (Wong et al. 2020: one FGSM step of 1.25 ε from a random start, a cyclic
rate) at 8/255 on CIFAR-10.  One training step is timed first, and as many images are trained on as
fit into ``--minutes``: 15 epochs at most, and on a few processor threads hardly one or two.  Parts
of 5,000 images take the place of epochs, with a checkpoint after each, so that the same command
goes on where it was killed.  Weights stay in ``--folder``; figures go to ``benchmarks/results/``.
Then ``attacks`` measures each attack on it: samples left, passes and seconds.

Holds where the training took less than 90 minutes, and ``adaptive`` left no more samples than
AutoAttack, one aside, for at most 1/25 of its passes and 1/50 of its seconds.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import attacks, stored
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.hardware import check_device, hardware_name, keep_freed_memory
from robusteval.models.entry import Entry, read_entry
from robusteval.models.loading import build_network
from robusteval.models.registry import find_entry
from robusteval.training.loop import Trainer
from robusteval.training.publishing import publish
from robusteval.training.recipe import RECIPES
from robusteval.training.speed import choose_speed, seconds_per_step
from robusteval.training.train import outcome_of

RESULTS = Path(__file__).parent / "results"
CONTEST = ("adaptive", "autoattack", "apgd_t", "cr", "pma")
LIMIT = 90  # minutes
_PART = 5000  # images between two checkpoints
_EPOCHS = 15  # of Fast on CIFAR-10 (MPAT, Section 4.2), which is when it is done
_PASSES = 2  # forward and backward, of an image: to craft it, and to learn from it
_SLACK = 1.25  # what augmenting, judging and saving take on top


@dataclass(frozen=True)
class Asked:
    """What is made: of full width on CIFAR-10, or a small version of it."""

    folder: Path
    minutes: float = 80.0
    width: int = 64
    dataset: str = "cifar10"
    images: int | None = None
    part: int = _PART
    validation: int = 200
    device: str = "cpu"
    data_dir: Path | None = None

    @property
    def name(self) -> str:
        return f"fast_{self.dataset}_resnet18"


@dataclass(frozen=True)
class Made:
    """What a training came to.  ``images``: trained on, each as often as it was."""

    model: str
    weights: str
    width: int
    parameters: int
    images: int
    minutes: float
    hardware: str
    precision: str
    clean: int
    total: int
    robust: float


class InParts(Trainer):
    """Each of its epochs is a part of the images; all parts together are gone through by turns."""

    def __init__(self, *given: Any, part: int, **more: Any) -> None:
        super().__init__(*given, **more)
        self.whole, self.part = self.training, part

    def _epoch(self, epoch: int) -> tuple[float, float]:
        turns = math.ceil(len(self.whole) / self.part)
        generator = torch.Generator().manual_seed(epoch // turns)
        order = torch.randperm(len(self.whole), generator=generator)
        self.training = self.whole.take(order.split(self.part)[epoch % turns])
        return super()._epoch(epoch)


def data_of(asked: Asked) -> tuple[Dataset, Dataset, Dataset]:
    """What is trained on, what chooses the part that counts, and the test split."""
    data = load_dataset(asked.dataset, "train", asked.data_dir)
    test = load_dataset(asked.dataset, "test", asked.data_dir)
    if asked.images is not None:
        data, test = data.balanced_subset(asked.images), test.balanced_subset(asked.images)
    return *data.split_off(asked.validation), test


def described(asked: Asked, parts: int) -> str:
    """The entry, as text."""
    data = load_dataset(asked.dataset, "test", asked.data_dir).info
    eps, like = data.threats["Linf"], find_entry(f"ce_at_{asked.dataset}")
    return f'''name = "{asked.name}"
method = "ce"
dataset = "{asked.dataset}"
description = "A ResNet-18, Fast adversarial training; an epoch is {asked.part} images."
license = "MIT"

[input]
mean = {like.input.mean}
std = {like.input.std}

[backbone]
name = "resnet18"
width = {asked.width}
embedding = {8 * asked.width}

[training]
recipe = "ce"
epochs = {parts}
batch_size = 128
lr = 0.2
schedule = "cyclic"
augment = ["crop", "flip"]
validation = {asked.validation}

[training.adversarial]
attack = "fast"
eps = ["{eps}", "{eps}"]
step_size = 1.25
with_clean = false
'''


def entry_of(asked: Asked, training: Dataset) -> Entry:
    """As it was begun, or, at the first call, for as many parts as the time allows."""
    path = asked.folder / f"{asked.name}.toml"
    if not path.exists():
        asked.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(described(asked, 1), "utf-8")
        parts = _parts_within(asked, read_entry(path), training)
        path.write_text(described(asked, parts), "utf-8")
    return read_entry(path)


def _parts_within(asked: Asked, entry: Entry, training: Dataset) -> int:
    assert entry.training is not None
    network = build_network(entry)
    speed = choose_speed(network, training, entry.training, device=asked.device)
    network.to(asked.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = training.images(slice(0, entry.training.batch_size)).to(asked.device)
    taken = seconds_per_step(network, images, speed.bfloat16) / len(images)
    affordable = 60 * asked.minutes / (_SLACK * _PASSES * taken)
    most = _EPOCHS * len(training)
    print(f"{1000 * taken:.1f} ms an image and pass; {affordable:,.0f} images fit", file=sys.stderr)
    return max(1, round(min(affordable, most) / min(asked.part, len(training))))


def make(asked: Asked) -> tuple[Entry, Made]:
    """The trained entry; what was trained already is not trained again."""
    training, validation, test = data_of(asked)
    entry = entry_of(asked, training)
    assert entry.training is not None
    keep_freed_memory()
    torch.manual_seed(entry.training.seed)
    network = build_network(entry)
    trainer = InParts(
        *(network, RECIPES.get("ce")(network, entry.training), training, validation),
        entry.training,
        speed=choose_speed(network, training, entry.training, device=asked.device),
        device=asked.device,
        identity=entry.model_dump_json(include={"dataset", "backbone", "input"}),
        part=asked.part,
    )
    for line in trainer.fit(asked.folder / "checkpoint.safetensors"):
        told = f"loss {line.loss:.3f}, {100 * (line.validation_robust or 0):.1f} % under PGD"
        print(f"part {line.epoch}: {told}, {line.seconds:.0f} s", file=sys.stderr, flush=True)
    if entry.weights is None:
        publish(entry, *outcome_of(trainer, test))
    entry = read_entry(entry.path)
    return entry, _made(asked, entry, trainer, training)


def _made(asked: Asked, entry: Entry, trainer: Trainer, training: Dataset) -> Made:
    trained = entry.trained
    assert trained is not None
    return Made(
        model=entry.name,
        weights=attacks.weights_of(entry),
        width=asked.width,
        parameters=sum(p.numel() for p in trainer.network.parameters()),
        images=trained.epochs * min(asked.part, len(training)),
        minutes=round(trained.seconds / 60, 1),
        hardware=trained.hardware,
        precision=trained.precision,
        clean=trained.clean_correct,
        total=trained.clean_total,
        robust=trained.validation_robust or 0.0,
    )


def contest(
    asked: Asked, entry: Entry, names: Sequence[str], samples: int, out: Path
) -> list[attacks.Result]:
    """Each attack on it; results that are stored for these weights are not measured again."""
    threat = load_dataset(asked.dataset, "test", asked.data_dir).info.default_threat("Linf")
    here, weights = hardware_name(asked.device), attacks.weights_of(entry)
    results = [
        r
        for r in stored.read(out, attacks.Result)
        if r.holds_today and (r.weights, r.hardware) == (weights, here) and r.samples == samples
    ]
    path, given = str(entry.path), (threat, samples, asked.data_dir, asked.device)
    for name in names:
        if name not in {r.attack for r in results}:
            results.append(attacks.run(path, name, *given))
            stored.write(out, results)
            print(f"{name}: {results[-1].robust} left", file=sys.stderr, flush=True)
    return results


def table(made: Sequence[Made], results: Sequence[attacks.Result]) -> Iterator[str]:
    """What was made, and the contest on it."""
    for one in made:
        yield (
            f"`{one.model}`: {one.parameters / 1e6:.1f} M parameters, {one.images:,} images in "
            f"{one.minutes:.0f} min on {one.hardware} ({one.precision}); "
            f"{attacks.share(one.clean, one.total)} of test images right, {100 * one.robust:.1f} % "
            "of validation images under PGD-10."
        )
    yield ""
    yield from attacks.contest(list(results))


def problems(made: Made, results: Sequence[attacks.Result]) -> Iterator[str]:
    """What does not hold."""
    if made.minutes >= LIMIT:
        yield f"trained for {made.minutes:.0f} minutes"
    by_name = {r.attack: r for r in results}
    if not {"adaptive", "autoattack"} <= set(by_name):
        yield "nothing is compared without both adaptive and autoattack"
        return
    ours, theirs = by_name["adaptive"], by_name["autoattack"]
    if ours.robust > theirs.robust + 1:
        yield f"adaptive leaves {ours.robust}, AutoAttack {theirs.robust}"
    passes, seconds = attacks.savings(ours, theirs)
    if passes < 25 or seconds < 50:
        yield f"1/{passes:.1f} of the passes, 1/{seconds:.1f} of the seconds"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in asdict(Asked(Path("resnet18"))).items():
        kind = {"folder": Path, "data_dir": Path, "images": int}.get(name, type(value))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--attacks", nargs="*", default=list(CONTEST), choices=list(CONTEST))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = vars(parser.parse_args())
    samples, names, folder = (given.pop(key) for key in ("samples", "attacks", "results"))
    asked = Asked(**given)
    check_device(asked.device)
    entry, made = make(asked)
    folder.mkdir(parents=True, exist_ok=True)
    stored.write(folder / "resnet18.csv", [made])
    results = contest(asked, entry, names, samples, folder / "resnet18_attacks.csv")
    print(*table([made], results), sep="\n")
    wrong = list(problems(made, results))
    for line in wrong:
        print(f"DOES NOT HOLD: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
