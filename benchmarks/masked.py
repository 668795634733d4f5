"""``adaptive`` on copies of a model that hide its gradients: what it leaves, beside the truth.

    python -m benchmarks.masked [--model ce_digits] [--eps 0.06] [--norm L2] [--samples 120]
                                [--masks sigmoid ...] [--out masked.csv] [--data-dir DIR]

A copy that keeps the model's largest logit is no more robust than the model.  It is measured by
what its images leave of the model itself, where float32 makes no ties, and the truth is what
``adaptive`` leaves of the model.  Rounding and votes make other models.  There the truth is what
the images of a guide leave of the copy: of the copy with rounding passed straight through, and of
the members' mean.  What masked copies get last, long random search and AutoAttack, is left out: it
takes most of the time, and could only break more.  A row is written as soon as it is known;
what is in the file is not done again, unless ``adaptive`` has changed since.

Holds where no copy is left with more than one sample above the truth.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import stored
from benchmarks.attacks import VERSION, weights_of
from benchmarks.masks import SQUASHES, compressed, detached, mean, rounded, squashed, vote
from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.attacks.results import AttackResult
from robusteval.attacks.seeding import seeded
from robusteval.data.datasets import load_dataset
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.types import Norm, ThreatModel, parse_eps

LEVELS = 9  # of rounded images
STEP = 0.3  # of cosine coefficients
LAST = frozenset({"more search", "AutoAttack"})


@dataclass(frozen=True)
class Mask:
    """A copy that hides gradients, and the guide whose images tell the truth; ``same``: whether the
    largest logit is the guide's."""

    copy: nn.Module
    guide: nn.Module
    same: bool = True

    @property
    def judge(self) -> nn.Module:
        """What images count on."""
        return self.guide if self.same else self.copy


GAPS = (0.3, 0.8, 1, 2)


def masks(model: nn.Module, others: list[nn.Module]) -> dict[str, Mask]:
    """Every copy of a model by name; ``others`` vote beside it."""
    members = [model, *others]
    return {
        "none": Mask(model, model),
        **{f"detached below {gap}": Mask(detached(model, gap), model) for gap in GAPS},
        **{name: Mask(squashed(model, squash), model) for name, squash in SQUASHES.items()},
        f"rounded to {LEVELS} levels": Mask(
            rounded(model, LEVELS), rounded(model, LEVELS, straight=True), same=False
        ),
        "rounded as by JPEG": Mask(
            compressed(model, STEP), compressed(model, STEP, straight=True), same=False
        ),
        "vote of three models": Mask(vote(members), mean(members), same=False),
    }


@dataclass(frozen=True)
class Result:
    """One copy; ``truth`` and ``left`` are of ``correct``, which the copy predicts right; of
    ``ties`` its images have two largest outputs."""

    model: str
    weights: str
    norm: str
    eps: str
    mask: str
    correct: int
    truth: int
    left: int
    ties: int
    flags: str
    passes: float
    version: int

    @property
    def holds(self) -> bool:
        """Whether it is left with no more than one sample above the truth."""
        return self.left <= self.truth + 1


class Measured(NamedTuple):
    """Correct samples, the truth, what is left, ties, kinds of warnings, passes a sample."""

    correct: int
    truth: int
    left: int
    ties: int
    kinds: list[str]
    passes: float


@torch.no_grad()
def left_of(judge: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Samples that are still predicted right."""
    return int((judge(images).argmax(1) == labels).sum())


@torch.no_grad()
def ties_of(copy: nn.Module, images: Tensor) -> int:
    """Images (B, C, H, W) with two largest outputs."""
    first, second = copy(images).topk(2, dim=1).values.T
    return int((first == second).sum())


def measure(
    mask: Mask, images: Tensor, labels: Tensor, threat: ThreatModel, budget: int = 400
) -> Measured:
    """One copy of a model on images (B, C, H, W)."""
    with torch.no_grad():
        right = mask.copy(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    guided, _ = attacked(mask.guide, images, labels, threat, budget)
    found, passes = attacked(mask.copy, images, labels, threat, budget)
    return Measured(
        len(images),
        left_of(mask.judge, guided.images, labels),
        left_of(mask.judge, found.images, labels),
        ties_of(mask.copy, found.images),
        [warned.kind for warned in found.warned],
        passes,
    )


def attacked(
    module: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, budget: int
) -> tuple[AttackResult, float]:
    """What is found on ``module``, and passes a sample."""
    counted = as_counted(module, images, labels)
    cascade = Cascade(counted, images, labels, threat, seed=0, passes_per_sample=budget)
    cascade.left_out = LAST
    with seeded(0, images.device):
        found = cascade.run()
    return found, float(counted.passes(len(images)).mean())


def run(name: str, mask: str, threat: ThreatModel, samples: int, folder: Path | None) -> Result:
    """One copy of one model, on test samples."""
    entry, others = find_entry(name), [load_model(find_entry(other)) for other in BESIDE]
    data = load_dataset(entry.dataset, "test", folder)
    data = data.balanced_subset(min(samples, len(data)))
    chosen = masks(load_model(entry), list(others))[mask]
    found = measure(chosen, data.images(), data.labels, threat)
    return Result(
        model=name,
        weights=weights_of(entry),
        norm=threat.norm,
        eps=threat.eps_text,
        mask=mask,
        correct=found.correct,
        truth=found.truth,
        left=found.left,
        ties=found.ties,
        flags=" ".join(found.kinds),
        passes=found.passes,
        version=VERSION,
    )


BESIDE = ("mpat_digits", "centre_digits")  # what votes beside the model
EVERY = tuple(masks(nn.Identity(), [nn.Identity()]))


def table(results: list[Result]) -> Iterator[str]:
    """Truth, verdict and flag of each copy."""
    heads = ["model", "threat", "copy", "right", "truth", "`adaptive` leaves", "ties"]
    yield f"| {' | '.join([*heads, 'it says', 'passes'])} |"
    yield "|---|---|---|---:|---:|---:|---:|---|---:|"
    for r in results:
        yield (
            f"| `{r.model}` | {r.norm} {r.eps} | {r.mask} | {r.correct} | {r.truth} | {r.left} | "
            f"{r.ties or '–'} | {r.flags.replace(' ', ', ') or '–'} | {r.passes:,.0f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ce_digits")
    parser.add_argument("--eps", default="0.06")
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--samples", type=int, default=120)
    parser.add_argument("--masks", nargs="+", default=list(EVERY), choices=list(EVERY))
    parser.add_argument("--out", type=Path, default=Path("masked.csv"))
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args()
    norm: Norm = asked.norm
    threat = ThreatModel(norm, parse_eps(asked.eps))
    results = [r for r in stored.read(asked.out, Result) if r.version == VERSION]
    done = {(r.model, r.norm, r.eps, r.mask) for r in results}
    for mask in asked.masks:
        if (asked.model, norm, threat.eps_text, mask) in done:
            continue
        results.append(run(asked.model, mask, threat, asked.samples, asked.data_dir))
        stored.write(asked.out, results)
        print(f"{mask}: {results[-1].left} left, the truth is {results[-1].truth}", file=sys.stderr)
    print(*table(results), sep="\n")
    wrong = [r for r in results if not r.holds]
    for r in wrong:
        print(f"DOES NOT HOLD: {r.mask}: {r.left} left, the truth is {r.truth}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
