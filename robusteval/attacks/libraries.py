"""torchattacks and AutoAttack by name, with their own parameter names.

Both are imported when first used.  Each returned image is judged again by the harness: a
library's own word for success is never taken.
"""

import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import NO_GRADIENT, gradients_needed, reaches_images
from robusteval.attacks.counting import Counted, PositiveLogits, as_counted
from robusteval.attacks.foreign import Told, check
from robusteval.attacks.inputs import attack
from robusteval.attacks.ranges import one_of
from robusteval.attacks.results import AttackResult, Stage, Warned
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import project
from robusteval.errors import AttackError, UnknownNameError
from robusteval.hardware import is_out_of_memory
from robusteval.types import Norm, ThreatModel
from robusteval.vision import torchvision

Version = Literal["standard", "rand"]
_WORDS = {"standard": 1, "rand": 20}  # passes that decide what a member broke, as many as its own
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


def torchattacks_module() -> ModuleType:
    """torchattacks, which needs torchvision to be importable."""
    torchvision()
    return import_module("torchattacks")


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
    those of its class there, norms and ranges those of ``foreign.TORCHATTACKS``.  ε, and where it
    takes them the norm, the seed and the number of classes, are passed to it.  Raises AttackError
    for an unknown attack, a norm that it can't work in, a parameter that is unknown or out of
    range, images outside [0, 1] or of a size or of channels that it can't take, too few classes,
    and where no gradient reaches the images.
    """
    try:
        told = check("torchattacks", name, (threat.norm,), parameters)
    except UnknownNameError as error:
        raise AttackError(str(error)) from None
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images, labels)
    require_fit(f"torchattacks' {name}", told, counted.classes, images, parameters)
    if name == "Square" and not square_fits(images, threat.norm, oblong=False):
        size = "×".join(str(side) for side in images.shape[-2:])
        raise AttackError(f"torchattacks' Square can't run in L2 on {size} images: leave it out")
    kind = getattr(torchattacks_module(), name)
    given = {"norm": threat.norm, "seed": seed % 2**31, "n_classes": counted.classes}
    taken = inspect.signature(kind).parameters
    keywords = parameters | {key: value for key, value in given.items() if key in taken}
    if told.eps:
        keywords[told.eps] = threat.radius
    seen = counted if name in _WITHOUT_SHIFT else PositiveLogits(counted)
    with redirect_stdout(StringIO()):  # it prints where a model has no parameters
        called = kind(seen, **keywords)
    start = images.clamp(1e-6, 1 - 1e-6) if name in _TANH_SPACE else images
    called.set_device(images.device)
    with seeded(seed, images.device), gradients_needed(counted, images, told.by_gradient):
        adversarial = called(start.contiguous(), labels)
    if name in _TANH_SPACE:  # what it did not move is the clean image, to the bit
        adversarial = torch.where(adversarial == start, images, adversarial)
    return AttackResult(adversarial.detach())


def require_fit(
    whose: str, told: Told, classes: int, images: Tensor, parameters: dict[str, Any]
) -> None:
    """Raises AttackError for a model or images that an attack can't work on."""
    fewest = max(told.classes, 3) if "dlr" in parameters.values() else told.classes
    if classes < fewest:
        raise AttackError(f"{whose} needs {fewest} classes: leave it out")
    if told.channels not in (None, images.shape[1]):
        raise AttackError(f"{whose} needs images of {told.channels} channels: leave it out")


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


def square_fits(images: Tensor, norm: Norm, oblong: bool = True) -> bool:
    """Whether Square's windows fit on such images: in L2 its first tiles are a fifth as high.

    Both libraries would fail there.  torchattacks' fails on oblong images, too.
    """
    height, width = images.shape[-2:]
    side = height // 5
    if norm == "Linf":
        return True
    if side == 0 or (height != width and not oblong):
        return False
    first = (height - 5 * side) // 2
    return side == 1 or all(first + length // side * side <= length for length in (height, width))


@attack
def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    version: Version = "standard",
) -> AttackResult:
    """AutoAttack (Croce and Hein 2020) by its authors (pyautoattack), its members one by one on
    survivors.

    Adversarial images for images (B, C, H, W) in [0, 1] and labels (B,).  That is what its
    evaluation does itself; one by one it tells what each member broke.  A survivor of ten classes
    costs some 7,800 forward passes, 5,000 of them Square's, and 2,000 backward ones.  With fewer
    than four classes the valid members run, without Square on images that its windows don't fit in
    L2, and Square alone where no gradient reaches the images.  ``version`` "rand" is theirs for
    random models: APGD over the mean gradient of 20 passes.  Raises AttackError for images outside
    [0, 1], and where no member can run.
    """
    from pyautoattack import checks

    if not one_of(*_WORDS).has(version):
        raise AttackError(f"AutoAttack's version {version!r}: choose {' or '.join(_WORDS)}")
    if len(images) == 0:
        return AttackResult(images)
    counted = as_counted(model, images, labels)
    members, left_out = autoattack_members(counted.classes, version)
    notes, stages = [left_out] if left_out else [], []
    if "square" in members and not square_fits(images, threat.norm):
        members = tuple(member for member in members if member != "square")
        notes.append("square is left out, since its windows don't fit on these images in L2")
    evaluation = _evaluation(counted, images, threat, seed, version)
    result, blind = images.clone(), []
    alive = torch.arange(len(images), device=images.device)
    with _warnings_of("auto-attack") as heard, seeded(seed, images.device), _same_tracing():
        # On the logits as they are: the shift would hide that they are probabilities.
        checks.check_range_output(counted, images, logger=evaluation.logger)
        for member in members:
            if len(alive) == 0:
                break
            with counted.attending(alive):
                found = _found_by(member, evaluation, counted, images[alive], labels[alive])
            if found is None:
                blind.append(member)
                continue
            # Judged as it will count, so that a near miss meets the remaining members too.
            result[alive] = project(found, images[alive], threat)
            with torch.no_grad():
                logits = torch.stack([counted(result[alive]) for _ in range(_WORDS[version])])
            survives = logits.mean(0).argmax(1) == labels[alive]
            broken = int((~survives).sum())
            stages.append(Stage(member, broken, len(alive)))
            alive = alive[survives]
    if len(blind) == len(members):
        raise AttackError(NO_GRADIENT)
    warned = [Warned("blind", stages=tuple(blind))] if blind else []
    warned += [_warned(text) for text in sorted(heard)]
    return AttackResult(result, stages, warned, notes)


def _warned(text: str) -> Warned:
    """What AutoAttack's checks said, in its words.

    Its count of points without a gradient stands apart, since chunks differ by nothing else.
    """
    count, found, rest = text.removeprefix("there are ").partition(" points with zero gradient!")
    if found and count.isdecimal():
        return Warned("zero_gradient", float(count), text=rest)
    return Warned("library", text=text)


def _found_by(
    member: str, evaluation: Any, counted: Counted, images: Tensor, labels: Tensor
) -> Tensor | None:
    """Images (B, C, H, W) by one member; None where it asks for gradients that don't reach them."""
    evaluation.attacks_to_run = [member]
    try:
        found: Tensor
        found, _ = evaluation.run_standard_evaluation(
            images.contiguous(), labels, batch_size=len(images)
        )
    except (RuntimeError, AttributeError, TypeError) as error:  # FAB asks None for its data
        if is_out_of_memory(error) or reaches_images(counted.adapter, images):
            raise
        return None
    return found


def _evaluation(
    counted: Counted, images: Tensor, threat: ThreatModel, seed: int, version: Version
) -> Any:
    """Theirs, for this model."""
    import pyautoattack
    from pyautoattack import checks

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
    return evaluation


@contextmanager
def _same_tracing() -> Iterator[None]:
    """pyautoattack traces a pass, and leaves no debugger or coverage tool where it was."""
    before = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _warnings_of(name: str) -> Iterator[set[str]]:
    """Collects a logger's warnings instead of printing them, also where a caller has turned logging
    off: a warning that wasn't heard is no all-clear."""
    collected: set[str] = set()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.add(record.getMessage())

    logger, handler = logging.getLogger(name), Collect(logging.WARNING)
    held = (logger.propagate, logger.disabled, logger.level, logging.root.manager.disable)
    logger.propagate = logger.disabled = False
    logger.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    logger.addHandler(handler)
    try:
        yield collected
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.disabled, level, off = held
        logger.setLevel(level)
        logging.disable(off)
