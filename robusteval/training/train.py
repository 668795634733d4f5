"""From an entry to trained weights: what ``robusteval train`` does."""

import datetime
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomlkit
import torch

from robusteval.data.datasets import load_dataset
from robusteval.errors import OutputError, TrainingError
from robusteval.hardware import commit_of, hardware_name
from robusteval.models.entry import Entry, Trained
from robusteval.models.loading import build_network, stored_form, write_weights
from robusteval.training import baselines, pcl  # noqa: F401 - they register their recipes
from robusteval.training.loop import EpochLog, Progress, Trainer, accuracy_of
from robusteval.training.recipe import RECIPES
from robusteval.training.speed import choose_speed


def train(
    entry: Entry,
    *,
    data_dir: Path | None = None,
    work_dir: Path = Path("training"),
    on_epoch: Callable[[EpochLog], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Trained:
    """Trains ``entry`` by its ``[training]`` table and writes weights and ``[trained]``.

    Checkpoints and the log go to ``work_dir/NAME``; a killed training goes on from its last epoch.
    The epoch that counts is chosen on a validation part of the training data; clean accuracy is
    then measured once on the test split, with the weights as stored (float16).
    """
    settings = entry.training
    if settings is None:
        raise TrainingError(f"{entry.path} has no [training] table: write one")
    torch.manual_seed(settings.seed)
    network = build_network(entry)
    recipe = RECIPES.get(settings.recipe)(network, settings)
    data = load_dataset(entry.dataset, "train", data_dir)
    fitting, validation = data.split_off(settings.validation, seed=0)
    place = work_dir / entry.name
    log = place / "log.jsonl"
    speed = choose_speed(network, fitting, settings)
    trainer = Trainer(
        network, recipe, fitting, validation, settings, speed=speed, progress=progress
    )
    for line in trainer.fit(place / "checkpoint.safetensors"):
        _append(log, line)
        on_epoch(line)
    history = _logged(log)
    seconds = sum(past["seconds"] for past in history)
    best = max(
        (past for past in history if past["epoch"] > settings.warmup_epochs),
        key=lambda past: (past["validation_robust"] or past["validation_accuracy"], past["epoch"]),
    )
    test = load_dataset(entry.dataset, "test", data_dir)
    tensors = stored_form(network)
    network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    correct = round(accuracy_of(network, test) * len(test))
    trained = Trained(
        seed=settings.seed,
        epochs=settings.total_epochs,
        best_epoch=int(best["epoch"]),
        seconds=round(seconds, 1),
        hardware=hardware_name(),
        precision=str(speed),
        commit=commit_of(entry.path.parent),
        date=datetime.date.today().isoformat(),
        validation_accuracy=round(best["validation_accuracy"], 4),
        clean_accuracy=round(correct / len(test), 4),
        clean_correct=correct,
        clean_total=len(test),
    )
    _write_entry(entry, write_weights(entry.weights_path, tensors), trained)
    return trained


def _append(path: Path, line: EpochLog) -> None:
    kept = [p for p in _logged(path) if p["epoch"] < line.epoch]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps(row) for row in [*kept, asdict(line)]]
        path.write_text("\n".join(rows) + "\n")
    except OSError as error:
        raise OutputError(f"training log {path} can't be written ({error.strerror})") from None


def _logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in path.read_text().splitlines()] if path.is_file() else []


def _write_entry(entry: Entry, digest: str, trained: Trained) -> None:
    document = tomlkit.parse(entry.path.read_text(encoding="utf-8"))
    document["weights"] = {"file": entry.weights_path.name, "sha256": digest}
    document["trained"] = trained.model_dump()
    partial = entry.path.with_suffix(".toml.partial")
    partial.write_text(tomlkit.dumps(document), encoding="utf-8")
    os.replace(partial, entry.path)
