"""adv-lib's attacks by name, with their own parameter names.  adv-lib is an extra.

It is imported when first used.  Its minimum-norm attacks (DDN, FMN, SuperDeepFool and others) are
judged at every ε of their norm from one run; the others are told ε.
"""

import math
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.ranges import (
    ABOVE_1,
    COUNT,
    FLAG,
    FROM_0,
    FROM_1,
    INSIDE,
    PART,
    POSITIVE,
    SHARE,
    Range,
    one_of,
    optional,
    whole,
)
from robusteval.attacks.record import BOTH, L2, LINF, Library, Parameters, stepwise
from robusteval.attacks.results import AttackResult
from robusteval.attacks.seeding import seeded
from robusteval.attacks.tables import Listed, Table, require_fit
from robusteval.errors import AttackError
from robusteval.types import Norm, ThreatModel
from robusteval.vision import torchvision

_ORDERS: dict[Norm, float] = {"Linf": float("inf"), "L2": 2.0}


_TWO = whole(2)  # steps of an attack whose first one looks at the clean image
_TEN = whole(10)  # that which asks each tenth of its steps whether to stop


def _apgd(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["n_restarts"] * (given["n_iter"] + 1) * given["eot_iter"]
    return made, made


def _apgd_targeted(given: Parameters, classes: int) -> tuple[int, int]:
    targets = min(given["num_targets"] or classes - 1, classes - 1)
    forward, backward = _apgd(given, classes)
    return targets * forward + 1, targets * backward


def _binary(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["binary_search_steps"] * given["max_iterations"]
    return made, made


def _doubled(given: Parameters, classes: int) -> tuple[int, int]:
    """A search with each constant, ``const_factor`` times as large as the last; where one succeeds
    as a rule some more, in smaller balls."""
    grown = given["largest_const"] / given["initial_const"]
    constants = max(math.ceil(math.log(grown) / math.log(given["const_factor"])), 1)
    made = (constants + 5) * given["max_iterations"]
    return made, made


def _deepfool(given: Parameters, classes: int) -> tuple[int, int]:
    """A gradient for each class and step."""
    return given["steps"] + 1, given["steps"] * classes


def _fab(given: Parameters, classes: int) -> tuple[int, int]:
    tries = (given["restarts"] or 1) * (classes - 1 if given["targeted_restarts"] else 1)
    return tries * (2 * given["n_iter"] + 5), tries * given["n_iter"] * classes


def _restarted(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["steps"] * given["restarts"]
    return made, made


def _superdeepfool(given: Parameters, classes: int) -> tuple[int, int]:
    """As a rule: it stops as soon as a sample is broken, after a few of its steps."""
    return 8 + given["search_iter"], 4 * classes


def _trust_region(given: Parameters, classes: int) -> tuple[int, int]:
    targets = min(given["c"], classes) if given["worst_case"] else 1
    return 2 * given["iter"], 2 * targets * given["iter"]


_ADAM = {"β_1": SHARE, "β_2": SHARE}
_PRIMAL_DUAL = {
    "num_steps": _TWO,
    "random_init": FROM_0,
    "primal_lr": POSITIVE,
    "primal_lr_decrease": POSITIVE,
    "dual_ratio_init": POSITIVE,
    "dual_lr": POSITIVE,
    "dual_lr_decrease": POSITIVE,
    "dual_ema": SHARE,
    "dual_min_ratio": POSITIVE,
}
_APGD_OF_ADVLIB = {
    "n_iter": COUNT,
    "n_restarts": COUNT,
    "loss_function": one_of("dlr", "ce"),
    "eot_iter": COUNT,
    "rho": PART,
    "use_large_reps": Range(lambda value: not value, "false: it is for L1", bool),
    "use_rs": FLAG,
}

LISTED: dict[str, Listed] = {
    "alma": Listed(
        L2,
        {
            "num_steps": _TWO,
            "lr_init": POSITIVE,
            "lr_reduction": POSITIVE,
            "distance": one_of("l2"),
            "init_lr_distance": optional(POSITIVE),
            "μ_init": POSITIVE,
            "ρ_init": POSITIVE,
            "check_steps": COUNT,
            "τ": INSIDE,
            "γ": ABOVE_1,
            "α": SHARE,
            "α_rms": optional(SHARE),
            "momentum": optional(SHARE),
            "logit_tolerance": FROM_0,
            "levels": optional(_TWO),
        },
        stepwise(name="num_steps"),
        classes=3,
    ),
    "apgd": Listed(BOTH, {**_APGD_OF_ADVLIB, "best_loss": FLAG}, _apgd, "eps", "norm", classes=3),
    "apgd_targeted": Listed(
        BOTH,
        {**_APGD_OF_ADVLIB, "num_targets": optional(COUNT)},
        _apgd_targeted,
        "eps",
        "norm",
        classes=4,
    ),
    "carlini_wagner_l2": Listed(
        L2,
        {
            **_ADAM,
            "confidence": FROM_0,
            "learning_rate": POSITIVE,
            "initial_const": POSITIVE,
            "binary_search_steps": COUNT,
            "max_iterations": _TEN,
            "abort_early": FLAG,
        },
        _binary,
    ),
    "carlini_wagner_linf": Listed(
        LINF,
        {
            **_ADAM,
            "learning_rate": POSITIVE,
            "max_iterations": _TWO,
            "initial_const": POSITIVE,
            "largest_const": POSITIVE,
            "const_factor": ABOVE_1,
            "reduce_const": FLAG,
            "decrease_factor": INSIDE,
            "abort_early": FLAG,
        },
        _doubled,
    ),
    "ddn": Listed(
        L2,
        {"steps": _TWO, "γ": INSIDE, "init_norm": POSITIVE, "levels": optional(_TWO)},
        stepwise(),
    ),
    "df": Listed(BOTH, {"steps": _TWO, "overshoot": FROM_0}, _deepfool, order="norm"),
    "fab": Listed(
        BOTH,
        {
            "n_iter": COUNT,
            "ε": optional(POSITIVE),
            "α_max": PART,
            "β": PART,
            "η": FROM_1,
            "restarts": optional(COUNT),
            "targeted_restarts": FLAG,
        },
        _fab,
        order="norm",
    ),
    "fmn": Listed(
        BOTH,
        {
            "steps": _TWO,
            "α_init": POSITIVE,
            "α_final": optional(POSITIVE),
            "γ_init": INSIDE,
            "γ_final": INSIDE,
            "binary_search_steps": COUNT,
        },
        stepwise(),
        order="norm",
    ),
    "pdgd": Listed(L2, _PRIMAL_DUAL, stepwise(name="num_steps")),
    "pdpgd": Listed(
        BOTH,
        {
            **_PRIMAL_DUAL,
            "proximal_operator": optional(Range(lambda value: value in (1, 2), "1 or 2")),
            "proximal_steps": COUNT,
            "ε_threshold": POSITIVE,
        },
        stepwise(name="num_steps"),
        order="norm",
    ),
    "pgd_linf": Listed(
        LINF,
        {
            "steps": COUNT,
            "random_init": FLAG,
            "restarts": COUNT,
            "loss_function": one_of("ce", "dl", "dlr"),
            "relative_step_size": POSITIVE,
            "absolute_step_size": optional(POSITIVE),
        },
        _restarted,
        "ε",
    ),
    "sdf": Listed(
        L2,
        {"steps": COUNT, "df_steps": _TWO, "overshoot": FROM_0, "search_iter": COUNT},
        _superdeepfool,
    ),
    "tr": Listed(
        BOTH,
        {"iter": COUNT, "adaptive": FLAG, "eps": POSITIVE, "c": COUNT, "worst_case": FLAG},
        _trust_region,
        order="p",
    ),
}

ADVLIB = Library(
    name="advlib", package="adv-lib", install="pip install --no-deps adv-lib", accelerated=True
)
TABLE = Table(ADVLIB, LISTED)


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
            raise AttackError(f"adv-lib is not installed: {ADVLIB.install}") from None
    stand_in = ModuleType("visdom")
    stand_in.__spec__ = ModuleSpec("visdom", None)  # others ask whether it is there
    sys.modules["visdom"] = stand_in
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

    ``name``: its function's; ``parameters``: its own, in the ranges of ``LISTED``, among
    them its steps, which say how many passes it makes (FMN (Pintor et al. 2021) and DDN (Rony et
    al. 2019) one forward and one backward a step, SuperDeepFool (arXiv:2303.12481) several).  The
    norm's order and ε are passed where it takes them; minimum-norm attacks know no ε, and their
    images may lie outside the ball.  Raises AttackError for a parameter that it doesn't know or
    that is out of range, for images outside [0, 1], for a model with too few classes, and where no
    gradient reaches the images.
    """
    listed, keywords = TABLE.taken(name, threat.norm, parameters), dict(parameters)
    function = getattr(advlib_module(), name)
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images, labels)
    require_fit(TABLE.whose(name), listed, counted.classes, images, threat.norm, parameters)
    if listed.order:
        keywords[listed.order] = _ORDERS[threat.norm]
    if listed.eps:
        keywords[listed.eps] = threat.radius
    with seeded(seed, images.device), gradients_needed(counted, images):
        # A copy, since some work in place.
        mine = images.contiguous().clone()
        found = function(counted, mine, labels, **keywords)
    return AttackResult(found.detach())


ATTACKS = TABLE.records(advlib_attack, lambda name: getattr(advlib_module(), name), version=1)
