"""What many runs on large images take: passes, GPU-hours, bytes, objects and requests.

    python -m benchmarks.at_scale [--models 1000] [--samples 10000] [--classes 1000] [--side 224]
                                  [--suite full] [--images-per-second 2000]

Passes are the plan's own and at most: what breaks early takes fewer.  A backward pass counts as two
forward ones.  ``--images-per-second``: forward passes of the model on one GPU; measure your own.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from robusteval.data.raw import Shape
from robusteval.models.adapter import Parts
from robusteval.plan.plan import make_plan
from robusteval.plan.spec import RunSpec, default_batch
from robusteval.plan.suite import read_suite
from robusteval.run.costs import Costs, Passes

REQUESTS_A_JOB, REQUESTS_A_RUN = 3, 60  # at most: tests/stores/test_runs.py counts them
_FILES_A_RUN = 8  # run.json, the report's, what is about the run as a whole


@dataclass(frozen=True)
class Asked:
    """How many models and images of which size, and how soon one GPU passes an image."""

    models: int = 1000
    samples: int = 10_000
    classes: int = 1000
    side: int = 224
    suite: str = "full"
    images_per_second: float = 2000.0


def lines(asked: Asked = Asked()) -> Iterator[str]:
    """What it takes, as Markdown."""
    costs, passes = costs_of(asked), Passes()
    for job in costs.jobs():
        for part in costs.of(job).values():
            passes = passes.plus(part)
    passes = passes.plus(costs.conclusion)
    size, batch = f"3×{asked.side}×{asked.side}", costs.spec.batch_size
    images = f"{asked.samples:,} images of {size}, {batch} together"
    yield f"| {images} | one model | {asked.models:,} models |"
    yield "|---|---:|---:|"
    for name, one in rows(asked, costs, passes).items():
        yield f"| {name} | {_told(one)} | {_told(one * asked.models)} |"
    yield ""
    yield f"Of these passes {largest(costs, passes)}."


def costs_of(asked: Asked) -> Costs:
    """Of one run, as it would be planned on an accelerator."""
    suite = read_suite(asked.suite)
    spec = RunSpec(
        model="a model",
        model_digest="",
        dataset="own data",
        data_digest="",
        suite=suite,
        threats=[("Linf", "4/255"), ("L2", "3")],
        samples=asked.samples,
        seed=0,
        batch_size=default_batch(Shape(3, asked.side, asked.side), "cuda"),
        own_data=True,
    )
    return Costs(make_plan(suite, spec, Parts(layers=0, features=True)), spec, asked.classes)


def rows(asked: Asked, costs: Costs, passes: Passes) -> dict[str, float]:
    """Of one model."""
    jobs, pixels = len(costs.jobs()), 3 * asked.side**2
    stored = asked.samples * len(costs.plan.threats) * 2 * pixels  # 16 bits a pixel
    return {
        "jobs": jobs,
        "forward passes": passes.forward,
        "backward passes": passes.backward,
        f"GPU-hours at {asked.images_per_second:,.0f} a second": (
            _work(passes) / asked.images_per_second / 3600
        ),
        "stored images, GB": stored / 1e9,
        "files or objects": 2 * jobs + _FILES_A_RUN,
        "requests to a store": REQUESTS_A_JOB * jobs + REQUESTS_A_RUN,
    }


def largest(costs: Costs, passes: Passes) -> str:
    """Which attacks take most of it."""
    shares: dict[str, float] = {}
    for cell, one in zip(costs.plan.cells, costs.expected, strict=True):
        share = _work(one) * costs.spec.samples / _work(passes)
        shares[cell.spec.title] = shares.get(cell.spec.title, 0.0) + share
    first = sorted(shares, key=lambda title: -shares[title])[:3]
    *most, last = (f"{title} takes {shares[title]:.0%}" for title in first)
    return f"{', '.join(most)} and {last}"


def _work(passes: Passes) -> float:
    """In forward passes."""
    return passes.forward + 2 * passes.backward


def _told(value: float) -> str:
    """With three digits that count."""
    for size, unit in ((1e12, " × 10¹²"), (1e9, " × 10⁹"), (1e6, " × 10⁶")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in fields(Asked):
        kind: Any = option.type
        name = f"--{option.name.replace('_', '-')}"
        parser.add_argument(name, type=kind, default=option.default)
    print("\n".join(lines(Asked(**vars(parser.parse_args())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
