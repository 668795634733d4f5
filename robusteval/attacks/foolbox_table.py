"""Foolbox's attacks as data: norms, parameters, ranges and passes by its version 3.3.4, and why
others are refused.  They run in ``libraries/foolbox.py``.
"""

import math
from collections.abc import Mapping
from typing import Any

from robusteval.attacks.ranges import (
    ABOVE_1,
    CHANCE,
    COUNT,
    FLAG,
    FROM_0,
    INSIDE,
    POSITIVE,
    SHARE,
    Range,
    one_of,
    optional,
    whole,
)
from robusteval.attacks.record import BOTH, L2, LINF, Library, Parameters, Passes, stepwise
from robusteval.attacks.tables import Listed, Table
from robusteval.types import Norm

DIRECTIONS = 1000  # draws of a start at most
# Steps of the blend with noise that decision-based attacks begin with, by Foolbox's own defaults.
STARTS = {
    "BoundaryAttack": 50,
    "HopSkipJumpAttack": 50,
    "L2BrendelBethgeAttack": 1000,
    "LinfinityBrendelBethgeAttack": 1000,
}
_HALVINGS = 40  # of a search between two images, until float32 can't tell them apart

_TWO = whole(2)  # steps of an attack whose first one looks at the clean image
_DESCENT = {
    "rel_stepsize": POSITIVE,
    "abs_stepsize": optional(POSITIVE),
    "steps": COUNT,
    "random_start": FLAG,
}
_ADAM = {**_DESCENT, "adam_beta1": SHARE, "adam_beta2": SHARE, "adam_epsilon": POSITIVE}
_MOMENTUM = {"momentum": FROM_0, **_DESCENT}
_REPEATED = {"repeats": COUNT, "check_trivial": FLAG}
_DEEPFOOL = {
    "steps": COUNT,
    "candidates": optional(_TWO),
    "overshoot": FROM_0,
    "loss": one_of("logits", "crossentropy"),
}
_SEARCHED = {
    "binary_search_steps": COUNT,
    "steps": COUNT,
    "confidence": FROM_0,
    "initial_const": POSITIVE,
    "abort_early": FLAG,
}
_FMN = {
    "steps": _TWO,
    "max_stepsize": POSITIVE,
    "min_stepsize": optional(POSITIVE),
    "gamma": INSIDE,
    "binary_search_steps": COUNT,
}
_BRENDEL_BETHGE = {
    "overshoot": POSITIVE,
    "steps": COUNT,
    "lr": POSITIVE,
    "lr_decay": POSITIVE,
    "lr_num_decay": COUNT,
    "momentum": SHARE,
    "binary_search_steps": COUNT,
}


def _once(given: Parameters, classes: int) -> tuple[int, int]:
    return 1, 1


def _repeated(given: Parameters, classes: int) -> tuple[int, int]:
    return given["repeats"] + bool(given["check_trivial"]), 0


def _deepfool(given: Parameters, classes: int) -> tuple[int, int]:
    """Both passes for each class and step."""
    made = given["steps"] * (min(given["candidates"] or classes, classes) - 1)
    return made + 1, made


def _binary(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["binary_search_steps"] * given["steps"]
    return made, made


def _elastic(given: Parameters, classes: int) -> tuple[int, int]:
    """Each step looks at where it went, too."""
    forward, backward = _binary(given, classes)
    return 2 * forward, backward


def _blended(given: Parameters, classes: int) -> tuple[int, int]:
    return given["directions"] + given["steps"] + 1, 0


def _start(name: str) -> int:
    """Forward passes of a start, and of the looks at whether it is one."""
    return DIRECTIONS + STARTS[name] + 4


def _boundary(given: Parameters, classes: int) -> tuple[int, int]:
    looks = given["steps"] // given["update_stats_every_k"]
    return _start("BoundaryAttack") + given["steps"] + looks, 0


def _hop_skip_jump(given: Parameters, classes: int) -> tuple[int, int]:
    """Each step estimates a gradient, seeks its size by halving, and goes back to the boundary."""
    sizes = 20 * (_HALVINGS + 1) if given["stepsize_search"] == "grid_search" else 2 * _HALVINGS
    first, most = given["initial_gradient_eval_steps"], given["max_gradient_eval_steps"]
    asked = sum(min(int(first * math.sqrt(n + 1)), most) for n in range(given["steps"]))
    return _start("HopSkipJumpAttack") + _HALVINGS + asked + given["steps"] * (sizes + 2), 0


def _brendel_bethge(name: str) -> Passes:
    def passes(given: Parameters, classes: int) -> tuple[int, int]:
        steps = given["steps"]
        return _start(name) + given["binary_search_steps"] + steps, steps

    return passes


def _queries(given: Parameters, classes: int) -> tuple[int, int]:
    """One for each step, and one at the clean image."""
    return given["steps"] + 1, 0


def _fixed(
    norms: tuple[Norm, ...], parameters: Mapping[str, Range], passes: Passes, **more: Any
) -> Listed:
    """An attack that is told ε."""
    return Listed(norms, parameters, passes, "epsilon", **more)


def _decisions(
    norms: tuple[Norm, ...], parameters: Mapping[str, Range], passes: Passes, **more: Any
) -> Listed:
    """An attack that minimises a norm, and asks for no gradient."""
    return Listed(norms, parameters, passes, gradients="none", **more)


LISTED: dict[str, Listed] = {
    "BinarySearchContrastReductionAttack": _decisions(
        BOTH,
        {"binary_search_steps": COUNT, "target": CHANCE},
        stepwise(1, 0, "binary_search_steps"),
    ),
    "BoundaryAttack": _decisions(
        L2,
        {
            "steps": COUNT,
            "spherical_step": POSITIVE,
            "source_step": POSITIVE,
            "source_step_convergance": FROM_0,  # as it is spelt there
            "step_adaptation": ABOVE_1,
            "update_stats_every_k": COUNT,
        },
        _boundary,
    ),
    "DDNAttack": Listed(L2, {"init_epsilon": POSITIVE, "steps": _TWO, "gamma": INSIDE}, stepwise()),
    "EADAttack": Listed(
        L2,
        {
            **_SEARCHED,
            "initial_stepsize": POSITIVE,
            "regularization": FROM_0,
            "decision_rule": one_of("EN", "L1"),
        },
        _elastic,
    ),
    "FGM": _fixed(L2, {"random_start": FLAG}, _once),
    "FGSM": _fixed(LINF, {"random_start": FLAG}, _once),
    "GaussianBlurAttack": _decisions(
        BOTH, {"steps": COUNT, "max_sigma": optional(POSITIVE)}, _queries
    ),
    "HopSkipJumpAttack": _decisions(
        BOTH,
        {
            "steps": COUNT,
            "initial_gradient_eval_steps": COUNT,
            "max_gradient_eval_steps": COUNT,
            "stepsize_search": one_of("geometric_progression", "grid_search"),
            "gamma": POSITIVE,
        },
        _hop_skip_jump,
        order="constraint",
    ),
    "L2AdamBasicIterativeAttack": _fixed(L2, _ADAM, stepwise()),
    "L2AdamPGD": _fixed(L2, _ADAM, stepwise()),
    "L2BasicIterativeAttack": _fixed(L2, _DESCENT, stepwise()),
    "L2BrendelBethgeAttack": Listed(
        L2, _BRENDEL_BETHGE, _brendel_bethge("L2BrendelBethgeAttack"), gradients="both"
    ),
    "L2CarliniWagnerAttack": Listed(L2, {**_SEARCHED, "stepsize": POSITIVE}, _binary),
    "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack": _fixed(
        L2, _REPEATED, _repeated, gradients="none"
    ),
    "L2ClippingAwareRepeatedAdditiveUniformNoiseAttack": _fixed(
        L2, _REPEATED, _repeated, gradients="none"
    ),
    "L2DeepFoolAttack": Listed(L2, _DEEPFOOL, _deepfool),
    "L2MomentumIterativeFastGradientMethod": _fixed(L2, _MOMENTUM, stepwise()),
    "L2PGD": _fixed(L2, _DESCENT, stepwise()),
    "L2RepeatedAdditiveGaussianNoiseAttack": _fixed(L2, _REPEATED, _repeated, gradients="none"),
    "L2RepeatedAdditiveUniformNoiseAttack": _fixed(L2, _REPEATED, _repeated, gradients="none"),
    "LInfFMNAttack": Listed(LINF, _FMN, stepwise()),
    "LinearSearchBlendedUniformNoiseAttack": _decisions(
        BOTH, {"directions": COUNT, "steps": COUNT}, _blended
    ),
    "LinearSearchContrastReductionAttack": _decisions(
        BOTH, {"steps": COUNT, "target": CHANCE}, stepwise(1, 0)
    ),
    "LinfAdamBasicIterativeAttack": _fixed(LINF, _ADAM, stepwise()),
    "LinfAdamPGD": _fixed(LINF, _ADAM, stepwise()),
    "LinfBasicIterativeAttack": _fixed(LINF, _DESCENT, stepwise()),
    "LinfDeepFoolAttack": Listed(LINF, _DEEPFOOL, _deepfool),
    "LinfPGD": _fixed(LINF, _DESCENT, stepwise()),
    "LinfRepeatedAdditiveUniformNoiseAttack": _fixed(LINF, _REPEATED, _repeated, gradients="none"),
    "LinfinityBrendelBethgeAttack": Listed(
        LINF, _BRENDEL_BETHGE, _brendel_bethge("LinfinityBrendelBethgeAttack"), gradients="both"
    ),
    "MIFGSM": _fixed(LINF, _MOMENTUM, stepwise()),
    "SaltAndPepperNoiseAttack": _decisions(L2, {"steps": COUNT, "across_channels": FLAG}, _queries),
}

_L0 = "it works in L0, which no threat model has"
_L1 = "it works in L1, which no threat model has"
_ONE_DRAW = "it draws once, and asks the model nothing: take its Repeated form"
REFUSED = {
    **dict.fromkeys(
        [
            *("L1AdamBasicIterativeAttack", "L1AdamPGD", "L1BasicIterativeAttack"),
            *("L1BrendelBethgeAttack", "L1FMNAttack", "L1FastGradientAttack", "L1PGD"),
            *("L1MomentumIterativeFastGradientMethod", "SparseL1DescentAttack"),
            *("L1AdamProjectedGradientDescentAttack", "L1ProjectedGradientDescentAttack"),
        ],
        _L1,
    ),
    **dict.fromkeys(["L0BrendelBethgeAttack", "L0FMNAttack", "PointwiseAttack"], _L0),
    **dict.fromkeys(
        [
            *("L2AdditiveGaussianNoiseAttack", "L2AdditiveUniformNoiseAttack"),
            "L2ClippingAwareAdditiveGaussianNoiseAttack",
            *("L2ClippingAwareAdditiveUniformNoiseAttack", "LinfAdditiveUniformNoiseAttack"),
        ],
        _ONE_DRAW,
    ),
    **{
        long: f"write {short}, its shorter name"
        for long, short in {
            "AdamPGD": "LinfAdamPGD",
            "L2AdamProjectedGradientDescentAttack": "L2AdamPGD",
            "L2FastGradientAttack": "FGM",
            "L2ProjectedGradientDescentAttack": "L2PGD",
            "LinfAdamProjectedGradientDescentAttack": "LinfAdamPGD",
            "LinfFastGradientAttack": "FGSM",
            "LinfMomentumIterativeFastGradientMethod": "MIFGSM",
            "LinfProjectedGradientDescentAttack": "LinfPGD",
            "PGD": "LinfPGD",
        }.items()
    },
    "BinarizationRefinementAttack": "it refines another attack's images, which a suite can't give",
    "DatasetAttack": "it needs images of other classes, which a suite can't give",
    "GenAttack": "it needs a target class, which a suite can't give",
    "InversionAttack": "it inverts images, and asks the model nothing",
    "L2FMNAttack": "its projection does nothing in Foolbox 3.3.4 (it scales by norms / norms), so "
    "that it ends many times too far: take advlib.fmn",
    "L2ContrastReductionAttack": "it asks the model nothing: take "
    "BinarySearchContrastReductionAttack",
    "NewtonFoolAttack": "it divides by the gradient's norm: where that is zero, images become NaN",
    "SpatialAttack": "it turns and shifts images, which no norm measures",
    "VirtualAdversarialAttack": "its first step, of 1e-6, is lost in float32",
}

FOOLBOX = Library(
    name="foolbox",
    package="foolbox",
    install="pip install 'robusteval[foolbox]'",
    accelerated=True,
)
TABLE = Table(FOOLBOX, LISTED, REFUSED)
