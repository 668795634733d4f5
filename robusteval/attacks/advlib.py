"""adv-lib's attacks by name, with their own parameter names.  adv-lib is an extra.

It is imported when first used.  Its minimum-norm attacks (DDN, FMN, SuperDeepFool and others) are
judged at every ε of their norm from one run; the others are told ε.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import as_counted
from robusteval.attacks.foreign import ADVLIB, check
from robusteval.attacks.inputs import attack
from robusteval.attacks.libraries import require_fit
from robusteval.attacks.results import AttackResult
from robusteval.attacks.seeding import seeded
from robusteval.errors import AttackError
from robusteval.types import Norm, ThreatModel
from robusteval.vision import torchvision

_ORDERS: dict[Norm, float] = {"Linf": float("inf"), "L2": 2.0}


ATTACKS = ADVLIB


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


@attack
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

    ``name``: its function's; ``parameters``: its own, in the ranges of ``foreign.ADVLIB``, among
    them its steps, which say how many passes it makes (FMN (Pintor et al. 2021) and DDN (Rony et
    al. 2019) one forward and one backward a step, SuperDeepFool (arXiv:2303.12481) several).  The
    norm's order and ε are passed where it takes them; minimum-norm attacks know no ε, and their
    images may lie outside the ball.  Raises AttackError for a parameter that it doesn't know or
    that is out of range, for images outside [0, 1], for a model with too few classes, and where no
    gradient reaches the images.
    """
    told, keywords = check("advlib", name, (threat.norm,), parameters), dict(parameters)
    function = getattr(advlib_module(), name)
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images, labels)
    require_fit(f"adv-lib's {name}", told, counted.classes, images, parameters)
    if told.order:
        keywords[told.order] = _ORDERS[threat.norm]
    if told.eps:
        keywords[told.eps] = threat.radius
    with seeded(seed, images.device), gradients_needed(counted, images):
        # A copy, since some work in place.
        mine = images.contiguous().clone()
        found = function(counted, mine, labels, **keywords)
    return AttackResult(found.detach())
