"""What every job of a run needs at hand: the model, the data, the plan."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robusteval.attacks.seeding import seeded
from robusteval.data.datasets import Dataset, load_dataset
from robusteval.data.outliers import OutlierSet
from robusteval.data.own import of_classes, own_data_at
from robusteval.detection.reading import Gathered
from robusteval.detection.scoring import BATCH
from robusteval.errors import DataError, EvidenceError, cut
from robusteval.hardware import check_device
from robusteval.models.acceleration import Acceleration, Forms
from robusteval.models.adapter import Adapter
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model
from robusteval.models.own import Agreement
from robusteval.models.places import PrototypeLayer, prototype_layers
from robusteval.models.registry import find_entry
from robusteval.plan.fitting_data import fitting_data_of, tuning_data_of
from robusteval.plan.plan import (
    Plan,
    asks_for_loss,
    make_plan,
    reads_features,
    reads_linear_head,
)
from robusteval.plan.spec import RunSpec
from robusteval.reading import named, named_path
from robusteval.training.own_loss import open_model

LONGEST_PAIR = 200  # of classes that the data and an outlier set share
MOST_NOTES, LONGEST_NOTE = 20, 1000  # of a model: an adapter of the user's may tell anything
COMPARED = 64  # samples on which prototypes beside a module are held against its answers


@dataclass(frozen=True)
class Access:
    """How a run reaches its model and its data; of an outcome it decides last bits at most."""

    entry: str = ""  # name or path; empty for a model given from Python
    data_dir: Path | None = None
    data: str = ""  # path of the user's own data; empty for others, and where Python gave them
    training: Any = ""  # of the user's own training data the same; or what Python gave
    allow_code: bool = False
    device: str | None = None  # instead of the run's own


@dataclass(frozen=True)
class Context:
    """A model, its samples, and what is to be done with them."""

    model: Adapter
    data: Dataset  # the chosen samples
    spec: RunSpec
    plan: Plan
    access: Access = Access()
    surrogate: Adapter | None = None  # whose gradients ``adaptive`` follows

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self.access.device or self.spec.device

    @cached_property
    def forms(self) -> Forms:
        """The model's faster forms.  What counts is decided by ``model`` alone."""
        libraries, gradients = (Acceleration.parse(text) for text in self.spec.forms)
        return replace(Forms.of(self.model, libraries, gradients), surrogate=self.surrogate)

    @property
    def uncompiled(self) -> Forms:
        """The same forms, made anew without compiling: for a look at how fast they are."""
        libraries, gradients = (
            replace(Acceleration.parse(text), compiled=False) for text in self.spec.forms
        )
        return Forms.of(self.model, libraries, gradients)

    @cached_property
    def static_sources(self) -> dict[str, Adapter]:
        """The models that attacks run on whose images are only counted on this one, by name."""
        names, digests = self.spec.suite.static_sources, self.spec.sources
        return {name: open_model(unchanged(name, digests[name]), self.device) for name in names}

    @cached_property
    def prototypes(self) -> tuple[PrototypeLayer, ...]:
        """What is known of the model's prototypes."""
        return prototype_layers(self.model)

    @cached_property
    def fitting_data(self) -> Dataset:
        """What the run's detectors are fitted to."""
        classes, access = self.model.classes, self.access
        return fitting_data_of(self.spec, access.data_dir, access.training, classes)

    @cached_property
    def training_reads(self) -> Gathered:
        """What they read of it, once for all of them."""
        data = self.fitting_data
        rows = range(0, len(data), BATCH)
        return self._gathered(lambda: (data.images(slice(i, i + BATCH)) for i in rows))

    @cached_property
    def tuning_reads(self) -> Gathered | None:
        """The same of the outliers that their settings are chosen by, if there are any."""
        if not self.spec.tuning:
            return None
        kept = tuning_data_of(self.spec, self.data.info.shape, self.access.data_dir)
        return self._gathered(lambda: iter(kept))

    def _gathered(self, batches: Callable[[], Iterator[Tensor]]) -> Gathered:
        """Under one seed, so that every process reads the same of a model that draws."""
        device = torch.device(self.device)
        return Gathered(
            self.model,
            lambda: (batch.to(device) for batch in batches()),
            lambda: seeded(self.spec.seed, device),
        )

    @cached_property
    def agreement(self) -> Agreement | None:
        """How prototypes that were given beside a module agree with it on the first samples."""
        if not self.model.layers:
            return None
        images = self.images(range(min(COMPARED, self.spec.samples)))
        with seeded(self.spec.seed, images.device):  # it may draw from the global generators
            return self.model.agreement(images)

    def images(self, rows: Tensor | range) -> Tensor:
        """Images (B, C, H, W) on the model's device.  Raises DataError outside [0, 1]."""
        images = self.data.images(torch.as_tensor(rows)).to(self.device)
        if images.min() < 0 or images.max() > 1 or not torch.isfinite(images).all():
            raise DataError(
                f"{self.data.info.name} has pixels outside [0, 1]: scale its images to [0, 1] "
                "(normalisation belongs into the model)"
            )
        return images

    def labels(self, rows: Tensor | range) -> Tensor:
        """Labels (B,) on the model's device."""
        return self.data.labels[torch.as_tensor(rows)].to(self.device)

    def described(self) -> dict[str, Any]:
        """What a report tells of the model, the data and the attacks beside the evidence."""
        shape = self.data.info.shape
        parts, suite = self.model.parts, self.spec.suite
        # Only where it matters, so that other runs' records stay as they were.
        facts: dict[str, Any] = {"features": parts.features} if reads_features(suite) else {}
        facts |= {"linear_head": parts.linear_head} if reads_linear_head(suite) else {}
        notes = [cut(str(note), LONGEST_NOTE) for note in self.model.notes if note][:MOST_NOTES]
        facts |= {"own_loss": parts.own_loss} if asks_for_loss(suite) else {}
        facts |= {"notes": notes} if notes else {}
        facts |= {"prototypes": asdict(self.agreement)} if self.agreement else {}
        placed = [layer.to_json() for layer in self.prototypes]
        facts |= {"prototype_layers": placed} if placed else {}
        return {
            "model": {
                "classes": self.model.classes,
                "layers": list(self.model.layers),
                **facts,
            },
            "dataset": {
                "classes": list(self.data.class_names),
                "shape": [shape.channels, shape.height, shape.width],
                **({"samples": self.data.info.test_samples} if self.spec.own_data else {}),
            },
            "attacks": {
                cell.key: {
                    "library_version": cell.attack.library.version,
                    "version": cell.attack.version,
                    "parameters": cell.attack.all_parameters(cell.parameters),
                }
                for cell in self.plan.cells
            },
            **({"outliers": self._outliers()} if self.plan.outliers else {}),
        }

    def _outliers(self) -> dict[str, Any]:
        """What is known of each outlier set beside its images."""
        data_dir, folders = self.access.data_dir, self.spec.outlier_folders
        sets = {
            name: OutlierSet.of(name, self.data, data_dir, name in folders)
            for name in self.plan.outliers
        }
        return {
            name: {
                **{"group": about.group, "split": about.split},
                "shared": about.shared and [cut(pair, LONGEST_PAIR) for pair in about.shared],
            }
            for name, about in sets.items()
        }

    def transfer_source(self) -> Adapter | None:
        """The zoo's model whose adversarials the diagnostics transfer, if there is one."""
        if not self.spec.transfer_source:
            return None
        return load_model(unchanged(*self.spec.transfer_source), self.device)


def access_to(
    record: dict[str, Any],
    reference: str,
    data_dir: str | Path | None,
    data: str | Path | None,
    allow_code: bool,
    device: str | None,
    training: Any = None,
) -> Access:
    """How to reach a begun run's model, by ``reference``, and its data, where they are now;
    ``training``: so its own training data, or what they were given from."""
    place = None
    if data_dir is not None:
        place = named_path(named(data_dir, "data folder", DataError), "data folder", DataError)
    where = named(data or record.get("data_reference", ""), "data", DataError)
    if training is None or isinstance(training, str | Path):
        reached = training or record.get("training_reference", "")
        training = named(reached, "training data", DataError)
    return Access(reference, place, where, training, allow_code, device)


def unchanged(name: str, digest: str) -> Entry:
    """An entry that a run names beside its own.  Raises EvidenceError if it has changed."""
    entry = find_entry(name)
    if entry.digest != digest:
        raise EvidenceError(f"{entry.path} has changed since this run began: start a new one")
    return entry


def open_entry(spec: RunSpec, access: Access) -> Entry:
    """The entry that a run is about.  Raises EvidenceError if it isn't the same any more."""
    entry = find_entry(access.entry)
    if entry.digest != spec.model_digest:
        raise EvidenceError(
            f"{entry.path} is not the model of this run: its entry or weights have changed since; "
            "name the right one with --model"
        )
    return entry


def samples_of(spec: RunSpec, access: Access, classes: int) -> Dataset:
    """The run's samples.  Raises EvidenceError if the data differ from the run's."""
    if spec.own_data:
        if not access.data:
            raise EvidenceError(
                "this run's data were given from Python: pass images=… and labels=… to verify, or "
                "where they are with --data"
            )
        found = own_data_at(Path(access.data), spec.dataset, spec.asked, False, access.data_dir)
        data, way = of_classes(found, classes), "--data"
    else:
        whole = load_dataset(spec.dataset, "test", access.data_dir)
        data, way = whole.choose(spec.asked, at_most=True), "--data-dir"
    require_same_data(spec, data, f"name the right copy with {way}")
    return data


def require_same_data(spec: RunSpec, data: Dataset, advice: str) -> None:
    """Raises EvidenceError unless they are the run's samples."""
    if data.digest != spec.data_digest:
        raise EvidenceError(
            f"{spec.dataset} holds other images or labels than those of this run: {advice}"
        )


def open_context(
    spec: RunSpec,
    access: Access,
    model: Adapter | None = None,
    data: Dataset | None = None,
    surrogate: Adapter | None = None,
) -> Context:
    """A run's context, from its spec: the only way to one.

    ``model``: where it has no entry, or was loaded already; ``data``: its samples, where they were;
    ``surrogate``, the same.
    Raises EvidenceError where a model or the data aren't the run's any more.
    """
    device = access.device or spec.device
    check_device(device)
    if model is None:
        model = open_model(open_entry(spec, access), device, access.allow_code)
    for name, digest in spec.sources.items():
        unchanged(name, digest)
    if data is None:
        data = samples_of(spec, access, model.classes)
    if spec.surrogate and surrogate is None:
        surrogate = _surrogate(*spec.surrogate, device, access.allow_code)
    plan = make_plan(spec.suite, spec, model.parts)
    return Context(model, data, spec, plan, access, surrogate)


def _surrogate(name: str, digest: str, device: str, allow_code: bool) -> Adapter:
    if not name:
        raise EvidenceError(
            "this run's surrogate was given from Python: pass surrogate=…, there and with workers=1"
        )
    return load_model(unchanged(name, digest), device, allow_code)
