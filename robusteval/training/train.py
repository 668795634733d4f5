"""From an entry to trained weights: what ``robusteval train`` does."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import tomlkit
import torch

from robusteval.ambient import plain_state
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.errors import TrainingError
from robusteval.hardware import check_device, commit_of, is_dirty, keep_freed_memory
from robusteval.models.entry import Entry, Trained, Training, built_in_folder, read_entry
from robusteval.models.loading import build_network, classes_of, stored_form, write_weights
from robusteval.models.network import PrototypeNetwork
from robusteval.storage import replace_file, require_writable
from robusteval.training import (  # noqa: F401 - they register their recipes
    baselines,
    drp,
    gcpl,
    mpat,
    pcl,
    scpl,
)
from robusteval.training.loop import EpochLog, Progress, Trainer, accuracy_of
from robusteval.training.recipe import RECIPES, Recipe
from robusteval.training.speed import as_judged, choose_speed

_DESCRIBED = ("dataset", "classes", "backbone", "head", "input")  # what a network is made from


@plain_state(exact=False)
def train(
    entry: Entry,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    device: str = "cpu",
    work_dir: Path = Path("training"),
    on_epoch: Callable[[EpochLog], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Trained:
    """Trains ``entry`` by its ``[training]`` table and writes weights and ``[trained]``.

    Checkpoints and the log go to ``work_dir/NAME``; a killed training goes on from its last epoch.
    The epoch that counts is chosen on a validation part of the training data; clean accuracy is
    then measured once on the test split, with the weights as stored (float16).
    """
    settings = _settings(entry)
    check_device(device)
    place = work_dir / entry.name
    for folder in (place, entry.path.parent):
        require_writable(folder, "weights, entry and log go there")
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
    trainer = Trainer(
        network,
        recipe,
        fitting,
        validation,
        settings,
        speed=choose_speed(network, fitting, settings, device=device),
        device=device,
        identity=entry.model_dump_json(include=set(_DESCRIBED)),
        commit=_code(),
        progress=progress,
    )
    for line in trainer.fit(place / "checkpoint.safetensors"):
        _write_log(place / "log.jsonl", trainer.state.history)
        on_epoch(line)
    tensors = stored_form(network)
    network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    with as_judged():
        correct = round(accuracy_of(network, test) * len(test))
    trained = _trained(trainer, correct, len(test))
    _require_unchanged(entry)
    _write_entry(entry, write_weights(entry.weights_path, tensors), trained)
    return trained


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


def _require_unchanged(entry: Entry) -> None:
    """Raises TrainingError where the entry was edited meanwhile: its text would tell of a training
    that never was.  The checkpoint stays."""
    described = {*_DESCRIBED, "training"}
    now = read_entry(entry.path)
    if now.model_dump(include=described) != entry.model_dump(include=described):
        raise TrainingError(
            f"{entry.path} was edited while it trained: put it back and run the same command "
            "again, which writes the weights, or delete the checkpoint to begin anew"
        )


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
    )


def _write_log(path: Path, history: list[EpochLog]) -> None:
    text = "".join(json.dumps(asdict(line)) + "\n" for line in history)
    replace_file(path, text.encode(), "free space or use --work-dir")


def _write_entry(entry: Entry, digest: str, trained: Trained) -> None:
    document = tomlkit.parse(entry.path.read_text(encoding="utf-8"))
    document["weights"] = {"file": entry.weights_path.name, "sha256": digest}
    document["trained"] = trained.model_dump(exclude_none=True)
    replace_file(entry.path, tomlkit.dumps(document).encode(), "free space in its folder")
