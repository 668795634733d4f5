"""torchattacks and AutoAttack through the adapter, beside the library on the plain model.

    python -m benchmarks.libraries [--model ce_at_cifar10] [--samples 1000]
                                   [--attacks pgd20 pgd20_fixed autoattack] [--data-dir DIR]
                                   [--device cuda]

Plain: the library called on the model as it is, batch by batch, on all samples, as its users do.
Through the adapter: as `robusteval run` calls it, on initially correct samples, on the form of the
model that is fastest here; choosing and compiling that form is part of its seconds, and so is the
allocator that a run sets up and a plain loop doesn't.  Prints what each leaves, by the plain model
in float32, the samples that differ, McNemar's p, and the ratio of seconds.

Holds where the adapter is at least 1.8 times faster, and what is left the same: with random starts
by McNemar's test, without them (``pgd20_fixed``) in all but near-ties.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robusteval.attacks.counting import Counted
from robusteval.attacks.libraries.autoattack import autoattack
from robusteval.attacks.libraries.torchattacks import torchattacks_attack
from robusteval.attacks.libraries.torchattacks import torchattacks_module as torchattacks
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.seeding import seed_everything
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.evidence.judge import near_tie
from robusteval.hardware import exact_float32, keep_freed_memory
from robusteval.models.acceleration import Forms, choose_forms, static_batch
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.numerics import mcnemar
from robusteval.plan.spec import default_batch
from robusteval.types import ThreatModel

SHARE = 1 / 4  # of ε: PGD's step
PASSES = {"pgd20": 20, "pgd20_fixed": 20, "autoattack": 2000}  # backward, of a sample that holds


@dataclass(frozen=True)
class Outcome:
    """Margins (N,), above 0 where a sample is broken, and seconds."""

    margins: Tensor
    seconds: float

    @property
    def robust(self) -> Tensor:
        """Which samples (N,) are left."""
        return self.margins <= 0


def batches(model: Adapter, data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels as a run cuts them, where the model is."""
    device = next(model.parameters()).device
    for rows in torch.arange(len(data)).split(default_batch(data.info.shape, str(device))):
        yield data.images(rows).to(device), data.labels[rows].to(device)


def plainly(model: Adapter, name: str, data: Dataset, threat: ThreatModel) -> Outcome:
    """The library's own call on every sample."""
    import pyautoattack

    margins, started = [], time.perf_counter()
    for images, labels in batches(model, data):
        seed_everything(0)
        if name == "autoattack":
            whole = pyautoattack.AutoAttack(
                model,
                norm=threat.norm,
                eps=threat.radius,
                seed=0,
                version="standard",
                device=images.device,
            )
            found = whole.run_standard_evaluation(images, labels, batch_size=len(images))[0]
        else:
            attack = torchattacks().PGD(model, eps=threat.radius, **_settings(name, threat))
            found = attack(images, labels)
        margins.append(_margins(model, found, images, labels))
    return Outcome(torch.cat(margins), time.perf_counter() - started)


def through_the_adapter(model: Adapter, name: str, data: Dataset, threat: ThreatModel) -> Outcome:
    """The same, unmodified, as the harness calls it."""
    started = time.perf_counter()
    device = next(model.parameters()).device
    probe = data.images(slice(0, static_batch(device))).to(device)
    forms = Forms.of(model, *choose_forms(model, probe, PASSES[name] * len(data)))
    margins = []
    for images, labels in batches(model, data):
        with torch.no_grad():
            right = torch.nonzero(model(images).argmax(1) == labels)[:, 0]
        counted, found = Counted(forms.libraries, len(right)), images.clone()
        some = (images[right], labels[right], threat)
        if name == "autoattack":
            found[right] = autoattack(counted, *some, seed=0).images
        else:
            keywords = {"seed": 0, "name": "PGD", "parameters": _settings(name, threat)}
            found[right] = torchattacks_attack(counted, *some, **keywords).images
        margins.append(_margins(model, found, images, labels))
    return Outcome(torch.cat(margins), time.perf_counter() - started)


def _settings(name: str, threat: ThreatModel) -> dict[str, object]:
    return {"alpha": SHARE * threat.radius, "steps": 20, "random_start": name == "pgd20"}


@torch.no_grad()
def _margins(model: Adapter, found: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """The larger of a sample's two: what is mispredicted unattacked is broken, too."""
    with exact_float32():
        clean, moved = (logit_margin(model(x), labels) for x in (images, found))
    return torch.maximum(clean, moved).cpu()


def compare(name: str, plain: Outcome, ours: Outcome, tie: float) -> bool:
    """Prints what each leaves, and how long it took; whether that holds.

    ``tie``: the margin up to which a sample is nearly a tie.
    """
    differ = plain.robust != ours.robust
    only_plain = int((plain.robust & differ).sum())
    only_ours = int((ours.robust & differ).sum())
    ratio, p = plain.seconds / ours.seconds, mcnemar(only_plain, only_ours)
    closest = torch.minimum(plain.margins.abs(), ours.margins.abs())[differ]
    ties = int((closest < tie).sum())
    print(
        f"{name}: plain leaves {int(plain.robust.sum())} in {plain.seconds:.1f} s, through the "
        f"adapter {int(ours.robust.sum())} in {ours.seconds:.1f} s; {only_plain} and {only_ours} "
        f"are left by one alone ({ties} of them near-ties), p = {p:.2f}; {ratio:.2f} times faster",
        flush=True,
    )
    same = ties == len(closest) if name.endswith("fixed") else p > 0.05
    return same and ratio >= 1.8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ce_at_cifar10")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--attacks", nargs="+", default=[*PASSES], choices=[*PASSES])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    entry = find_entry(arguments.model)
    data = load_dataset(entry.dataset, "test", arguments.data_dir)
    data = data.balanced_subset(min(arguments.samples, len(data)))
    model, threat = load_model(entry, arguments.device), data.info.default_threat("Linf")
    torchattacks()  # imports take their time, and so does an accelerator's first pass
    with torch.no_grad():
        logits = model(data.images(slice(0, 100)).to(arguments.device))
    tie = near_tie((logits.amax(1) - logits.amin(1)).cpu().numpy())
    plain = {name: plainly(model, name, data, threat) for name in arguments.attacks}
    keep_freed_memory()  # as a run does, and a plain loop doesn't
    ours = {name: through_the_adapter(model, name, data, threat) for name in arguments.attacks}
    found = [compare(name, plain[name], ours[name], tie) for name in arguments.attacks]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
