"""What a run says of itself beside its evidence, and what it was made with."""

import time
from typing import Any

from robusteval.hardware import commit_of, hardware_name, is_dirty, package_versions
from robusteval.models.registry import built_in_folder
from robusteval.plan.context import Context
from robusteval.plan.spec import RunSpec
from robusteval.run.options import Options
from robusteval.run.prepare import Prepared


def record_of(prepared: Prepared, options: Options) -> dict[str, Any]:
    """What ``run.json`` holds: all that a report needs beside the evidence."""
    context = prepared.context
    return {
        "spec": context.spec.to_json(),
        "entry": prepared.entry.model_dump(mode="json") if prepared.entry else None,
        "entry_reference": context.access.entry,
        **({"data_reference": context.access.data} if context.spec.own_data else {}),
        **_training_reference(context),
        **context.described(),
        "provenance": provenance(options, context.spec),
    }


def _training_reference(context: Context) -> dict[str, str]:
    """Where own training data are; empty where Python gave them."""
    if not context.spec.own_training:
        return {}
    where = context.access.training
    return {"training_reference": where if isinstance(where, str) else ""}


def provenance(options: Options, spec: RunSpec) -> dict[str, Any]:
    """What the numbers were made with."""
    project = built_in_folder().parent
    return {
        "versions": {**package_versions(), **spec.versions},
        "commit": commit_of(project),
        "dirty": is_dirty(project),
        "hardware": hardware_name(options.device),
        "device": options.device,
        "threads": spec.threads,
        "date": time.strftime("%Y-%m-%d"),
    }
