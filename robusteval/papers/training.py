"""Training what a paper's tables lack: how long it may take, by how long others took."""

from collections.abc import Iterable

from robusteval.durations import duration_text
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Training


def about(entry: Entry, others: Iterable[Entry]) -> str:
    """A line before a training: its epochs, and how long they may take.

    By the trained entry that is most like it: on the same data with the same backbone, with as many
    passes of an epoch, and by the same recipe.
    """
    wanted = entry.training
    assert wanted is not None
    told = f"training {entry.name}: {wanted.total_epochs} epochs of {entry.dataset}"
    near = [one for one in others if one.trained and one.training and _alike(one, entry)]
    if not near:
        return f"{told}; no trained model is like it, so nobody knows how long that takes"
    like = min(near, key=lambda one: _unlike(one.training, wanted))
    assert like.trained is not None
    assert like.training is not None
    a_pass = like.trained.seconds / max(_all_passes(like.training), 1)
    seconds = a_pass * _all_passes(wanted)
    return (
        f"{told}, some {duration_text(seconds)} by what {like.name} took "
        f"({like.trained.hardware}; other machines differ)"
    )


def _alike(one: Entry, other: Entry) -> bool:
    return one.dataset == other.dataset and one.backbone == other.backbone


def _unlike(one: Training | None, other: Training) -> tuple[int, bool]:
    other_recipe = one is None or one.recipe != other.recipe
    return abs(_passes(one) - _passes(other)), other_recipe


def _passes(training: Training | None) -> int:
    """Forward passes of each image in an epoch, each with its backward pass."""
    if training is None or (crafted := training.adversarial) is None:
        return 1
    if crafted.attack == "free":
        return crafted.replays
    steps = 1 if crafted.attack in ("fgsm", "fast") else crafted.steps
    return 1 + steps + crafted.with_clean


def _all_passes(training: Training) -> int:
    return training.warmup_epochs + training.epochs * _passes(training)
