"""adv-lib's attacks by name, with their own parameter names.  adv-lib is an extra.

It is imported when first used.  Its minimum-norm attacks (DDN, FMN, SuperDeepFool and others) are
judged at every ε of their norm from one run; the others are told ε.
"""

import inspect
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from robusteval.attacks.counting import as_counted
from robusteval.attacks.libraries import AttackResult
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import require_images
from robusteval.catalogue import near_names
from robusteval.errors import AttackError, UnknownNameError
from robusteval.types import Norm, ThreatModel
from robusteval.vision import torchvision

_ORDERS: dict[Norm, float] = {"Linf": float("inf"), "L2": 2.0}


@dataclass(frozen=True)
class Told:
    """The norms that an attack can work in, its parameters for the norm's order and for ε, and the
    fewest classes that it can work with."""

    norms: tuple[Norm, ...] = ("Linf", "L2")
    order: str = ""
    eps: str = ""
    classes: int = 2


ATTACKS = {
    "alma": Told(("L2",), classes=3),
    "apgd": Told(order="norm", eps="eps", classes=3),
    "apgd_targeted": Told(order="norm", eps="eps", classes=4),
    "carlini_wagner_l2": Told(("L2",)),
    "carlini_wagner_linf": Told(("Linf",)),
    "ddn": Told(("L2",)),
    "df": Told(order="norm"),
    "fab": Told(order="norm"),
    "fmn": Told(order="norm"),
    "pdgd": Told(("L2",)),
    "pdpgd": Told(order="norm"),
    "pgd_linf": Told(("Linf",), eps="ε"),
    "sdf": Told(("L2",)),
    "tr": Told(order="p"),
}


def not_installed() -> AttackError:
    """What to say where the extra is missing."""
    return AttackError("adv-lib is not installed: pip install --no-deps adv-lib")


def advlib_module() -> ModuleType:
    """adv-lib's attacks.  Raises AttackError, with the mend, where it isn't installed.

    It imports visdom, which plots for callers that hand over a logger; nobody does here, and its
    source no longer builds with current setuptools.  So it may be missing.
    """
    torchvision()
    try:
        return import_module("adv_lib.attacks")
    except ModuleNotFoundError as error:
        if error.name != "visdom":
            raise not_installed() from None
    sys.modules["visdom"] = ModuleType("visdom")
    return import_module("adv_lib.attacks")


def check(name: str, norms: tuple[Norm, ...]) -> None:
    """Raises UnknownNameError or AttackError for what can't run in these norms, or at all."""
    if name not in ATTACKS:
        raise UnknownNameError(f"adv-lib has no attack {name!r}: {near_names(name, [*ATTACKS])}")
    if wrong := [n for n in norms if n not in ATTACKS[name].norms]:
        raise AttackError(
            f"adv-lib's {name} doesn't work in {', '.join(wrong)}: "
            f"set its norms to {', '.join(ATTACKS[name].norms)}"
        )
    advlib_module()


def advlib_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    name: str,
    seed: int,
    parameters: dict[str, Any],
) -> AttackResult:
    """Adversarial images (B, C, H, W) by one attack of adv-lib, for images in [0, 1], labels (B,).

    ``name``: its function's; ``parameters``: its own, among them its steps, which say how many
    passes it makes (FMN (Pintor et al. 2021) and DDN (Rony et al. 2019) one forward and one
    backward a step, SuperDeepFool (arXiv:2303.12481) several).  The norm's order and ε are
    passed where it takes them; minimum-norm attacks know no ε, and their images may lie outside
    the ball.  Raises AttackError for a parameter that it doesn't know, for images outside [0, 1],
    and for a model with too few classes.
    """
    check(name, (threat.norm,))
    require_images(images)
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images)
    if counted.classes < ATTACKS[name].classes:
        raise AttackError(f"adv-lib's {name} needs {ATTACKS[name].classes} classes: leave it out")
    told, keywords = ATTACKS[name], dict(parameters)
    if told.order:
        keywords[told.order] = _ORDERS[threat.norm]
    if told.eps:
        keywords[told.eps] = threat.radius
    attack = getattr(advlib_module(), name)
    try:
        inspect.signature(attack).bind(counted, images, labels, **keywords)
    except TypeError as error:
        raise AttackError(f"adv-lib's {name}: {error}: use its own parameter names") from None
    with seeded(seed, images.device):
        # A copy, since some work in place.
        mine = images.contiguous().clone()
        found = attack(counted, mine, labels, **keywords)
    return AttackResult(found.detach())
