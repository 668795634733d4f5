"""What the libraries' attacks take, as data: their norms, their parameters and these' ranges.

By torchattacks 3.5.1 and adv-lib 0.2.  An attack that isn't in these tables is refused: with values
that nobody looked at it may do nothing, and a model would look robust.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robusteval.attacks.ranges import (
    CHANCE,
    COUNT,
    FLAG,
    FROM_0,
    INSIDE,
    PART,
    POSITIVE,
    SHARE,
    Range,
    one_of,
    optional,
    require_within,
    whole,
)
from robusteval.catalogue import near_names
from robusteval.errors import AttackError, UnknownNameError
from robusteval.types import Norm

LINF: tuple[Norm, ...] = ("Linf",)
L2: tuple[Norm, ...] = ("L2",)
BOTH: tuple[Norm, ...] = ("Linf", "L2")


@dataclass(frozen=True)
class Told:
    """One attack: the norms that it can work in, the ranges of its parameters, the names of its
    parameters for ε and for the norm's order, the fewest classes, the channels of images, and
    whether it goes by gradients.

    Without one for ε it minimises a norm.
    """

    norms: tuple[Norm, ...]
    parameters: Mapping[str, Range] = field(default_factory=dict)
    eps: str = ""
    order: str = ""
    classes: int = 2
    channels: int | None = None
    by_gradient: bool = True


_TWO = whole(2)  # steps of an attack whose first one looks at the clean image
_TEN = whole(10)  # that which asks each tenth of its steps whether to stop
_OTHER_THAN_1 = Range(lambda value: value > 0 and value != 1, "above 0, and other than 1")
_ABOVE_1 = Range(lambda value: value > 1, "above 1")
_FROM_1 = Range(lambda value: value >= 1, "1 or more")
_STEPS = {"alpha": POSITIVE, "steps": COUNT}
_MOMENTUM = {**_STEPS, "decay": FROM_0}
_START = {"random_start": FLAG}
_DIVERSE = {**_MOMENTUM, **_START, "resize_rate": _OTHER_THAN_1, "diversity_prob": CHANCE}
_VARIANCE = {**_MOMENTUM, "N": COUNT, "beta": POSITIVE}
_SMOOTHED = {
    **_STEPS,
    "noise_type": one_of("guassian", "uniform"),  # as it is spelt there
    "noise_sd": FROM_0,
    "noise_batch_size": COUNT,
    "batch_max": COUNT,
}
_PATCHES = {
    "num_iter_set": COUNT,
    "momentum": FROM_0,
    "amplification": POSITIVE,
    "prob": CHANCE,
}
_APGD = {"steps": COUNT, "n_restarts": COUNT, "eot_iter": COUNT, "rho": PART}

TORCHATTACKS: dict[str, Told] = {
    "APGD": Told(BOTH, {**_APGD, "loss": one_of("ce", "dlr")}, "eps"),
    "APGDT": Told(BOTH, _APGD, "eps", classes=4),
    "AutoAttack": Told(BOTH, {"version": one_of("standard", "plus", "rand")}, "eps", classes=4),
    "BIM": Told(LINF, _STEPS, "eps"),
    "CW": Told(L2, {"c": POSITIVE, "kappa": FROM_0, "steps": _TWO, "lr": POSITIVE}),
    "DIFGSM": Told(LINF, _DIVERSE, "eps"),
    "DeepFool": Told(L2, {"steps": COUNT, "overshoot": FROM_0}),
    "EADEN": Told(
        L2,
        {
            "kappa": FROM_0,
            "lr": POSITIVE,
            "binary_search_steps": COUNT,
            "max_iterations": _TEN,
            "abort_early": FLAG,
            "initial_const": POSITIVE,
            "beta": FROM_0,
        },
    ),
    "EOTPGD": Told(LINF, {**_STEPS, **_START, "eot_iter": COUNT}, "eps"),
    "FAB": Told(
        BOTH,
        {
            "steps": COUNT,
            "n_restarts": COUNT,
            "alpha_max": PART,
            "eta": _FROM_1,
            "beta": PART,
            "multi_targeted": FLAG,
        },
        "eps",
    ),
    "FFGSM": Told(LINF, {"alpha": POSITIVE}, "eps"),
    "FGSM": Told(LINF, {}, "eps"),
    "Jitter": Told(LINF, {**_STEPS, **_START, "scale": POSITIVE, "std": FROM_0}, "eps"),
    "MIFGSM": Told(LINF, _MOMENTUM, "eps"),
    "NIFGSM": Told(LINF, _MOMENTUM, "eps"),
    "PGD": Told(LINF, {**_STEPS, **_START}, "eps"),
    "PGDL2": Told(L2, {**_STEPS, **_START, "eps_for_division": POSITIVE}, "eps"),
    "PGDRS": Told(LINF, _SMOOTHED, "eps"),
    "PGDRSL2": Told(L2, {**_SMOOTHED, "eps_for_division": POSITIVE}, "eps"),
    "PIFGSM": Told(LINF, _PATCHES, "max_epsilon", channels=3),
    "PIFGSMPP": Told(LINF, {**_PATCHES, "project_factor": FROM_0}, "max_epsilon", channels=3),
    "RFGSM": Told(LINF, _STEPS, "eps"),
    "SINIFGSM": Told(LINF, {**_MOMENTUM, "m": COUNT}, "eps"),
    "SPSA": Told(
        LINF,
        {
            "delta": POSITIVE,
            "lr": POSITIVE,
            "nb_iter": COUNT,
            "nb_sample": COUNT,
            "max_batch_size": COUNT,
        },
        "eps",
        by_gradient=False,
    ),
    "Square": Told(
        BOTH,
        {
            "n_queries": COUNT,
            "n_restarts": COUNT,
            "p_init": PART,
            "loss": one_of("margin", "ce"),
            "resc_schedule": FLAG,
        },
        "eps",
        by_gradient=False,
    ),
    "TIFGSM": Told(
        LINF,
        {
            **_DIVERSE,
            "kernel_name": one_of("gaussian", "linear", "uniform"),
            "len_kernel": COUNT,
            "nsig": POSITIVE,
        },
        "eps",
        channels=3,
    ),
    "TPGD": Told(LINF, _STEPS, "eps"),
    "UPGD": Told(
        LINF,
        {**_MOMENTUM, **_START, "loss": one_of("ce", "dlr", "margin"), "eot_iter": COUNT},
        "eps",
    ),
    "VMIFGSM": Told(LINF, _VARIANCE, "eps"),
    "VNIFGSM": Told(LINF, _VARIANCE, "eps"),
}

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

ADVLIB: dict[str, Told] = {
    "alma": Told(
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
            "γ": _ABOVE_1,
            "α": SHARE,
            "α_rms": optional(SHARE),
            "momentum": optional(SHARE),
            "logit_tolerance": FROM_0,
            "levels": optional(_TWO),
        },
        classes=3,
    ),
    "apgd": Told(BOTH, {**_APGD_OF_ADVLIB, "best_loss": FLAG}, "eps", "norm", classes=3),
    "apgd_targeted": Told(
        BOTH, {**_APGD_OF_ADVLIB, "num_targets": optional(COUNT)}, "eps", "norm", classes=4
    ),
    "carlini_wagner_l2": Told(
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
    ),
    "carlini_wagner_linf": Told(
        LINF,
        {
            **_ADAM,
            "learning_rate": POSITIVE,
            "max_iterations": _TWO,
            "initial_const": POSITIVE,
            "largest_const": POSITIVE,
            "const_factor": _ABOVE_1,
            "reduce_const": FLAG,
            "decrease_factor": INSIDE,
            "abort_early": FLAG,
        },
    ),
    "ddn": Told(L2, {"steps": _TWO, "γ": INSIDE, "init_norm": POSITIVE, "levels": optional(_TWO)}),
    "df": Told(BOTH, {"steps": _TWO, "overshoot": FROM_0}, order="norm"),
    "fab": Told(
        BOTH,
        {
            "n_iter": COUNT,
            "ε": optional(POSITIVE),
            "α_max": PART,
            "β": PART,
            "η": _FROM_1,
            "restarts": optional(COUNT),
            "targeted_restarts": FLAG,
        },
        order="norm",
    ),
    "fmn": Told(
        BOTH,
        {
            "steps": _TWO,
            "α_init": POSITIVE,
            "α_final": optional(POSITIVE),
            "γ_init": INSIDE,
            "γ_final": INSIDE,
            "binary_search_steps": COUNT,
        },
        order="norm",
    ),
    "pdgd": Told(L2, _PRIMAL_DUAL),
    "pdpgd": Told(
        BOTH,
        {
            **_PRIMAL_DUAL,
            "proximal_operator": optional(Range(lambda value: value in (1, 2), "1 or 2")),
            "proximal_steps": COUNT,
            "ε_threshold": POSITIVE,
        },
        order="norm",
    ),
    "pgd_linf": Told(
        LINF,
        {
            "steps": COUNT,
            "random_init": FLAG,
            "restarts": COUNT,
            "loss_function": one_of("ce", "dl", "dlr"),
            "relative_step_size": POSITIVE,
            "absolute_step_size": optional(POSITIVE),
        },
        "ε",
    ),
    "sdf": Told(L2, {"steps": COUNT, "df_steps": _TWO, "overshoot": FROM_0, "search_iter": COUNT}),
    "tr": Told(
        BOTH,
        {"iter": COUNT, "adaptive": FLAG, "eps": POSITIVE, "c": COUNT, "worst_case": FLAG},
        order="p",
    ),
}

TABLES = {"torchattacks": TORCHATTACKS, "advlib": ADVLIB}
_WHOSE = {"torchattacks": "torchattacks'", "advlib": "adv-lib's"}
_L0 = "it works in L0, which no threat model has"
REFUSED = {
    "EADL1": "it works in L1, which no threat model has",
    "GN": "its noise knows no ε: take robusteval's gaussian_noise",
    "JSMA": _L0,
    "LGV": "it trains models on data that a suite can't give",
    "MultiAttack": "it runs others, which a suite lists by themselves",
    "OnePixel": _L0,
    "Pixle": _L0,
    "SparseFool": _L0,
    "VANILA": "it returns images as they are",
}


def check(library: str, name: str, norms: tuple[Norm, ...], parameters: Mapping[str, Any]) -> Told:
    """What an attack takes.  Raises UnknownNameError where there is no such attack, and AttackError
    for what can't run in these norms, or with these parameters."""
    table, whose = TABLES[library], f"{_WHOSE[library]} {name}"
    if library == "torchattacks" and name in REFUSED:
        raise AttackError(f"{whose} can't be run: {REFUSED[name]}")
    if name not in table:
        title = _WHOSE[library].rpartition("'")[0]
        raise UnknownNameError(f"{title} has no attack {name!r}: {near_names(name, table)}")
    told = table[name]
    if wrong := [norm for norm in norms if norm not in told.norms]:
        raise AttackError(
            f"{whose} doesn't work in {', '.join(wrong)}: set its norms to {', '.join(told.norms)}"
        )
    require_within(whose, parameters, told.parameters)
    return told
