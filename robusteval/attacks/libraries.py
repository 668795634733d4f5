"""torchattacks and AutoAttack by name, with their own parameter names.

Both are imported when first used.  Each returned image is judged again by the harness: a
library's own word for success is never taken.
"""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robusteval.attacks.counting import Counted, PositiveLogits
from robusteval.attacks.steps import project
from robusteval.errors import AttackError
from robusteval.types import ThreatModel
from robusteval.vision import torchvision

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


def torchattacks_module() -> ModuleType:
    """torchattacks, which needs torchvision to be importable."""
    torchvision()
    return import_module("torchattacks")


def torchattacks_attack(
    model: Counted,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    name: str,
    seed: int,
    parameters: dict[str, Any],
) -> AttackResult:
    """One attack of torchattacks, by its class name and its own parameters.

    ε is passed as ``eps``, and Square's ``norm`` and ``seed`` with it.  Raises AttackError for an
    unknown attack or parameter.
    """
    seed_everything(seed)
    keywords = dict(parameters)
    if name not in WITHOUT_EPS:
        keywords["eps"] = threat.radius
    if name == "Square":
        keywords |= {"norm": threat.norm, "seed": seed % 2**31}
    try:
        seen = model if name in _WITHOUT_SHIFT else PositiveLogits(model)
        with redirect_stdout(StringIO()):  # it prints where a model has no parameters
            attack = getattr(torchattacks_module(), name)(seen, **keywords)
    except AttributeError:
        raise AttackError(f"torchattacks has no attack {name!r}: check its name") from None
    except TypeError as error:
        raise AttackError(f"torchattacks.{name}: {error}: use its own parameter names") from None
    start = images.clamp(1e-6, 1 - 1e-6) if name in _TANH_SPACE else images
    attack.set_device(images.device)
    adversarial = attack(start.contiguous(), labels)
    if name in _TANH_SPACE:  # what it did not move is the clean image, to the bit
        adversarial = torch.where(adversarial == start, images, adversarial)
    return AttackResult(adversarial.detach())


def autoattack_members(classes: int) -> tuple[tuple[str, ...], str]:
    """The valid members of standard AutoAttack for K classes, and why others are left out.

    DLR needs 3 classes, its targeted form 4.
    """
    if classes >= 4:
        return ("apgd-ce", "apgd-t", "fab-t", "square"), ""
    if classes == 3:
        return (
            ("apgd-ce", "apgd-dlr", "fab-t", "square"),
            "apgd-t is left out, since targeted DLR needs 4 classes; apgd-dlr stands in for it",
        )
    return ("apgd-ce", "fab-t", "square"), "apgd-t is left out, since DLR needs 3 classes"


def autoattack(
    model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel, *, seed: int
) -> AttackResult:
    """Standard AutoAttack by its authors (pyautoattack), its members one by one on survivors.

    That is what the standard evaluation does itself; one by one it tells what each member broke.
    Square has its 5,000 queries.  With fewer than four classes the valid members run.
    """
    import pyautoattack
    from pyautoattack import checks

    members, left_out = autoattack_members(model.classes)
    notes = [left_out] if left_out else []
    for key in checks.funcs:  # a module global that else flags every later model
        checks.funcs[key] = 0
    seed_everything(seed)
    evaluation = pyautoattack.AutoAttack(
        PositiveLogits(model),
        norm=threat.norm,
        eps=threat.radius,
        seed=seed % 2**31,
        version="standard",
        device=images.device,
    )
    targets = min(9, model.classes - 1)
    evaluation.apgd_targeted.n_target_classes = targets
    evaluation.fab.n_target_classes = targets
    result = images.clone()
    alive = torch.arange(len(images), device=images.device)
    with _warnings_of("auto-attack") as warnings:
        # On the logits as they are: the shift would hide that they are probabilities.
        checks.check_range_output(model, images, logger=evaluation.logger)
        for member in members:
            if len(alive) == 0:
                break
            evaluation.attacks_to_run = [member]
            with model.attending(alive):
                found, _ = evaluation.run_standard_evaluation(
                    images[alive].contiguous(), labels[alive], batch_size=len(alive)
                )
            # Judged as it will count, so that a near miss meets the remaining members too.
            result[alive] = project(found, images[alive], threat)
            with torch.no_grad():
                survives = model(result[alive]).argmax(1) == labels[alive]
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
