"""What a run is about: a model, and the samples that it is asked about."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from robusteval.attacks.seeding import seeded
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.known import DATASETS, is_known
from robusteval.data.own import of_classes, own_data, own_data_at
from robusteval.errors import AttackError, DataError, RobustevalError, shown
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.entry import Entry
from robusteval.models.foreign import Normalised, users_own
from robusteval.models.registry import find_entry, reference_to
from robusteval.models.soundness import require_answers
from robusteval.plan.fitting_data import own_fitting_data, require_shape
from robusteval.reading import named_path
from robusteval.run.options import Options
from robusteval.schema import LONGEST_NAME
from robusteval.training.own_loss import open_model

Model = str | Path | nn.Module


@dataclass(frozen=True)
class Asked:
    """What a run is to be about, as a caller says it.

    ``model``: an entry's name or path, an adapter, or any module.  ``dataset``: a known data set's
    name or, with ``images``, what the report calls them.  ``images`` and ``labels``: the user's own
    (see ``data.given``).  ``classes``: how many a module tells apart.  ``name``: what the report
    calls a model without an entry; by default its class's name.
    """

    model: Model
    dataset: str | None = None
    name: str | None = None
    images: Any = None
    labels: Any = None
    classes: int | None = None

    @property
    def called(self) -> str:
        """What the report calls a model without an entry."""
        if self.name or not isinstance(self.model, nn.Module):
            return self.name or "model"
        name = type(users_own(self.model)).__name__
        return name if len(name.encode()) <= LONGEST_NAME else "model"


@dataclass(frozen=True)
class Subject:
    """A model behind its adapter, its entry if it has one, and the chosen samples.

    ``total``: how many samples there were to choose from.  ``path``: of own data, "" for others.
    ``training``: what of a user's training data is fitted to, and ``training_path``: where these
    are, "" where Python gave them.
    """

    model: Adapter
    entry: Entry | None
    data: Dataset
    total: int
    path: str = ""
    training: Dataset | None = None
    training_path: str = ""

    @property
    def reference(self) -> str:
        """How to find the entry again; empty for a model without one."""
        return "" if self.entry is None else reference_to(self.entry)


def with_training(subject: Subject, options: Options) -> Subject:
    """With the user's own training data, if there are some.  Raises DataError where they can't be
    used."""
    if options.fit_images is None and options.fit_data is None:
        return subject
    path, given = "", (options.fit_images, options.fit_labels)
    if options.fit_data is not None:
        path = str(named_path(options.fit_data, "training data", DataError).resolve())
    found = own_fitting_data(path or given, subject.model.classes, options.data_dir)
    require_shape(found, subject.data.info.shape)
    return replace(subject, training=found, training_path=path)


def entry_of(model: Model) -> Entry | None:
    """The entry that is meant; None for a module.  Raises RobustevalError for another thing."""
    if isinstance(model, str | Path):
        return find_entry(model)
    if not isinstance(model, nn.Module):
        raise RobustevalError(
            f"model {shown(model)}: give an entry's name, its path, or a torch module"
        )
    return None


def subject_of(asked: Asked, entry: Entry | None, options: Options) -> Subject:
    """Loads both.  Raises RobustevalError where they can't be had, or don't fit each other."""
    if not isinstance(asked.dataset, str | None):
        raise DataError(f"data set {shown(asked.dataset)}: give its name")
    if asked.images is not None and options.data is not None:
        raise DataError("images= and data= were both given: leave one out")
    if asked.images is not None or (options.data is not None and not is_known(options.data)):
        return _on_own_data(asked, entry, options)
    set_name = options.data or asked.dataset or (entry.dataset if entry else None)
    if not set_name:
        raise DataError(_NO_DATA)
    known = DATASETS.get(set_name).classes
    adapter = _adapter(asked.model, entry, options, asked.classes or known)
    data = load_dataset(set_name, "test", options.data_dir, options.download)
    if data.info.classes != adapter.classes:
        raise DataError(
            f"{set_name} has {data.info.classes} classes, the model {adapter.classes}: "
            "choose the data set it was trained on"
        )
    chosen = data.choose(options.samples, options.at_most)
    return Subject(adapter, entry, chosen, len(data))


_NO_DATA = (
    "there is no data set to run on: name one with dataset=…, pass images and labels, or name data "
    "with --data"
)


def _on_own_data(asked: Asked, entry: Entry | None, options: Options) -> Subject:
    path = ""
    if asked.images is not None:
        name = asked.dataset or "own data"
        data = own_data(asked.images, asked.labels, name, options.samples, options.at_most)
    else:
        place = named_path(options.data or "", "data", DataError).resolve()
        how = (options.samples, options.at_most, options.data_dir)
        data, path = own_data_at(place, asked.dataset, *how), str(place)
    adapter = _adapter(asked.model, entry, options, asked.classes, data)
    return Subject(adapter, entry, of_classes(data, adapter.classes), data.info.test_samples, path)


def _adapter(
    model: Model,
    entry: Entry | None,
    options: Options,
    classes: int | None,
    data: Dataset | None = None,
) -> Adapter:
    """The model on its device; a plain module tells by an answer how many classes it has."""
    if entry is not None:
        return open_model(entry, options.device, options.allow_code)
    assert isinstance(model, nn.Module), "anything else was refused"
    model = model.to(options.device)
    if isinstance(model, Adapter):
        if classes is not None and classes != model.classes and data is not None:
            raise AttackError(f"classes = {classes}: the adapter has {model.classes}")
        return model
    if classes is None and data is not None:
        images = data.images(slice(0, 2)).to(options.device)
        with seeded(options.seed, images.device), evaluating(model):
            classes = require_answers(Normalised(model, (0.0,), (1.0,)), images)
    return wrap_module(model, classes or 0)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and after it as it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def borrowed(model: object) -> Iterator[None]:
    """A user's plain module comes back as it was: its modes, its gradients, its device."""
    if not isinstance(model, nn.Module) or isinstance(model, Adapter):
        yield
        return
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    device = next((parameter.device for parameter in wanted), None)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, is_wanted in wanted.items():
            parameter.requires_grad_(is_wanted)
        if device is not None:
            model.to(device)


def try_out(model: Adapter, data: Dataset, options: Options) -> None:
    """Raises AttackError for a foreign model that doesn't answer a clean image, or two, with
    logits."""
    images = data.images(slice(0, 2)).to(options.device)
    with seeded(options.seed, images.device):  # it may draw from the global generators
        require_answers(model, images, model.classes)
