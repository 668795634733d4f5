"""AutoAttack by its authors, unmodified, its members one by one on survivors.

It is imported when first used.  Each returned image is judged again by the harness: a library's
own word for success is never taken.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import NO_GRADIENT, reaches_images
from robusteval.attacks.counting import Counted, PositiveLogits, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.losses import logit_margin
from robusteval.attacks.ranges import one_of
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack, Library, Parameters
from robusteval.attacks.results import AttackResult, Stage, Warned
from robusteval.attacks.seeding import seeded
from robusteval.attacks.squares import square_fits
from robusteval.attacks.steps import project
from robusteval.errors import AttackError
from robusteval.hardware import is_out_of_memory
from robusteval.types import ThreatModel

Version = Literal["standard", "rand"]
_WORDS = {"standard": 1, "rand": 20}  # passes that decide what a member broke, as many as its own

# What the standard version runs, for the report.
AUTOATTACK_PARAMETERS: dict[str, Any] = {
    "version": "standard",
    "apgd_steps": 100,
    "fab_steps": 100,
    "targets": "min(9, K − 1)",
    "square_queries": 5000,
    "restarts": 1,
}


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
    if member == "square" and _all_tie(counted, images, labels):
        return images  # to Square they are broken, and its windows of L2 fail on no images
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


def _all_tie(counted: Counted, images: Tensor, labels: Tensor) -> bool:
    """Whether each sample's logit is no larger than another's, though argmax names it."""
    with torch.no_grad():
        return bool((logit_margin(counted(images), labels) >= 0).all())


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


def _passes(given: Parameters, classes: int) -> tuple[int, int]:
    """Of a survivor; FAB asks four times as often as it goes back."""
    targets = min(9, classes - 1)
    apgd = 100 * (1 + (targets if classes >= 4 else 1 if classes == 3 else 0))
    fab = 100 * targets
    return apgd + 4 * fab + 5000, apgd + fab


AUTOATTACK = Library(
    name="autoattack",
    package="pyautoattack",
    install="pip install pyautoattack",
    accelerated=True,
)
ATTACKS = (
    Attack(
        name="standard",
        library=AUTOATTACK,
        function=autoattack,
        norms=BOTH,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="both",
        by_sample=False,
        passes=_passes,
        parameters={},
        defaults=lambda: dict(AUTOATTACK_PARAMETERS),
        version=1,
    ),
)
