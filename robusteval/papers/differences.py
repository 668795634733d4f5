"""Where a model here differs from the paper's, in a line."""

from collections.abc import Iterator

from robusteval.models.entry import Entry
from robusteval.models.entry_tables import BackboneTable, Trained, Training
from robusteval.papers.paper import PaperModel
from robusteval.training.adversarial import chosen_by

_NOTHING = PaperModel()


def differences(entry: Entry, paper: PaperModel | None) -> str:
    """What an entry tells of its training, each with what the paper tells of its own model."""
    return "; ".join(_parts(entry, paper or _NOTHING))


def _parts(entry: Entry, paper: PaperModel) -> Iterator[str]:
    yield f"data: {entry.dataset}"
    if entry.backbone:
        yield _beside("backbone", _network(entry.backbone), paper.backbone)
    if training := entry.training:
        epochs = str(training.total_epochs) + _kept_epoch(training, entry.trained)
        yield _beside("epochs", epochs, str(paper.epochs or ""))
        yield _beside("training", _kind(training), paper.training)
        augmentation = ", ".join(training.augment) or "none"
        yield _beside("augmentation", augmentation, paper.augmentation)
    if trained := entry.trained:
        yield from _of_trained(trained)
    if paper.note:
        yield paper.note


def _network(backbone: BackboneTable) -> str:
    """Its name, and how wide it is where the entry says so: the papers' are wider."""
    options = backbone.options
    wide = options.get("widths", options.get("width"))
    told = "-".join(map(str, wide)) if isinstance(wide, list) else wide
    return f"{backbone.name}, width {told}" if told else backbone.name


def _beside(name: str, here: str, paper: str) -> str:
    if not paper:
        return f"{name}: {here}"
    is_alike = here.casefold() == paper.casefold()
    return f"{name}: {here}" + (", as the paper's" if is_alike else f" (paper: {paper})")


def _kind(training: Training) -> str:
    """How it is trained, with what ``kind`` leaves out: steps or replays, and clean images."""
    if (crafted := training.adversarial) is None:
        return training.kind
    more = {"pgd": f" in {crafted.steps} steps", "free": f", {crafted.replays} replays"}
    told = training.kind + more.get(crafted.attack, "")
    is_beside = crafted.attack != "free" and crafted.with_clean
    return f"{told} and clean images" if is_beside else told


def _kept_epoch(training: Training, trained: Trained | None) -> str:
    """Which epoch's weights are stored, and what chose it."""
    if trained is None:
        return ""
    attack = chosen_by(training)
    by = f"under PGD at {attack.eps[1]}" if attack else "on clean images"
    return f", of which number {trained.best_epoch} is kept, the best of validation {by}"


def _of_trained(trained: Trained) -> Iterator[str]:
    if trained.samples:
        yield f"training images: {trained.samples}"
    if trained.prototypes_left:
        least, most = min(trained.prototypes_left), max(trained.prototypes_left)
        yield f"prototypes left in a class: {least}" + (f" to {most}" if most > least else "")
