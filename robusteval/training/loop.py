"""Epochs, checkpoints and log, the same for every method."""

import datetime
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robusteval.data.datasets import Dataset
from robusteval.errors import TrainingError
from robusteval.hardware import hardware_name
from robusteval.models.entry_tables import Training
from robusteval.models.network import PrototypeNetwork
from robusteval.training.adversarial import FreeSteps, chosen_by, craft
from robusteval.training.batches import batches
from robusteval.training.checkpoint import broken, read_checkpoint, write_checkpoint
from robusteval.training.recipe import Recipe
from robusteval.training.schedule import make_optimizer, scale_learning_rates
from robusteval.training.speed import Speed, activations, as_judged, compile_backbone

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class EpochLog:
    """One line of the training log."""

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    validation_robust: float | None
    lr: float
    seconds: float


@dataclass
class State:
    """Where a training stands after some epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    history: list[EpochLog] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    commits: list[str] = field(default_factory=list)
    hardware: str = ""
    date: str = ""


class Trainer:
    """Trains a network in place by a recipe.

    The epoch that counts is the best by accuracy on ``validation`` among those of the joint
    stage; in adversarial training, and where the entry says so, by accuracy on validation images
    under PGD.  Gradients longer than 100 are cut to that length, which only a training that is
    about to diverge sees.
    ``identity`` stands for what a checkpoint must belong to beside ``settings``: the network's
    description, say.  ``commit`` is the code's, and stands in the state.
    """

    def __init__(
        self,
        network: PrototypeNetwork,
        recipe: Recipe,
        training: Dataset,
        validation: Dataset,
        settings: Training,
        *,
        speed: Speed = Speed(),
        device: str = "cpu",
        identity: str = "",
        commit: str = "",
        progress: Progress = lambda *_: None,
    ) -> None:
        self.network, self.recipe, self.settings = network, recipe, settings
        self.training, self.validation = training, validation
        self.speed, self.device, self.progress = speed, device, progress
        self.commit = commit
        self.identity = hashlib.sha256(f"{identity}{settings.identity}".encode()).hexdigest()
        network.to(device)
        recipe.to(device)
        self.optimizer = make_optimizer(network, recipe, settings)
        self.state = State()

    def fit(self, checkpoint: Path) -> Iterator[EpochLog]:
        """Yields a log line per epoch, and leaves the best epoch's weights in the network.

        A checkpoint follows each epoch; if one of the same settings is there, training goes on
        from it and ends where it would have ended: every epoch draws from a generator of its own.

        Raises TrainingError on a loss that is not finite; the last checkpoint stays.
        """
        self._resume(checkpoint)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.speed.compiled:
            compile_backbone(self.network)
        for epoch in range(self.state.epoch, self.settings.total_epochs):
            started = time.perf_counter()
            loss, accuracy = self._epoch(epoch)
            with as_judged():
                self.recipe.end_epoch(self.network, self.training, epoch)
                self._require_sound(epoch)
                validated = accuracy_of(self.network, self.validation)
                robust = self._robust_accuracy(epoch)
            self._note_best(epoch, validated if robust is None else robust)
            lr = self.optimizer.param_groups[0]["lr"]
            seconds = time.perf_counter() - started
            line = EpochLog(epoch + 1, loss, accuracy, validated, robust, lr, seconds)
            self.state.history.append(line)
            self._sign()
            self._save(checkpoint)
            yield line
        if self.state.best is not None:
            self.network.load_state_dict(self.state.best)

    def _epoch(self, epoch: int) -> tuple[float, float]:
        """One epoch; (mean loss, training accuracy)."""
        settings = self.settings
        seed = _epoch_seed(settings.seed, epoch)
        torch.manual_seed(seed ^ 1)
        generator = torch.Generator().manual_seed(seed)
        with as_judged():
            self.recipe.start_epoch(self.network, self.training, epoch)
        self.network.train()
        total = math.ceil(len(self.training) / settings.batch_size)
        losses = correct = seen = 0.0
        source = batches(
            self.training, settings.batch_size, settings.augment, settings.crop_padding, generator
        )
        free = self._free_steps(epoch)
        for i, (images, labels) in enumerate(source):
            scale_learning_rates(self.optimizer, settings, epoch + i / total)
            for loss, right, count in self._updates(images, labels, epoch, generator, free):
                if not math.isfinite(loss):
                    raise _diverged(f"loss or gradient became {loss}", epoch, f"batch {i + 1}")
                losses, correct, seen = losses + loss * count, correct + right, seen + count
            self.progress(i + 1, total, losses / seen)
        return losses / seen, correct / seen

    def _updates(
        self,
        images: Tensor,
        labels: Tensor,
        epoch: int,
        generator: torch.Generator,
        free: FreeSteps | None,
    ) -> Iterator[tuple[float, int, int]]:
        """The updates that a batch gives: (loss, how many were right, of how many)."""
        images = images.to(self.device, memory_format=torch.channels_last)
        labels = labels.to(self.device)
        if free is not None:
            for loss, right in free.replay(
                images, generator, lambda moved: self._step(moved, labels, epoch)
            ):
                yield loss, right, len(labels)
            return
        chosen = self.settings.adversarial
        if chosen is not None and self._is_adversarial(epoch):
            told = (chosen, epoch, generator, self.speed.bfloat16)
            crafted = craft(self.network, self.recipe, images, labels, *told)
            images = torch.cat([images, crafted]) if chosen.with_clean else crafted
            labels = labels.repeat(2) if chosen.with_clean else labels
        loss, right = self._step(images, labels, epoch)
        yield loss, right, len(labels)

    def _step(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[float, int]:
        """One update; (loss, how many were right).  Without a finite loss and a finite gradient
        nothing changes, and the loss returned isn't finite."""
        if self.recipe.differentiates_twice:
            images.requires_grad_()
        layers = activations(self.network, images, self.speed.bfloat16)
        loss, logits = self.recipe.loss(self.network, layers, labels, epoch)
        if self.recipe.differentiates_twice:
            loss = loss + self.recipe.penalty(loss, images)
        value = loss.item()
        if math.isfinite(value):
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            length = nn.utils.clip_grad_norm_(self.network.parameters(), 100.0)
            own = [p.grad for p in self.recipe.parameters() if p.grad is not None]
            if not all(torch.isfinite(g).all() for g in (length, *own)):
                return math.nan, 0
            self.optimizer.step()
            self.network.fill_places()
            self.recipe.after_step(self.network)
        return value, int((logits.argmax(1) == labels).sum())

    @torch.no_grad()
    def _require_sound(self, epoch: int) -> None:
        """Raises TrainingError where the last step left nothing that computes."""
        self.network.eval()
        few = self.validation.images(torch.arange(min(100, len(self.validation))))
        if not torch.isfinite(self.network(few.to(self.device))).all():
            raise _diverged("logits became NaN or infinite", epoch, "at its end")

    def _free_steps(self, epoch: int) -> FreeSteps | None:
        chosen = self.settings.adversarial
        if chosen is None or chosen.attack != "free" or not self._is_adversarial(epoch):
            return None
        return FreeSteps(chosen)

    def _is_adversarial(self, epoch: int) -> bool:
        return self.settings.adversarial is not None and epoch >= self.settings.warmup_epochs

    def _robust_accuracy(self, epoch: int) -> float | None:
        """Accuracy on up to 500 validation images under PGD; None where clean accuracy decides."""
        against = chosen_by(self.settings)
        if against is None or epoch < self.settings.warmup_epochs:
            return None
        part = self.validation.balanced_subset(min(500, len(self.validation)))
        generator = torch.Generator().manual_seed(self.settings.seed)
        images, labels = part.images().to(self.device), part.labels.to(self.device)
        images = craft(self.network, self.recipe, images, labels, against, epoch, generator)
        self.network.eval()
        with torch.no_grad():
            return float((self.network(images).argmax(1) == labels).double().mean())

    def _note_best(self, epoch: int, score: float) -> None:
        state = self.state
        state.epoch = epoch + 1
        if epoch >= self.settings.warmup_epochs and score >= state.best_score:
            state.best_score, state.best_epoch = score, epoch + 1
            state.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def _sign(self) -> None:
        """Where the last epoch was made: a training may go on elsewhere, or under other code."""
        state = self.state
        state.hardware, state.date = hardware_name(self.device), datetime.date.today().isoformat()
        if self.commit and self.commit not in state.commits:
            state.commits.append(self.commit)

    def _save(self, path: Path) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"recipe.{k}": v for k, v in self.recipe.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in (self.state.best or {}).items()}
        for i, slot in self.optimizer.state_dict()["state"].items():
            if slot.get("momentum_buffer") is not None:
                tensors[f"momentum.{i}"] = slot["momentum_buffer"]
        meta = {k: v for k, v in asdict(self.state).items() if k != "best"}
        speed = asdict(self.speed)
        write_checkpoint(path, tensors, {**meta, "speed": speed, "identity": self.identity})

    def _resume(self, path: Path) -> None:
        if not path.is_file():
            return
        tensors, meta = read_checkpoint(path)
        if meta.pop("identity", "") != self.identity:
            raise TrainingError(
                f"checkpoint {path} belongs to other settings of the entry, or to another entry of "
                "its name: delete it to begin anew, or use another --work-dir"
            )
        try:
            self._restore(tensors, meta)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise broken(path, told) from None

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Raises what Python and torch do for parts that are missing or don't fit."""
        begun = Speed(**meta.pop("speed"))  # rounding goes on as it began, compiled if that can be
        meta["history"] = [EpochLog(**line) for line in meta["history"]]

        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}

        state = State(**meta, best=part("best") or None)
        if not 0 <= state.best_epoch <= state.epoch == len(state.history):
            raise ValueError(f"{len(state.history)} lines of {state.epoch} epochs")
        self.network.load_state_dict(part("network"))
        self.recipe.load_state_dict(part("recipe"))
        stored = self.optimizer.state_dict()
        stored["state"] = {int(i): {"momentum_buffer": v} for i, v in part("momentum").items()}
        self.optimizer.load_state_dict(stored)
        self.speed = Speed(begun.bfloat16, begun.compiled and self.speed.compiled)
        self.state = state


def _diverged(what: str, epoch: int, where: str) -> TrainingError:
    return TrainingError(
        f"{what} in epoch {epoch + 1}, {where}: the checkpoint of the last good epoch is kept; "
        "lower [training] lr, and delete it to begin anew"
    )


@torch.no_grad()
def accuracy_of(network: nn.Module, data: Dataset, batch_size: int = 500) -> float:
    """Share of samples predicted right, in float32 and eval mode."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    correct = 0
    for rows in torch.arange(len(data)).split(batch_size):
        predicted = network(data.images(rows).to(device)).argmax(1).cpu()
        correct += int((predicted == data.labels[rows]).sum())
    network.train(was_training)
    return correct / len(data)


def _epoch_seed(seed: int, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
