"""What many runs on large images take: passes, GPU-hours, bytes, objects and requests.

    python -m benchmarks.at_scale [--models 1000] [--samples 10000] [--classes 1000] [--side 224]
                                  [--suite full] [--images-per-second 2000]

Passes are the plan's own and at most: what breaks early takes fewer.  A backward pass counts as two
forward ones.  ``--images-per-second``: forward passes of the model on one GPU; measure your own.
"""

import argparse
import sys

from robusteval.data.raw import Shape
from robusteval.models.adapter import Parts
from robusteval.plan.plan import make_plan
from robusteval.plan.spec import RunSpec, default_batch
from robusteval.plan.suite import read_suite
from robusteval.run.costs import Costs, Passes

REQUESTS_A_JOB, REQUESTS_A_RUN = 3, 60  # at most: tests/stores/test_runs.py counts them
_FILES_A_RUN = 8  # run.json, the report's, what is about the run as a whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--suite", default="full")
    parser.add_argument("--images-per-second", type=float, default=2000.0)
    asked = parser.parse_args()
    shape, suite = Shape(3, asked.side, asked.side), read_suite(asked.suite)
    spec = RunSpec(
        model="a model",
        model_digest="",
        dataset="own data",
        data_digest="",
        suite=suite,
        threats=[("Linf", "4/255"), ("L2", "3")],
        samples=asked.samples,
        seed=0,
        batch_size=default_batch(shape, "cuda"),
        own_data=True,
    )
    plan = make_plan(suite, spec, Parts(layers=0, features=True))
    costs = Costs(plan, spec, asked.classes)
    passes = costs.conclusion
    for job in costs.jobs():
        for part in costs.of(job).values():
            passes = passes.plus(part)
    tell(asked, passes, len(costs.jobs()), len(plan.threats), spec.batch_size)
    tell_largest(costs, passes)
    return 0


def tell_largest(costs: Costs, passes: Passes) -> None:
    """Which attacks take most of it."""
    shares: dict[str, float] = {}
    for cell, one in zip(costs.plan.cells, costs.expected, strict=True):
        share = _work(one) * costs.spec.samples / _work(passes)
        shares[cell.spec.title] = shares.get(cell.spec.title, 0.0) + share
    largest = sorted(shares, key=lambda title: -shares[title])[:4]
    print("of these passes: " + ", ".join(f"{title} {shares[title]:.0%}" for title in largest))


def _work(passes: Passes) -> float:
    return passes.forward + 2 * passes.backward


def tell(asked: argparse.Namespace, passes: Passes, jobs: int, threats: int, batch: int) -> None:
    """A row for each thing, of one model and of all."""
    images = asked.samples * threats * 2 * 3 * asked.side**2  # 16 bits a pixel, one for each threat
    rows = {
        "jobs": jobs,
        "forward passes": passes.forward,
        "backward passes": passes.backward,
        "GPU-hours": _work(passes) / asked.images_per_second / 3600,
        "stored images at most, GB": images / 1e9,
        "objects at most": 2 * jobs + _FILES_A_RUN,
        "requests to a store": REQUESTS_A_JOB * jobs + REQUESTS_A_RUN,
    }
    size = f"3×{asked.side}×{asked.side}"
    print(f"{asked.suite}, {asked.samples:,} images of {size}, batches of {batch}")
    print(f"| | one model | {asked.models:,} models |")
    print("|---|---:|---:|")
    for name, one in rows.items():
        print(f"| {name} | {_told(one)} | {_told(one * asked.models)} |")


def _told(value: float) -> str:
    """With three digits that count."""
    for size, unit in ((1e12, " × 10¹²"), (1e9, " × 10⁹"), (1e6, " × 10⁶")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
