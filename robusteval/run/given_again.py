"""What a run was made of, given again to verify it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robusteval.data.datasets import Dataset
from robusteval.data.own import of_classes, own_data
from robusteval.errors import EvidenceError, RobustevalError
from robusteval.evidence.judge import state_digest
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.plan.context import Context, access_to, open_context, require_same_data
from robusteval.plan.spec import RunSpec
from robusteval.run.surrogates import same_surrogate


@dataclass(frozen=True)
class GivenAgain:
    """Where all of it is now, or itself; None where it is what the run's record says."""

    model: str | Path | nn.Module | None
    data_dir: str | Path | None
    allow_code: bool
    device: str | None
    images: Any
    labels: Any
    data: str | Path | None
    fit_data: Any
    surrogate: str | Path | nn.Module | None

    def context(self, spec: RunSpec, record: dict[str, Any]) -> Context:
        """The run's model and data, opened once more.

        Raises RobustevalError where they can't be, or are not the run's.
        """
        model, classes = self.model, record["model"]["classes"]
        reference = str(model) if isinstance(model, str | Path) else record["entry_reference"]
        adapter = given_model(model, record)
        if adapter is not None:
            require_same_tensors(adapter, spec, record)
            reference = ""
        elif not reference:
            raise RobustevalError(
                "this run's model was given from Python: verify it there, by "
                "robusteval.verify(folder, model=…)"
            )
        access = access_to(
            record, reference, self.data_dir, self.data, self.allow_code, self.device, self.fit_data
        )
        own = None if self.images is None else given_data(spec, self.images, self.labels, classes)
        led = same_surrogate(self.surrogate, spec, classes, access)
        return open_context(spec, access, adapter, own, led)


def given_model(model: Any, record: dict[str, Any]) -> Adapter | None:
    """The module that was given, if one was."""
    if not isinstance(model, nn.Module):
        return None
    return model if isinstance(model, Adapter) else wrap_module(model, record["model"]["classes"])


def given_data(spec: RunSpec, images: Any, labels: Any, classes: int) -> Dataset:
    """The samples that were given.  Raises EvidenceError unless they are the run's."""
    if not spec.own_data:
        raise EvidenceError(f"this run is on {spec.dataset}, which is known: leave images= out")
    data = of_classes(own_data(images, labels, spec.dataset, spec.asked, False), classes)
    require_same_data(spec, data, "pass the images and labels that were evaluated")
    return data


def require_same_tensors(adapter: Adapter, spec: RunSpec, record: dict[str, Any]) -> None:
    """Raises EvidenceError where a model given from Python is not the run's."""
    if record["entry"] is not None:
        raise EvidenceError(f"this run is of {spec.model}, which has an entry: name that instead")
    if state_digest(adapter) != spec.model_digest:
        raise EvidenceError("the model has other parameters or buffers than this run's")
