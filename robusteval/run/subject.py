"""What a run is about: a model, and the samples that it is asked about."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robusteval.attacks.seeding import seeded
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.known import DATASETS
from robusteval.errors import DataError, RobustevalError, shown
from robusteval.models.adapter import Adapter, require_answers
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model
from robusteval.models.registry import entry_paths, find_entry
from robusteval.run.options import Options


@dataclass(frozen=True)
class Subject:
    """A model behind its adapter, its entry if it has one, and the chosen samples."""

    model: Adapter
    entry: Entry | None
    data: Dataset

    @property
    def reference(self) -> str:
        """How to find the entry again: its name where that leads to it, else its path."""
        if self.entry is None:
            return ""
        known = entry_paths().get(self.entry.name)
        same = known is not None and known.resolve() == self.entry.path.resolve()
        return self.entry.name if same else str(self.entry.path.resolve())


def entry_of(model: str | Path | Adapter) -> Entry | None:
    """The entry that is meant; None for an adapter.  Raises RobustevalError for another thing."""
    if isinstance(model, str | Path):
        return find_entry(model)
    _require_adapter(model)
    return None


def subject_of(
    model: str | Path | Adapter, entry: Entry | None, dataset: str | None, options: Options
) -> Subject:
    """Loads both.  Raises RobustevalError where they can't be had, or don't fit each other."""
    if not isinstance(dataset, str | None):
        raise DataError(f"data set {shown(dataset)}: give its name")
    set_name = dataset or (entry.dataset if entry else None)
    if set_name is None:
        raise DataError("a model from Python needs a data set: pass dataset=…")
    DATASETS.get(set_name)
    adapter = _adapter(model, entry, options)
    return Subject(adapter, entry, _samples(set_name, adapter, options))


def _require_adapter(model: object) -> None:
    """Raises RobustevalError for what is neither an entry's name or path nor an adapter."""
    if isinstance(model, nn.Module):
        if isinstance(model, Adapter):
            return
        raise RobustevalError(
            "a plain torch module has no adapter: pass wrap_module(module, classes=…)"
        )
    raise RobustevalError(
        f"model {shown(model)}: give an entry's name, its path, or wrap_module(module, classes=…)"
    )


def _adapter(model: str | Path | Adapter, entry: Entry | None, options: Options) -> Adapter:
    if entry is not None:
        return load_model(entry, options.device, options.allow_code)
    assert isinstance(model, Adapter), "anything else was refused"
    return model.to(options.device)


def _samples(set_name: str, model: Adapter, options: Options) -> Dataset:
    data = load_dataset(set_name, "test", options.data_dir, options.download)
    if data.info.classes != model.classes:
        raise DataError(
            f"{set_name} has {data.info.classes} classes, the model {model.classes}: "
            "choose the data set it was trained on"
        )
    if options.samples is None or (options.at_most and options.samples >= len(data)):
        return data
    return data.balanced_subset(options.samples)


def try_out(model: Adapter, data: Dataset, options: Options) -> None:
    """Raises AttackError for a foreign model that doesn't answer a clean image, or two, with
    logits."""
    images = data.images(slice(0, 2)).to(options.device)
    with seeded(options.seed, images.device):  # it may draw from the global generators
        require_answers(model, images, model.classes)
