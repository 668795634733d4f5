"""Foolbox's attacks by name, with their own parameter names.  Foolbox is an extra.

It is imported when first used.  Names are those of its module of attacks, the short ones
(``LinfPGD``, ``FGSM``) where it has two.  Those that minimise a norm are judged at every ε of it
from one run; the others are told ε.  Each returned image is judged again by the harness: a
library's own word for success is never taken.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import Counted, as_counted
from robusteval.attacks.foolbox_table import DIRECTIONS, FOOLBOX, REFUSED, STARTS, TABLE
from robusteval.attacks.inputs import attack
from robusteval.attacks.record import Attack
from robusteval.attacks.results import AttackResult
from robusteval.attacks.seeding import seeded
from robusteval.attacks.tables import require_fit
from robusteval.errors import AttackError
from robusteval.types import Norm, ThreatModel

__all__ = ["ATTACKS", "REFUSED", "foolbox_attack", "foolbox_module"]

_CONSTRAINTS: dict[Norm, str] = {"Linf": "linf", "L2": "l2"}
_COMPILED = ("L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack")  # by numba, for a minute
_BLACK_IS_NOTHING = ("EADAttack", "L2CarliniWagnerAttack")  # a black image is one not found


class _GaveUp(RuntimeError):  # noqa: N818 - a library's word, told as an AttackError
    """What fooled the model before does so no longer, as Foolbox holds by assertions."""


def foolbox_module() -> ModuleType:
    """Foolbox.  Raises AttackError, with the mend, where it isn't installed.

    It imports GitPython, for a zoo that nobody needs here, which refuses to be imported on a
    machine without git unless it is told to be quiet.
    """
    before = os.environ.get("GIT_PYTHON_REFRESH")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    try:
        return import_module("foolbox")
    except ModuleNotFoundError as error:
        missing = "" if error.name == "foolbox" else f" ({error.name} is missing)"
        raise AttackError(f"foolbox is not installed{missing}: {FOOLBOX.install}") from None
    finally:
        if before is None:
            del os.environ["GIT_PYTHON_REFRESH"]


def _class_of(name: str) -> Callable[..., Any]:
    """What Foolbox calls so.  Raises AttackError where it, or what that needs, isn't installed."""
    found: Callable[..., Any] = getattr(foolbox_module().attacks, name)
    if name in _COMPILED:
        try:
            import_module("numba")
        except ModuleNotFoundError:
            raise AttackError(
                f"{TABLE.whose(name)} needs numba, which compiles it: pip install numba"
            ) from None
    return found


@attack
def foolbox_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    name: str,
    seed: int,
    parameters: dict[str, Any],
) -> AttackResult:
    """One attack of Foolbox (Rauber et al. 2020), by its name and its own parameters.

    Adversarial images for images (B, C, H, W) in [0, 1] and labels (B,); passes and papers are
    those of its class there, norms and ranges those of ``LISTED``.  ε is passed to those that take
    it; the others minimise a norm, and their images may lie outside the ball.  What an attack finds
    nothing for stays as it is.  Decision-based attacks begin with a blend of image and noise that
    fools the model, as Foolbox's own do; where none of 1,000 draws does, there is nothing to begin
    with, which a note tells.  Raises AttackError for an unknown attack, a norm that it can't work
    in, a parameter that is unknown or out of range, images outside [0, 1], and where no gradient
    reaches the images.
    """
    listed = TABLE.taken(name, threat.norm, parameters)
    kind = _class_of(name)
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images, labels)
    require_fit(TABLE.whose(name), listed, counted.classes, images, threat.norm, parameters)
    given = {listed.order: _CONSTRAINTS[threat.norm]} if listed.order else {}
    asked = {"epsilon": threat.radius} if listed.eps else {}
    called, by_gradient = kind(**parameters, **given), listed.gradients != "none"
    # Float32 may have carried pixels out of [0, 1], where Foolbox takes none.
    start = images.clamp(0, 1).contiguous()
    notes: list[str] = []
    try:
        with seeded(seed, images.device), gradients_needed(counted, images, by_gradient), _held():
            if name in STARTS:
                found, notes = _from_starts(called, counted, start, labels, STARTS[name])
            else:
                found = called.run(_seen(counted, start), start, labels, **asked).detach()
    except _GaveUp:
        raise AttackError(
            f"{TABLE.whose(name)} gave up: the model answers the same images differently, so "
            "leave it out"
        ) from None
    if name in _BLACK_IS_NOTHING:
        found = torch.where((found == 0).flatten(1).all(1).view(-1, 1, 1, 1), images, found)
    return AttackResult(found, notes=notes)


def _seen(counted: Counted, images: Tensor) -> Any:
    """The model as Foolbox sees it."""
    return foolbox_module().PyTorchModel(counted, bounds=(0, 1), device=images.device)


def _from_starts(
    called: Any, counted: Counted, images: Tensor, labels: Tensor, steps: int
) -> tuple[Tensor, list[str]]:
    """What a decision-based attack makes of the images that a start was found for; Foolbox's own
    raises for all of a batch where one has none.  And what is to be noted."""
    blend = foolbox_module().attacks.LinearSearchBlendedUniformNoiseAttack(
        directions=DIRECTIONS, steps=steps
    )
    starts = blend.run(_seen(counted, images), images, labels)
    result, rows = images.clone(), _fooled(counted, starts, labels)
    if len(rows):
        with counted.attending(rows):
            result[rows] = called.run(
                _seen(counted, images), images[rows], labels[rows], starting_points=starts[rows]
            ).detach()
    if not (without := len(images) - len(rows)):
        return result, []
    told = f"no start was found for {without} of {len(images)} images: they stay as they are"
    return result, [told]


@torch.no_grad()
def _fooled(counted: Counted, images: Tensor, labels: Tensor) -> Tensor:
    """The rows (R,) that the model gets wrong, be it asked about these alone: how a near tie falls
    may depend on the size of the batch."""
    rows = torch.arange(len(images), device=images.device)
    while len(rows):
        with counted.attending(rows):
            wrong = counted(images[rows]).argmax(1) != labels[rows]
        if wrong.all():
            break
        rows = rows[wrong]
    return rows


@contextmanager
def _held() -> Iterator[None]:
    """Within it Foolbox warns of nothing: what it would say of starts is a note here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (AssertionError, ValueError) as error:
            if isinstance(error, ValueError) and "not adversarial" not in str(error):
                raise
            raise _GaveUp(str(error)) from error


def _of_suites(attack: Attack) -> Attack:
    """With the defaults that a suite could give alone: others are Foolbox's own objects."""
    return replace(attack, defaults=partial(_plain, attack.defaults, frozenset(attack.parameters)))


def _plain(defaults: Callable[[], dict[str, Any]], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in defaults().items() if name in names}


ATTACKS = tuple(map(_of_suites, TABLE.records(foolbox_attack, _class_of, version=1)))
