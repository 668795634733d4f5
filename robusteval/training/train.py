"""From an entry to trained weights: what ``robusteval train`` does."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from robusteval import stops
from robusteval.ambient import plain_state
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import TrainingError
from robusteval.hardware import check_device, commit_of, is_dirty, keep_freed_memory
from robusteval.models.entry import Entry, read_entry
from robusteval.models.entry_tables import Trained, Training
from robusteval.models.loading import build_network, classes_of, stored_form
from robusteval.models.network import PrototypeNetwork
from robusteval.models.registry import built_in_folder, find_entry
from robusteval.models.tensors import left_of_each_class
from robusteval.storage import (
    locked,
    remove_partials,
    replace_file,
    require_replaceable,
    require_writable,
)
from robusteval.training import (  # noqa: F401 - they register their recipes
    baselines,
    drp,
    gcpl,
    mpat,
    pcl,
    regularised,
    scpl,
)
from robusteval.training.loop import EpochLog, Progress, Trainer, accuracy_of
from robusteval.training.publishing import publish, require_own_files
from robusteval.training.recipe import RECIPES, Recipe
from robusteval.training.speed import as_judged, choose_speed

_CHECKPOINT, _LOG = "checkpoint.safetensors", "log.jsonl"
_DESCRIBED = ("dataset", "classes", "backbone", "head", "input")  # what a network is made from


@plain_state(exact=False)
def train(
    entry: Entry | str | Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    device: str = "cpu",
    work_dir: Path = Path("training"),
    on_epoch: Callable[[EpochLog], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Trained:
    """Trains an entry by its ``[training]`` table, and writes its weights and ``[trained]``.

    ``entry``: an entry, its name or its path.  Weights go to ``NAME.safetensors`` beside the entry,
    whatever file it names.  Checkpoints and the log go to ``work_dir/NAME``.  A training that was
    killed continues from its last epoch.

    The epoch that counts is chosen on a validation part of the training data.  Clean accuracy is
    then measured once on the test split, with the weights as they are stored (float16).

    Raises TrainingError for settings that can't be trained; if another process trains the entry;
    and if the weights would take the place of a file that is not the entry's own.
    """
    entry = entry if isinstance(entry, Entry) else find_entry(entry)
    settings = _settings(entry)
    check_device(device)
    place = Path(work_dir) / entry.name
    checkpoint = place / _CHECKPOINT
    require_writable(place, "choose another with --work-dir")
    require_writable(entry.path.parent, "weights and entry go there")
    with _alone(entry, place):
        require_own_files(entry, begun=checkpoint.exists())
        trainer, test = _prepared(entry, settings, data_dir, download, device, progress)
        with stops.saying(lambda: _kept(trainer)):
            for line in trainer.fit(checkpoint):
                _write_log(place / _LOG, trainer.state.history)
                on_epoch(line)
        tensors, trained = outcome_of(trainer, test)
        publish(_unchanged(entry), tensors, trained)
    return trained


def outcome_of(trainer: Trainer, test: Dataset) -> tuple[dict[str, Tensor], Trained]:
    """The weights of a finished training as they are stored, and what its entry says of it.

    The network has these weights from then on: clean accuracy is measured with them.
    """
    tensors = stored_form(trainer.network)
    trainer.network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    with as_judged():
        correct = round(accuracy_of(trainer.network, test) * len(test))
    trained = _trained(trainer, correct, len(test))
    return tensors, trained.model_copy(update={"prototypes_left": _left(trainer.network, tensors)})


def _left(network: PrototypeNetwork, tensors: dict[str, Tensor]) -> list[int] | None:
    """The prototypes that are left of each class in what is stored of the deepest layer."""
    if not network.head.layers or network.head.most_prototypes == 1:
        return None
    return left_of_each_class(tensors[f"prototypes.{network.head.layers[-1]}"].numpy())


def _kept(trainer: Trainer) -> str:
    """What a training keeps that is stopped now."""
    done, total = trainer.state.epoch, trainer.settings.total_epochs
    if not done:
        return f"none of {total} epochs was finished, so nothing is kept"
    return f"{done} of {total} epochs are done and kept; the same command does the rest"


@contextmanager
def _alone(entry: Entry, place: Path) -> Iterator[None]:
    """While no other process trains the entry, or in that folder; what killed ones left is
    cleared."""
    busy = TrainingError(f"another process trains {entry.name}: wait for it, or stop it")
    with locked(place / ".lock", busy, make=True), locked(entry.path, busy):
        for folder in (place, entry.path.parent):
            remove_partials(folder)
        for name in (_CHECKPOINT, _LOG):
            require_replaceable(place / name, "remove it, or use --work-dir")
        yield


def _prepared(
    entry: Entry,
    settings: Training,
    data_dir: Path | None,
    download: bool,
    device: str,
    progress: Progress,
) -> tuple[Trainer, Dataset]:
    """What trains, and the test split."""
    keep_freed_memory()
    torch.manual_seed(settings.seed)
    network = build_network(entry)
    recipe = _recipe(entry, network, settings)
    data = load_dataset(entry.dataset, "train", data_dir, download)
    _require_fitting(entry, network, data)
    test = load_dataset(entry.dataset, "test", data_dir, download)
    if settings.validation > len(data) // 2:
        raise TrainingError(
            f"{entry.path}: [training] validation takes {settings.validation} of {len(data)} "
            "training samples: choose at most half"
        )
    fitting, validation = data.split_off(settings.validation, seed=0)
    fitting = _part_of(entry, fitting, settings)
    speed = choose_speed(network, fitting, settings, device=device)
    if recipe.differentiates_twice:  # compiled code can be differentiated once
        speed = replace(speed, compiled=False)
    trainer = Trainer(
        network,
        recipe,
        fitting,
        validation,
        settings,
        speed=speed,
        device=device,
        identity=entry.model_dump_json(include=set(_DESCRIBED)),
        commit=_code(),
        progress=progress,
    )
    return trainer, test


def _part_of(entry: Entry, data: Dataset, settings: Training) -> Dataset:
    """The samples or the share that are asked for, class-balanced by the training's seed, a smaller
    part being contained in each larger one."""
    count = settings.samples
    if settings.share is not None:
        count = max(2, round(settings.share * len(data)))
    if count is None:
        return data
    if count > len(data):
        raise TrainingError(
            f"{entry.path}: [training] samples asks for {count} of {len(data)} images beside the "
            "validation part: choose fewer"
        )
    return data.balanced_subset(count, settings.seed)


def _require_fitting(entry: Entry, network: PrototypeNetwork, data: Dataset) -> None:
    """Raises TrainingError where the network can't take the data's images or tell its classes."""
    if classes_of(entry) != data.info.classes:
        raise TrainingError(
            f"{entry.path}: classes is {classes_of(entry)}, {entry.dataset} has "
            f"{data.info.classes}: leave it out, or choose another data set"
        )
    network.eval()
    try:
        with torch.no_grad():
            network(data.images(slice(0, 1)))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{entry.path}: the network can't take images of {entry.dataset} "
            f"({str(error).splitlines()[0]}): choose another [backbone]"
        ) from None
    network.train()


def _unchanged(entry: Entry) -> Entry:
    """The entry as it stands now.  Raises TrainingError where it was edited meanwhile: its text
    would tell of a training that never was.  The checkpoint stays."""
    described = {*_DESCRIBED, "training"}
    now = read_entry(entry.path)
    if now.model_dump(include=described) != entry.model_dump(include=described):
        raise TrainingError(
            f"{entry.path} was edited while it trained: put it back and run the same command "
            "again, which writes the weights, or delete the checkpoint to begin anew"
        )
    return now


def _code() -> str:
    """The project's commit; with a "+" where its code has changed since."""
    project = built_in_folder().parent
    commit = commit_of(project)
    return f"{commit}+" if commit and is_dirty(project, "robusteval") else commit


def _settings(entry: Entry) -> Training:
    if entry.training is None:
        raise TrainingError(f"{entry.path} has no [training] table: write one")
    return entry.training


def _recipe(entry: Entry, network: PrototypeNetwork, settings: Training) -> Recipe:
    if settings.recipe == "ce" and entry.head.layers:
        raise TrainingError(
            f"{entry.path}: cross-entropy alone trains no prototypes: leave head.layers out, or "
            'choose recipe = "auxiliary"'
        )
    try:
        return RECIPES.get(settings.recipe)(network, settings)
    except TrainingError as error:
        raise TrainingError(f"{entry.path}: {error}") from None


def _trained(trainer: Trainer, correct: int, total: int) -> Trained:
    state = trainer.state
    best = state.history[state.best_epoch - 1]
    robust = best.validation_robust
    return Trained(
        seed=trainer.settings.seed,
        epochs=trainer.settings.total_epochs,
        best_epoch=state.best_epoch,
        seconds=round(sum(line.seconds for line in state.history), 1),
        hardware=state.hardware,
        precision=str(trainer.speed),
        commit=", ".join(state.commits),
        date=state.date,
        validation_accuracy=round(best.validation_accuracy, 4),
        validation_robust=robust if robust is None else round(robust, 4),
        clean_accuracy=round(correct / total, 4),
        clean_correct=correct,
        clean_total=total,
        samples=len(trainer.training) if _is_part(trainer.settings) else None,
    )


def _is_part(settings: Training) -> bool:
    return settings.samples is not None or settings.share is not None


def _write_log(path: Path, history: list[EpochLog]) -> None:
    text = "".join(json.dumps(asdict(line)) + "\n" for line in history)
    replace_file(path, text.encode(), "free space or use --work-dir")
