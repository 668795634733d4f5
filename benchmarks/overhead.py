"""What planning, storing and verifying cost beside a bare loop over the same attacks.

    python -m benchmarks.overhead [--model pcl_digits] [--suite full] [--samples all] [--pairs 3]

The bare loop calls each library on the plain model, chunk by chunk, on the initially correct
samples, and looks at the predictions; detection and diagnostics are left out of both.  Both are
timed in turns in this process; prints seconds and the ratio of the medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyautoattack
import torch
from torch import Tensor

from robusteval import api
from robusteval.attacks.libraries.autoattack import autoattack_members
from robusteval.attacks.libraries.torchattacks import torchattacks_module
from robusteval.attacks.results import AttackResult
from robusteval.plan.plan import Cell, job_seed
from robusteval.plan.suite import read_suite
from robusteval.run.prepare import Prepared, prepare
from robusteval.run.subject import Asked


def bare_attack(model: Any, cell: Cell, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """The library's own call, with nothing around it."""
    threat, spec = cell.threats[0], cell.spec
    torch.manual_seed(seed)
    if spec.library == "robusteval":
        found = cell.attack.function(model, images, labels, threat, seed=seed, **cell.parameters)
        return found.images if isinstance(found, AttackResult) else found
    if spec.library == "autoattack":
        evaluation = pyautoattack.AutoAttack(
            model, norm=threat.norm, eps=threat.radius, seed=seed % 2**31, device=images.device
        )
        evaluation.attacks_to_run = list(autoattack_members(model.classes)[0])
        return evaluation.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    keywords = dict(cell.parameters)
    if cell.attack.knows_eps:
        keywords["eps"] = threat.radius
    if spec.attack == "Square":
        keywords |= {"norm": threat.norm, "seed": seed % 2**31}
    if spec.attack == "CW":  # tanh space, see the harness
        images = images.clamp(1e-6, 1 - 1e-6)
    return getattr(torchattacks_module(), spec.attack)(model, **keywords)(images, labels)


def bare_loop(prepared: Prepared) -> dict[str, int]:
    """Survivors of each attack."""
    context, survivors = prepared.context, {}
    for cell in context.plan.cells:
        left = 0
        for index, chunk in enumerate(context.plan.chunks):
            images, labels = context.images(chunk), context.labels(chunk)
            with torch.no_grad():
                right = context.model(images).argmax(1) == labels
            images, labels = images[right], labels[right]
            for restart in range(cell.spec.restarts):
                if len(images) == 0:
                    break
                seed = job_seed(context.spec.seed, cell, index, restart)
                found = bare_attack(context.model, cell, images, labels, seed)
                with torch.no_grad():
                    holds = context.model(found).argmax(1) == labels
                images, labels = images[holds], labels[holds]
            left += len(images)
        survivors[cell.key] = left
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="pcl_digits")
    parser.add_argument("--suite", default="full")
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    suite = read_suite(arguments.suite).model_dump()
    names = [attack["name"] for attack in suite["attacks"]]
    work = Path(tempfile.mkdtemp())
    path = work / "plain.toml"
    path.write_text(plain_suite(arguments.suite), "utf-8")
    bare, harness = [], []
    for pair in range(arguments.pairs):
        options = api.Options(samples=arguments.samples, out=work / str(pair))
        prepared = prepare(Asked(arguments.model), str(path), options)
        started = time.perf_counter()
        bare_loop(prepared)
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        api.evaluate(arguments.model, str(path), options=options)
        harness.append(time.perf_counter() - started)
        print(f"bare {bare[-1]:7.2f} s, harness {harness[-1]:7.2f} s, {harness[-1] / bare[-1]:.3f}")
    ratio = statistics.median(h / b for h, b in zip(harness, bare, strict=True))
    print(f"{len(names)} attacks: harness takes {ratio:.3f} of the bare loop's time")
    return 0 if ratio <= 1.1 else 1


def plain_suite(name: str) -> str:
    """A suite of the project without its detection and diagnostics."""
    from importlib.resources import files

    text = (files("robusteval") / "suites" / f"{name}.toml").read_text("utf-8")
    return text[: text.index("[detection]")]


if __name__ == "__main__":
    sys.exit(main())
