"""The attacks that ``attacks`` and ``curves`` compare, each as it is called on a model."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robusteval.attacks.adaptive import adaptive
from robusteval.attacks.counting import BACKWARD, Counted
from robusteval.attacks.cr import cr
from robusteval.attacks.libraries.advlib import advlib_attack
from robusteval.attacks.libraries.autoattack import autoattack, autoattack_members
from robusteval.attacks.libraries.torchattacks import torchattacks_module
from robusteval.attacks.pma import pma
from robusteval.attacks.registry import OWN, find
from robusteval.attacks.seeding import seed_everything
from robusteval.types import ThreatModel

Attack = Callable[[Counted, Tensor, Tensor, ThreatModel], Tensor]
_STEP = 1 + BACKWARD  # passes of one step, a backward one counted as two


def ours(function: Callable[..., Tensor], **parameters: Any) -> Attack:
    """An attack of the project."""

    def attack(model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        return function(model, images, labels, threat, **parameters)

    return attack


def standard(model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """AutoAttack, its members on survivors."""
    return autoattack(model, images, labels, threat, seed=0).images


def apgd_t(model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
    """AutoAttack's targeted APGD alone."""
    import pyautoattack

    whole = pyautoattack.AutoAttack(
        model, norm=threat.norm, eps=threat.radius, seed=0, version="standard", device=images.device
    )
    whole.apgd_targeted.n_target_classes = min(9, model.classes - 1)
    whole.attacks_to_run = ["apgd-t"]
    found: Tensor = whole.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    return found


def has_targets(classes: int) -> bool:
    """Whether targeted APGD's loss, a ratio of four logits, can be."""
    return "apgd-t" in autoattack_members(classes)[0]


def pgd(steps: int, restarts: int) -> Attack:
    """torchattacks' PGD, its restarts on survivors; steps of ε/10, or 2.5 ε over all of them."""

    def attack(model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        size = threat.radius * max(0.1, 2.5 / steps)
        return _pgd(model, images, labels, threat, steps, restarts, size)

    return attack


def _pgd(
    model: Counted,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    steps: int,
    restarts: int,
    size: float,
) -> Tensor:
    result, alive = images.clone(), torch.arange(len(images), device=images.device)
    name = "PGD" if threat.norm == "Linf" else "PGDL2"
    for restart in range(restarts):
        if len(alive) == 0:
            break
        seed_everything(restart)
        attack = getattr(torchattacks_module(), name)(
            model, eps=threat.radius, alpha=size, steps=steps, random_start=True
        )
        attack.eps_for_division = 1e-30  # PGDL2's own of 1e-10 drowns small gradients
        with model.attending(alive):
            found = attack(images[alive], labels[alive])
            result[alive] = found
            with torch.no_grad():
                holds = model(found).argmax(1) == labels[alive]
        alive = alive[holds]
    return result


def advlib(name: str, **parameters: Any) -> Attack:
    """An attack of adv-lib."""

    def attack(model: Counted, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        return advlib_attack(
            model, images, labels, threat, name=name, seed=0, parameters=parameters
        ).images

    return attack


BUDGET, BUDGETS = 400, (60, 120, 240, 400, 1000)
ATTACKS: dict[str, Attack] = {
    "adaptive": ours(adaptive, passes_per_sample=BUDGET),
    "autoattack": standard,
    "apgd_t": apgd_t,
    "pgd_100x10": pgd(100, 10),
    **{
        f"adaptive_{budget}": ours(adaptive, passes_per_sample=budget)
        for budget in BUDGETS
        if budget != BUDGET
    },
    "advlib_fmn": advlib("fmn", steps=100),
    "cr": ours(cr),
    "pma": ours(pma),
}
OTHERS = {
    "apgd_t": "APGD-T",
    "pgd_100x10": "PGD-100 ×10",
    "advlib_fmn": "FMN (adv-lib)",
    "cr": "CR",
    "pma": "PMA",
}


# Budgets of every attack, in passes for each survivor, a backward one counted as two.
CURVE = (30, 60, 120, 240, 400, 1000)


def _cr_within(budget: int) -> Attack:
    """CR with cycles as long as lets a sample that is far at all three targets finish: 8 passes for
    each step of a cycle, and 5; at most the published 30.  What is left goes to near samples."""
    length = min(30, max(3, 3 * ((budget - 5) // 24)))
    return ours(cr, cycle_steps=length, passes_per_sample=budget)


def _pma_within(budget: int) -> Attack:
    return ours(pma, steps=max(1, (budget // 2 - 1) // _STEP))


def _apgd_t_within(budget: int) -> Attack:
    """One target for each hundred passes, nine at most, and as many steps as that leaves."""
    targets = min(9, max(1, budget // 100))
    steps = max(1, budget // (_STEP * targets) - 1)
    return advlib("apgd_targeted", n_iter=steps, num_targets=targets)


def _pgd_within(budget: int) -> Attack:
    restarts = math.ceil(budget / (100 * _STEP))
    return pgd(max(1, (budget // restarts - 1) // _STEP), restarts)


def _fmn_within(budget: int) -> Attack:
    return advlib("fmn", steps=budget // _STEP)


# Each attack's title on curves, and what it is with a budget.
CURVES: dict[str, tuple[str, Callable[[int], Attack]]] = {
    "adaptive": ("`adaptive`", lambda budget: ours(adaptive, passes_per_sample=budget)),
    "cr": ("CR", _cr_within),
    "pma": ("PMA", _pma_within),
    "apgd_t": ("APGD-T (adv-lib)", _apgd_t_within),
    "fmn": ("FMN (adv-lib)", _fmn_within),
    "pgd": ("PGD", _pgd_within),
}
# Versions that return the same of models that hide nothing.  ``masked`` asks for today's version
# itself.  What hides something in ``truths`` (inputs in levels) is to be run anew by hand.
_ALIKE = {"adaptive": {7, 8, 9, 10, 11}, "smallest": {4, 5}}
ATTACKS_BY_BUDGET = {
    f"{name}@{budget}": within(budget) for name, (_, within) in CURVES.items() for budget in CURVE
}


def base(attack: str) -> str:
    """An attack's name without its budget, such as ``cr`` of ``cr@60`` or ``adaptive_60``."""
    name, at, _ = attack.partition("@")
    own, _, budget = name.rpartition("_")
    return own if not at and budget.isdigit() else name


def version_of(attack: str) -> int:
    """Of the project's own; 0 of others', whose version is their library's."""
    return find("robusteval", base(attack)).version if base(attack) in OWN else 0


def stands(attack: str, version: int, copy: bool = False) -> bool:
    """Whether today's version would find the same images again as this one; a library's is told by
    the library.  Of a ``copy`` that hides gradients no other version's do."""
    today = version_of(attack)
    if today in (0, version):
        return True
    return not copy and {today, version} <= _ALIKE.get(base(attack), set())


def is_told_no_eps(attack: str) -> bool:
    """Whether it minimises a norm, so that what lies beyond ε breaks nothing."""
    return base(attack) in ("advlib_fmn", "fmn")
