"""What Python gave to a run, given again to verify it."""

from typing import Any

from torch import nn

from robusteval.data.datasets import Dataset
from robusteval.data.own import of_classes, own_data
from robusteval.errors import EvidenceError
from robusteval.evidence.judge import state_digest
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.plan.context import require_same_data
from robusteval.plan.spec import RunSpec


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
