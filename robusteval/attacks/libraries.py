"""torchattacks and AutoAttack by name, with their own parameter names.

Both are imported when first used.  Each returned image is judged again by the harness: a
library's own word for success is never taken.
"""

import inspect
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robusteval.attacks.counting import PositiveLogits, as_counted
from robusteval.attacks.steps import project
from robusteval.errors import AttackError
from robusteval.types import ThreatModel
from robusteval.vision import torchvision

Version = Literal["standard", "rand"]
_WORDS = {"standard": 1, "rand": 20}  # passes that decide what a member broke, as many as its own
# Attacks of torchattacks that take no ε: their images count where they lie within it.
WITHOUT_EPS = ("CW", "DeepFool")
# Its last steps are as small as the logits' last bits: a shift coarsens those, and costs it half
# as many steps again.  It reads differences only, so it needs none.
_WITHOUT_SHIFT = ("DeepFool",)
# Attacks that work in tanh space cannot move a pixel that is exactly 0 or 1.
_TANH_SPACE = ("CW",)


# What the standard version runs, for the report.
AUTOATTACK_PARAMETERS: dict[str, Any] = {
    "version": "standard",
    "apgd_steps": 100,
    "fab_steps": 100,
    "targets": "min(9, K − 1)",
    "square_queries": 5000,
    "restarts": 1,
}


@dataclass
class AttackResult:
    """Adversarial images, and what the library told and warned of on the way."""

    images: Tensor
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def seed_everything(seed: int) -> None:
    """Seeds every global generator that a library may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it every global generator that a library may draw from begins at a seed; after it
    they go on as if nothing had been drawn."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_everything(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def torchattacks_module() -> ModuleType:
    """torchattacks, which needs torchvision to be importable."""
    torchvision()
    return import_module("torchattacks")


def torchattacks_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    name: str,
    seed: int,
    parameters: dict[str, Any],
) -> AttackResult:
    """One attack of torchattacks, by its class name and its own parameters.

    ε is passed as ``eps``, and ``norm`` and ``seed`` to what takes them.  Raises AttackError for an
    unknown attack or parameter.
    """
    counted = as_counted(model, images)
    keywords = dict(parameters)
    if name not in WITHOUT_EPS:
        keywords["eps"] = threat.radius
    if (kind := getattr(torchattacks_module(), name, None)) is None:
        raise AttackError(f"torchattacks has no attack {name!r}: check its name")
    taken = inspect.signature(kind).parameters
    told = {"norm": threat.norm, "seed": seed % 2**31}
    keywords |= {key: value for key, value in told.items() if key in taken}
    try:
        seen = counted if name in _WITHOUT_SHIFT else PositiveLogits(counted)
        with redirect_stdout(StringIO()):  # it prints where a model has no parameters
            attack = kind(seen, **keywords)
    except TypeError as error:
        raise AttackError(f"torchattacks.{name}: {error}: use its own parameter names") from None
    start = images.clamp(1e-6, 1 - 1e-6) if name in _TANH_SPACE else images
    attack.set_device(images.device)
    with seeded(seed, images.device):
        adversarial = attack(start.contiguous(), labels)
    if name in _TANH_SPACE:  # what it did not move is the clean image, to the bit
        adversarial = torch.where(adversarial == start, images, adversarial)
    return AttackResult(adversarial.detach())


def autoattack_members(classes: int, version: Version = "standard") -> tuple[tuple[str, ...], str]:
    """The valid members of AutoAttack for K classes, and why others are left out.

    DLR needs 3 classes, its targeted form 4.
    """
    if version == "rand":
        if classes >= 3:
            return ("apgd-ce", "apgd-dlr"), ""
        return ("apgd-ce",), "apgd-dlr is left out, since DLR needs 3 classes"
    if classes >= 4:
        return ("apgd-ce", "apgd-t", "fab-t", "square"), ""
    if classes == 3:
        return (
            ("apgd-ce", "apgd-dlr", "fab-t", "square"),
            "apgd-t is left out, since targeted DLR needs 4 classes; apgd-dlr stands in for it",
        )
    return ("apgd-ce", "fab-t", "square"), "apgd-t is left out, since DLR needs 3 classes"


def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int,
    version: Version = "standard",
) -> AttackResult:
    """AutoAttack by its authors (pyautoattack), its members one by one on survivors.

    That is what its evaluation does itself; one by one it tells what each member broke.  Square
    has its 5,000 queries.  With fewer than four classes the valid members run.  ``version`` "rand"
    is theirs for random models: APGD over the mean gradient of 20 passes.
    """
    import pyautoattack
    from pyautoattack import checks

    counted = as_counted(model, images)
    members, left_out = autoattack_members(counted.classes, version)
    notes = [left_out] if left_out else []
    for key in checks.funcs:  # a module global that else flags every later model
        checks.funcs[key] = 0
    evaluation = pyautoattack.AutoAttack(
        PositiveLogits(counted),
        norm=threat.norm,
        eps=threat.radius,
        seed=seed % 2**31,
        version=version,
        device=images.device,
    )
    targets = min(9, counted.classes - 1)
    evaluation.apgd_targeted.n_target_classes = targets
    evaluation.fab.n_target_classes = targets
    result = images.clone()
    alive = torch.arange(len(images), device=images.device)
    with _warnings_of("auto-attack") as warnings, seeded(seed, images.device):
        # On the logits as they are: the shift would hide that they are probabilities.
        checks.check_range_output(counted, images, logger=evaluation.logger)
        for member in members:
            if len(alive) == 0:
                break
            evaluation.attacks_to_run = [member]
            with counted.attending(alive):
                found, _ = evaluation.run_standard_evaluation(
                    images[alive].contiguous(), labels[alive], batch_size=len(alive)
                )
            # Judged as it will count, so that a near miss meets the remaining members too.
            result[alive] = project(found, images[alive], threat)
            with torch.no_grad():
                logits = torch.stack([counted(result[alive]) for _ in range(_WORDS[version])])
            survives = logits.mean(0).argmax(1) == labels[alive]
            broken = int((~survives).sum())
            notes.append(f"{member} broke {broken} of {len(alive)}")
            alive = alive[survives]
    return AttackResult(result, notes, sorted(warnings))


@contextmanager
def _warnings_of(name: str) -> Iterator[set[str]]:
    """Collects a logger's warnings instead of printing them."""
    collected: set[str] = set()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.add(record.getMessage())

    logger, handler = logging.getLogger(name), Collect(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield collected
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
