"""``adaptive`` and ``smallest`` beside the exact truth, on models whose truth is known.

    python -m benchmarks.truths [--samples 360] [--kind 'four*'] [--out truths.csv] [--data-dir DIR]

Models of ``digits`` that nothing trained: the nearest class mean, which is linear, the nearest of
four prototypes a class, and the nearest mean behind inputs of few levels.  How many of the test
images that each gets right are robust is known by programs that use no gradient (see ``exact``);
``adaptive`` at each ε with its default budget, and one run of ``smallest`` in each norm, can leave
as many or more.  A row is written as soon as it is known; rows of other versions are made anew.
Holds where every cell is the truth.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from benchmarks import stored
from benchmarks.exact import broken_behind_quantiser, prototype_radii, quantised
from benchmarks.rivals import stands
from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.registry import find
from robusteval.attacks.smallest import smallest
from robusteval.attacks.steps import norms
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.models.adapter import wrap_module
from robusteval.types import Norm, ThreatModel, parse_eps

STEPS = 200  # of ``smallest``
RADII: dict[Norm, tuple[str, ...]] = {"Linf": ("0.1", "0.15", "0.2"), "L2": ("0.6", "0.9", "1.2")}
Robust = Callable[[Tensor, Tensor, Norm, float], Tensor]  # images, labels, norm, ε: (B,)


class Nearest(nn.Module):
    """Negative squared distances to the nearest prototype of each class (K, M, D), in pixels of so
    many levels, if they are quantised; or what ``told`` makes of squared distances."""

    def __init__(
        self,
        prototypes: Tensor,
        levels: int | None = None,
        told: Callable[[Tensor], Tensor] = torch.neg,
    ) -> None:
        super().__init__()
        self.prototypes, self.levels, self.told = prototypes, levels, told

    def forward(self, images: Tensor) -> Tensor:
        seen = images if self.levels is None else quantised(images, self.levels)
        apart = seen.flatten(1)[:, None, None] - self.prototypes
        return self.told(apart.square().sum(3).amin(2))


@dataclass(frozen=True)
class Known:
    """A model, images (B, C, H, W) that it gets right, their labels, and which are robust."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    robust: Robust


def centres(train: Dataset, per_class: int, levels: int | None = None) -> Tensor:
    """So many prototypes (K, M, D) of each class, by k-means."""
    images = train.images() if levels is None else quantised(train.images(), levels)
    pixels, labels = images.flatten(1).numpy(), train.labels.numpy()
    found = [
        KMeans(per_class, n_init=3, random_state=0).fit(pixels[labels == label]).cluster_centers_
        for label in range(train.info.classes)
    ]
    return torch.stack([torch.from_numpy(some).float() for some in found])


def by_radius(prototypes: Tensor) -> Robust:
    """Robust are those whose smallest perturbation is larger."""

    def robust(images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
        return prototype_radii(prototypes, images, labels, norm) > eps

    return robust


def by_levels(prototypes: Tensor, levels: int) -> Robust:
    """Robust are those that no levels within reach break."""

    def robust(images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
        means = prototypes[:, 0]
        return ~broken_behind_quantiser(means, images, labels, norm, eps, levels)

    return robust


def nearest(
    train: Dataset,
    per_class: int,
    shown: bool = False,
    told: Callable[[Tensor], Tensor] = torch.neg,
) -> tuple[nn.Module, Robust]:
    """A plain module that tells so of squared distances, or an adapter that shows its
    prototypes."""
    found = centres(train, per_class)
    model: nn.Module = Nearest(found, told=told)
    if shown:
        model = wrap_module(nn.Flatten(), prototypes=found, reading="nearest_prototype")
    return model, by_radius(found)


def behind_levels(train: Dataset, levels: int) -> tuple[nn.Module, Robust]:
    """The nearest mean of inputs of so many levels."""
    found = centres(train, 1, levels)
    return Nearest(found, levels), by_levels(found, levels)


KINDS: dict[str, Callable[[Dataset], tuple[nn.Module, Robust]]] = {
    "linear: the nearest class mean": partial(nearest, per_class=1),
    "four prototypes a class, as a plain module": partial(nearest, per_class=4),
    "four prototypes a class, shown": partial(nearest, per_class=4, shown=True),
    "four prototypes a class, by distances not squared": partial(
        nearest, per_class=4, told=lambda squared: -squared.sqrt()
    ),
    "four prototypes a class, by kernels exp(-d)": partial(
        nearest, per_class=4, told=lambda squared: (-squared.sqrt()).exp()
    ),
    "the nearest mean of 1-bit inputs": partial(behind_levels, levels=2),
    "the nearest mean of thermometer codes, four levels": partial(behind_levels, levels=4),
}


@dataclass(frozen=True)
class Result:
    """How many of ``correct`` samples are robust in truth, and how many an attack leaves."""

    kind: str
    norm: str
    eps: str
    samples: int
    correct: int
    truth: int
    attack: str
    left: int
    version: int

    @property
    def holds_today(self) -> bool:
        """Whether the attack is still what it was then."""
        return stands(self.attack, self.version)


def known(kind: str, samples: int, data_dir: Path | None) -> Known:
    """A kind of model, and those of so many test images that it gets right."""
    model, robust = KINDS[kind](load_dataset("digits", "train", data_dir))
    test = load_dataset("digits", "test", data_dir)
    data = test.balanced_subset(min(samples, len(test)))
    images, labels = data.images(), data.labels
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    return Known(model, images[right], labels[right], robust)


def lengths(subject: Known, norm: Norm) -> Tensor:
    """The norms (B,) that ``smallest`` finds, infinite where it finds none."""
    images, labels, threat = subject.images, subject.labels, ThreatModel(norm, parse_eps("1"))
    found = smallest(subject.model, images, labels, threat, steps=STEPS)
    with torch.no_grad():
        broken = subject.model(found).argmax(1) != labels
    return torch.where(broken, norms(found.double() - images.double(), norm), torch.inf)


def left_by_adaptive(subject: Known, threat: ThreatModel) -> int:
    """How many ``adaptive`` leaves with its default budget."""
    found = adaptive(subject.model, subject.images, subject.labels, threat)
    with torch.no_grad():
        return int((subject.model(found).argmax(1) == subject.labels).sum())


def measured(kind: str, norm: Norm, samples: int, data_dir: Path | None) -> Iterator[Result]:
    """Both attacks on one kind of model in one norm."""
    subject = known(kind, samples, data_dir)
    found = lengths(subject, norm)
    for eps in RADII[norm]:
        threat = ThreatModel(norm, parse_eps(eps))
        truth = int(subject.robust(subject.images, subject.labels, norm, threat.radius).sum())
        left = {
            "adaptive": left_by_adaptive(subject, threat),
            "smallest": int((found > threat.radius).sum()),
        }
        for attack, robust in left.items():
            yield Result(
                kind=kind,
                norm=norm,
                eps=eps,
                samples=samples,
                correct=len(subject.images),
                truth=truth,
                attack=attack,
                left=robust,
                version=find("robusteval", attack).version,
            )


def table(results: list[Result]) -> Iterator[str]:
    """The truth beside what each attack leaves; bold where it is above."""
    yield "| model | norm | ε | correct | robust in truth | `adaptive` leaves | `smallest` leaves |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    rows: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        rows.setdefault((result.kind, result.norm, result.eps), {})[result.attack] = result
    for (kind, norm, eps), by_attack in rows.items():
        one = next(iter(by_attack.values()))
        cells = [_cell(by_attack.get(attack)) for attack in ("adaptive", "smallest")]
        told = {"Linf": "L∞"}.get(norm, norm)
        yield f"| {kind} | {told} | {eps} | {one.correct} | {one.truth} | {' | '.join(cells)} |"


def told_versions(results: list[Result]) -> str:
    """Which versions of the attacks it was."""
    seen = sorted({(result.attack, result.version) for result in results})
    return ", ".join(f"version {version} of `{attack}`" for attack, version in seen)


def _cell(result: Result | None) -> str:
    if result is None:
        return "–"
    return str(result.left) if result.left == result.truth else f"**{result.left}**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=360)
    parser.add_argument("--kind", default="*", help="which models, by a pattern")
    parser.add_argument("--norm", nargs="+", choices=[*RADII], default=[*RADII])
    parser.add_argument("--out", type=Path, default=Path("truths.csv"))
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    results = [r for r in stored.read(arguments.out, Result) if r.holds_today]
    for kind in (kind for kind in KINDS if fnmatch(kind, arguments.kind)):
        for norm in arguments.norm:
            if any((r.kind, r.norm, r.samples) == (kind, norm, arguments.samples) for r in results):
                continue
            results += measured(kind, norm, arguments.samples, arguments.data_dir)
            stored.write(arguments.out, results)
            print(f"{kind}, {norm}", file=sys.stderr, flush=True)
    print(*table(results), sep="\n")
    return 0 if all(r.left == r.truth for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
