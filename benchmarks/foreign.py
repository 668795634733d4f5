"""Attacks of Foolbox, ART and adv-lib on what ``full`` calls robust: they should break nothing.

    python -m benchmarks.foreign [--model pcl_mnist ...] [--norm L2] [--samples 500]
                                 [--out benchmarks/results/foreign.csv] [--data-dir DIR]

By default on six models, in L∞ at the data set's ε.  The samples are those that ``adaptive`` leaves
at the budget that it has in ``full``; the suite's other attacks could only leave fewer.  Whatever
another tool breaks of them is shown to those; what they leave, too, is beyond ``full``.  Tools are
called as their users call them; every image is judged as in a run.  A row is stored as soon as it
is known, and not measured again unless ``adaptive`` or the model has changed.

Holds where no tool breaks a sample that ``full`` leaves.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import stored
from benchmarks.attacks import OURS, VERSION, weights_of
from benchmarks.rivals import stands
from robusteval.attacks.adaptive import adaptive_result
from robusteval.attacks.counting import as_counted
from robusteval.attacks.registry import find
from robusteval.data.datasets import load_dataset
from robusteval.errors import AttackError
from robusteval.evidence.judge import judge
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.plan.suite import AttackSpec, read_suite
from robusteval.types import Norm, ThreatModel

OUT = Path(__file__).parent / "results" / "foreign.csv"
MODELS = (
    *("pcl_mnist", "ce_at_mnist", "mpat_at_mnist"),
    *("pcl_cifar10", "ce_at_cifar10", "mpat_at_cifar10"),
)
BUDGET = 1000  # as in ``full``
BATCH = 128
_ORDERS: dict[Norm, float] = {"Linf": float("inf"), "L2": 2.0}
Call = Callable[[Adapter, Tensor, Tensor, ThreatModel], Tensor]


def by_name(library: str, name: str, **parameters: Any) -> Call:
    """An attack of Foolbox or adv-lib."""

    def call(model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        counted = as_counted(model, images)
        return find(library, name).run(counted, images, labels, threat, 0, parameters).images

    return call


def by_art(name: str, told: bool = True, **parameters: Any) -> Call:
    """An attack of the Adversarial Robustness Toolbox; ``told``: whether it takes ε."""

    def call(model: Adapter, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        seen = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=model.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        order = {"norm": _ORDERS[threat.norm]} if told else {}
        size = {"eps": threat.radius, "eps_step": threat.radius / 8} if told else {}
        attack = getattr(evasion, name)(seen, **order, **size, **parameters)
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return call


_PGD: dict[str, Any] = {
    "max_iter": 100,
    "num_random_init": 2,
    "batch_size": BATCH,
    "verbose": False,
}
_APGD: dict[str, Any] = {
    "max_iter": 100,
    "nb_random_init": 1,
    "batch_size": BATCH,
    "verbose": False,
}
_ONCE: dict[str, Any] = {"batch_size": BATCH, "verbose": False}
# In either norm.
_BOTH: dict[str, Call] = {
    "adv-lib apgd": by_name("advlib", "apgd", n_iter=100),
    "adv-lib apgd_targeted": by_name("advlib", "apgd_targeted", n_iter=100),
    "adv-lib fab": by_name("advlib", "fab", n_iter=100),
    "adv-lib fmn": by_name("advlib", "fmn", steps=200),
    "adv-lib tr": by_name("advlib", "tr"),
    "ART PGD": by_art("ProjectedGradientDescentPyTorch", **_PGD),
    "ART AutoPGD": by_art("AutoProjectedGradientDescent", **_APGD),
}
CALLS: dict[Norm, dict[str, Call]] = {
    "Linf": {
        **_BOTH,
        "Foolbox LinfPGD": by_name("foolbox", "LinfPGD", steps=100),
        "Foolbox LinfAdamPGD": by_name("foolbox", "LinfAdamPGD", steps=100),
        "Foolbox MIFGSM": by_name("foolbox", "MIFGSM", steps=100),
        "Foolbox LinfDeepFool": by_name("foolbox", "LinfDeepFoolAttack"),
        "Foolbox LInfFMN": by_name("foolbox", "LInfFMNAttack", steps=200),
        "adv-lib pdpgd": by_name("advlib", "pdpgd", num_steps=200),
        "ART AutoConjugateGradient": by_art("AutoConjugateGradient", **_APGD),
        "ART MomentumIterativeMethod": by_art(
            "MomentumIterativeMethod", max_iter=100, batch_size=BATCH, verbose=False
        ),
    },
    "L2": {
        **_BOTH,
        "Foolbox L2PGD": by_name("foolbox", "L2PGD", steps=100),
        "Foolbox L2AdamPGD": by_name("foolbox", "L2AdamPGD", steps=100),
        "Foolbox L2DeepFool": by_name("foolbox", "L2DeepFoolAttack"),
        "Foolbox DDN": by_name("foolbox", "DDNAttack", steps=200),
        "Foolbox L2CarliniWagner": by_name(
            "foolbox", "L2CarliniWagnerAttack", binary_search_steps=5, steps=200
        ),
        "adv-lib alma": by_name("advlib", "alma", num_steps=500),
        "adv-lib ddn": by_name("advlib", "ddn", steps=200),
        "adv-lib pdgd": by_name("advlib", "pdgd", num_steps=200),
        "adv-lib sdf": by_name("advlib", "sdf"),
        "ART DeepFool": by_art("DeepFool", told=False, **_ONCE),
    },
}


@dataclass(frozen=True)
class Result:
    """One attack on the samples that ``adaptive`` leaves of ``correct``: how many it ``broke``, and
    how many of these the other attacks of ``full`` don't break."""

    model: str
    weights: str
    norm: str
    eps: str
    samples: int
    correct: int
    left: int
    attack: str
    broke: int
    beyond_full: int
    note: str
    version: int

    @property
    def holds_today(self) -> bool:
        """Whether model and attack are still what they were."""
        return stands(OURS, self.version) and self.weights == weights_of(find_entry(self.model))


@dataclass(frozen=True)
class Left:
    """What ``adaptive`` leaves of a model's ``correct`` samples."""

    model: Adapter
    images: Tensor
    labels: Tensor
    correct: int
    threat: ThreatModel

    @classmethod
    def of(cls, name: str, norm: Norm, samples: int, folder: Path | None) -> "Left":
        """Of so many test images of a model, at the data set's ε."""
        entry = find_entry(name)
        data = load_dataset(entry.dataset, "test", folder)
        data = data.balanced_subset(min(samples, len(data)))
        model, threat = load_model(entry), data.info.default_threat(norm)
        images, labels = data.images(), data.labels
        with torch.no_grad():
            right = torch.cat([model(some) for some in images.split(BATCH)]).argmax(1) == labels
        images, labels = images[right], labels[right]
        rows = torch.arange(len(images)).split(BATCH)
        found = [
            adaptive_result(model, images[at], labels[at], threat, passes_per_sample=BUDGET).images
            for at in rows
        ]
        kept = ~judge(model, torch.cat(found), images, labels, threat, bound=True).fooled
        return cls(model, images[kept], labels[kept], len(images), threat)

    def broken_by(self, call: Call) -> Tensor:
        """Which of them (N,)."""
        found = [
            call(self.model, self.images[at], self.labels[at], self.threat).float()
            for at in torch.arange(len(self.images)).split(BATCH)
        ]
        points = torch.cat(found).clamp(0, 1)
        return judge(self.model, points, self.images, self.labels, self.threat, bound=True).fooled

    def beyond(self, broken: Tensor) -> int:
        """How many of those that a tool broke (N,) no other attack of ``full`` does."""
        images, labels = self.images[broken], self.labels[broken]
        for spec in read_suite("full").attacks:
            own = spec.library == "robusteval" and spec.attack == "adaptive"
            if own or self.threat.norm not in spec.norms:
                continue
            for seed in range(spec.restarts):
                if len(images) == 0:
                    return 0
                left = ~self._broken_as(spec, images, labels, seed)
                images, labels = images[left], labels[left]
        return len(images)

    def _broken_as(self, spec: AttackSpec, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Which of the images (N, C, H, W) an attack breaks as a suite has it (N,); none where it
        can't run, as those that need prototypes on a model without."""
        attack, given = find(spec.library, spec.attack), spec.parameters_for(self.threat)
        counted = as_counted(self.model, images)
        try:
            found = attack.run(counted, images, labels, self.threat, seed, given).images
        except AttackError:
            return torch.zeros(len(images), dtype=torch.bool)
        return judge(self.model, found, images, labels, self.threat, bound=True).fooled


def measured(left: Left, call: Call) -> tuple[int, int, str]:
    """Samples broken, those beyond ``full``, and why, if it couldn't run."""
    try:
        broken = left.broken_by(call) if len(left.images) else torch.zeros(0, dtype=torch.bool)
    except AttackError as error:
        return 0, 0, str(error)
    return int(broken.sum()), left.beyond(broken), ""


def results_of(
    name: str, norm: Norm, asked: Sequence[str], samples: int, folder: Path | None
) -> Iterator[Result]:
    """Of the attacks that are asked for."""
    entry, left = find_entry(name), Left.of(name, norm, samples, folder)
    for attack in asked:
        broke, beyond, note = measured(left, CALLS[norm][attack])
        yield Result(
            model=name,
            weights=weights_of(entry),
            norm=norm,
            eps=left.threat.eps_text,
            samples=samples,
            correct=left.correct,
            left=len(left.images),
            attack=attack,
            broke=broke,
            beyond_full=beyond,
            note=note,
            version=VERSION,
        )


def table(results: Sequence[Result]) -> Iterator[str]:
    """One row for each model: what is left, what tools break of it, and what of that is beyond
    ``full``."""
    yield "| model | threat | right | `adaptive` leaves | attacks | broken by one | beyond `full` |"
    yield "|---|---|---:|---:|---:|---|---:|"
    for place in dict.fromkeys((r.model, r.norm, r.eps) for r in results):
        own = [r for r in results if (r.model, r.norm, r.eps) == place]
        broken = ", ".join(f"{r.broke} by {r.attack}" for r in own if r.broke) or "none"
        ran = sum(not r.note for r in own)
        yield (
            f"| `{place[0]}` | {place[1]} {place[2]} | {own[0].correct} | {own[0].left} | {ran} | "
            f"{broken} | {max(r.beyond_full for r in own)} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--data-dir", type=Path)
    asked = parser.parse_args(argv)
    norm: Norm = asked.norm
    results = [r for r in stored.read(asked.out, Result) if r.holds_today]
    for name in asked.model:
        done = {r.attack for r in results if (r.model, r.norm) == (name, norm)}
        missing = [attack for attack in CALLS[norm] if attack not in done]
        if not missing:
            continue
        for result in results_of(name, norm, missing, asked.samples, asked.data_dir):
            results.append(result)
            stored.write(asked.out, results)
            told = f"{result.model}: {result.attack} broke {result.broke} of {result.left}"
            print(told, result.note, file=sys.stderr)
    print(*table(results), sep="\n")
    wrong = [r for r in results if r.beyond_full]
    for r in wrong:
        print(f"DOES NOT HOLD: {r.model}, {r.norm}: {r.attack} breaks {r.beyond_full} more")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
