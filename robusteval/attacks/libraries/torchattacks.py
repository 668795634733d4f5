"""torchattacks by name, with its own parameter names; norms and ranges by its version 3.5.1.

It is imported when first used.  Each returned image is judged again by the harness: a library's
own word for success is never taken.
"""

import inspect
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import Counted, PositiveLogits, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.ranges import (
    CHANCE,
    COUNT,
    FLAG,
    FROM_0,
    FROM_1,
    PART,
    POSITIVE,
    Range,
    one_of,
    whole,
)
from robusteval.attacks.record import BOTH, L2, LINF, Library, Parameters, Passes, stepwise
from robusteval.attacks.results import AttackResult
from robusteval.attacks.seeding import seeded
from robusteval.attacks.squares import square_fits
from robusteval.attacks.tables import Listed, Table, require_fit
from robusteval.errors import AttackError
from robusteval.types import ThreatModel

# Its last steps are as small as the logits' last bits: a shift coarsens those, and costs it half
# as many steps again.  It reads differences only, so it needs none.
_WITHOUT_SHIFT = ("DeepFool",)
# Attacks that work in tanh space cannot move a pixel that is exactly 0 or 1.
_TANH_SPACE = ("CW",)

_TWO = whole(2)  # steps of an attack whose first one looks at the clean image
_TEN = whole(10)  # that which asks each tenth of its steps whether to stop
_OTHER_THAN_1 = Range(lambda value: value > 0 and value != 1, "above 0, and other than 1")
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
# Towards which class a targeted attack goes; ``targeted`` itself is the harness's word.
_TARGET = {"target": one_of("least_likely", "next", "random")}
_APGD = {"steps": COUNT, "n_restarts": COUNT, "eot_iter": COUNT, "rho": PART}


def _averaged(given: Parameters, classes: int) -> tuple[int, int]:
    """Each step's gradient is a mean of so many."""
    made = given["steps"] * given["eot_iter"]
    return made, made


def _apgd(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["n_restarts"] * (given["steps"] + 1) * given["eot_iter"]
    return made + given["n_restarts"], made


def _apgd_targeted(given: Parameters, classes: int) -> tuple[int, int]:
    forward, backward = _apgd(given, classes)
    return (classes - 1) * forward + 1, (classes - 1) * backward


def _autoattack(given: Parameters, classes: int) -> tuple[int, int]:
    """Its APGD, targeted APGD and FAB of ten steps each, and 5,000 queries."""
    targets = classes - 1
    return 25 + 40 * targets + 5002, 11 + 21 * targets


def _deepfool(given: Parameters, classes: int) -> tuple[int, int]:
    """A gradient for each class and step."""
    return given["steps"] + 1, given["steps"] * classes


def _binary(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["binary_search_steps"] * given["max_iterations"]
    return 2 * made + 1, made


def _fab(given: Parameters, classes: int) -> tuple[int, int]:
    tries = given["n_restarts"] * (classes - 1 if given["multi_targeted"] else 1)
    return tries * (2 * given["steps"] + 5), tries * given["steps"] * classes


def _aimed(passes: Passes) -> Passes:
    """With a look at the clean image where the least likely class is the target."""

    def made(given: Parameters, classes: int) -> tuple[int, int]:
        forward, backward = passes(given, classes)
        return forward + (given.get("target") == "least_likely"), backward

    return made


def _once(given: Parameters, classes: int) -> tuple[int, int]:
    return 1, 1


def _with_clean(given: Parameters, classes: int) -> tuple[int, int]:
    """It looks at the clean image once."""
    return given["steps"] + 1, given["steps"]


def _smoothed(given: Parameters, classes: int) -> tuple[int, int]:
    made = given["steps"] * given["noise_batch_size"]
    return made, made


def _scaled(given: Parameters, classes: int) -> tuple[int, int]:
    """Each step looks at so many copies of the image, each half as bright as the one before."""
    return given["steps"] * given["m"], given["steps"] * given["m"]


def _spsa(given: Parameters, classes: int) -> tuple[int, int]:
    return 2 * given["nb_iter"] * given["nb_sample"], 0


def _square(given: Parameters, classes: int) -> tuple[int, int]:
    return given["n_restarts"] * (given["n_queries"] + 2) + 1, 0


def _varied(given: Parameters, classes: int) -> tuple[int, int]:
    """Each step looks at so many neighbours, too."""
    made = given["steps"] * (given["N"] + 1)
    return made, made


LISTED: dict[str, Listed] = {
    "APGD": Listed(BOTH, {**_APGD, "loss": one_of("ce", "dlr")}, _apgd, "eps"),
    "APGDT": Listed(BOTH, _APGD, _apgd_targeted, "eps", classes=4),
    "AutoAttack": Listed(
        BOTH, {"version": one_of("standard", "plus", "rand")}, _autoattack, "eps", classes=4
    ),
    "BIM": Listed(LINF, {**_STEPS, **_TARGET}, _aimed(stepwise()), "eps"),
    "CW": Listed(
        L2,
        {"c": POSITIVE, "kappa": FROM_0, "steps": _TWO, "lr": POSITIVE, **_TARGET},
        _aimed(stepwise()),
    ),
    "DIFGSM": Listed(LINF, _DIVERSE, stepwise(), "eps"),
    "DeepFool": Listed(L2, {"steps": COUNT, "overshoot": FROM_0}, _deepfool),
    "EADEN": Listed(
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
        _binary,
    ),
    "EOTPGD": Listed(LINF, {**_STEPS, **_START, "eot_iter": COUNT}, _averaged, "eps"),
    "FAB": Listed(
        BOTH,
        {
            "steps": COUNT,
            "n_restarts": COUNT,
            "alpha_max": PART,
            "eta": FROM_1,
            "beta": PART,
            "multi_targeted": FLAG,
        },
        _fab,
        "eps",
    ),
    "FFGSM": Listed(LINF, {"alpha": POSITIVE}, _once, "eps"),
    "FGSM": Listed(LINF, _TARGET, _aimed(_once), "eps"),
    "Jitter": Listed(
        LINF, {**_STEPS, **_START, "scale": POSITIVE, "std": FROM_0}, stepwise(), "eps"
    ),
    "MIFGSM": Listed(LINF, {**_MOMENTUM, **_TARGET}, _aimed(stepwise()), "eps"),
    "NIFGSM": Listed(LINF, _MOMENTUM, stepwise(), "eps"),
    "PGD": Listed(LINF, {**_STEPS, **_START, **_TARGET}, _aimed(stepwise()), "eps"),
    "PGDL2": Listed(
        L2,
        {**_STEPS, **_START, "eps_for_division": POSITIVE, **_TARGET},
        _aimed(stepwise()),
        "eps",
    ),
    "PGDRS": Listed(LINF, _SMOOTHED, _smoothed, "eps"),
    "PGDRSL2": Listed(L2, {**_SMOOTHED, "eps_for_division": POSITIVE}, _smoothed, "eps"),
    "PIFGSM": Listed(LINF, _PATCHES, stepwise(name="num_iter_set"), "max_epsilon", channels=3),
    "PIFGSMPP": Listed(
        LINF,
        {**_PATCHES, "project_factor": FROM_0},
        stepwise(name="num_iter_set"),
        "max_epsilon",
        channels=3,
    ),
    "RFGSM": Listed(LINF, _STEPS, stepwise(), "eps"),
    "SINIFGSM": Listed(LINF, {**_MOMENTUM, "m": COUNT}, _scaled, "eps"),
    "SPSA": Listed(
        LINF,
        {
            "delta": POSITIVE,
            "lr": POSITIVE,
            "nb_iter": COUNT,
            "nb_sample": COUNT,
            "max_batch_size": COUNT,
        },
        _spsa,
        "eps",
        gradients="none",
    ),
    "Square": Listed(
        BOTH,
        {
            "n_queries": COUNT,
            "n_restarts": COUNT,
            "p_init": PART,
            "loss": one_of("margin", "ce"),
            "resc_schedule": FLAG,
        },
        _square,
        "eps",
        gradients="none",
    ),
    "TIFGSM": Listed(
        LINF,
        {
            **_DIVERSE,
            "kernel_name": one_of("gaussian", "linear", "uniform"),
            "len_kernel": COUNT,
            "nsig": POSITIVE,
        },
        stepwise(),
        "eps",
        channels=3,
    ),
    "TPGD": Listed(LINF, _STEPS, _with_clean, "eps"),
    "UPGD": Listed(
        LINF,
        {**_MOMENTUM, **_START, "loss": one_of("ce", "dlr", "margin"), "eot_iter": COUNT},
        _averaged,
        "eps",
    ),
    "VMIFGSM": Listed(LINF, _VARIANCE, _varied, "eps"),
    "VNIFGSM": Listed(LINF, _VARIANCE, _varied, "eps"),
}

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

TORCHATTACKS = Library(
    name="torchattacks",
    package="torchattacks",
    install="pip install torchattacks==3.5.1",
    accelerated=True,
)
TABLE = Table(TORCHATTACKS, LISTED, REFUSED)


def torchattacks_module() -> ModuleType:
    """torchattacks.  Raises AttackError, with the mend, where it isn't installed."""
    try:
        return import_module("torchattacks")
    except ModuleNotFoundError as error:
        if error.name != "torchattacks":
            raise
        raise AttackError(f"torchattacks is not installed: {TORCHATTACKS.install}") from None


@attack
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
    """One attack of torchattacks (Kim 2020), by its class name and its own parameters.

    Adversarial images for images (B, C, H, W) in [0, 1] and labels (B,); passes and papers are
    those of its class there, norms and ranges those of ``LISTED``.  ε, and where it
    takes them the norm, the seed and the number of classes, are passed to it.  ``target`` drives
    each sample towards one class: the ``"least_likely"``, the ``"next"`` by number (the first after
    the last), or a ``"random"`` other one; what counts stays any wrong class.  Raises AttackError
    for an unknown attack, a norm that it can't work in, a parameter that is unknown or out of
    range, images outside [0, 1] or of a size or of channels that it can't take, too few classes,
    and where no gradient reaches the images.
    """
    listed = TABLE.taken(name, threat.norm, parameters)
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images, labels)
    whose = TABLE.whose(name)
    require_fit(whose, listed, counted.classes, images, threat.norm, parameters)
    if name == "Square" and not square_fits(images, threat.norm, oblong=False):
        size = "×".join(str(side) for side in images.shape[-2:])
        raise AttackError(f"{whose} can't run in L2 on {size} images: leave it out")
    kind = getattr(torchattacks_module(), name)
    given = {"norm": threat.norm, "seed": seed % 2**31, "n_classes": counted.classes}
    taken = inspect.signature(kind).parameters
    keywords = parameters | {key: value for key, value in given.items() if key in taken}
    target = keywords.pop("target", None)
    if listed.eps:
        keywords[listed.eps] = threat.radius
    seen = counted if name in _WITHOUT_SHIFT else PositiveLogits(counted)
    with redirect_stdout(StringIO()):  # it prints where a model has no parameters
        called = kind(seen, **keywords)
    start = images.clamp(1e-6, 1 - 1e-6) if name in _TANH_SPACE else images
    called.set_device(images.device)
    if target is not None:
        called.set_mode_targeted_by_label(quiet=True)
        labels = targets_of(target, counted, images, labels, seed)
    with seeded(seed, images.device), gradients_needed(counted, images, listed.gradients != "none"):
        adversarial = called(start.contiguous(), labels)
    if name in _TANH_SPACE:  # what it did not move is the clean image, to the bit
        adversarial = torch.where(adversarial == start, images, adversarial)
    return AttackResult(adversarial.detach())


def targets_of(mode: str, model: Counted, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """The class (B,) that each sample is driven towards, never its own; of two classes each mode
    takes the other one."""
    if mode == "next":
        return (labels + 1) % model.classes
    if mode == "random":
        generator = torch.Generator().manual_seed(seed)
        further = torch.randint(1, model.classes, labels.shape, generator=generator)
        return (labels + further.to(labels)) % model.classes
    with torch.no_grad():
        logits = model(images)
    least: Tensor = logits.scatter(1, labels[:, None], torch.inf).argmin(1)
    return least


ATTACKS = TABLE.records(
    torchattacks_attack, lambda name: getattr(torchattacks_module(), name), version=1
)
