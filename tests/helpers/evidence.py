"""A run's evidence, to be compared with another's."""

from typing import Any

from safetensors.numpy import load

from robusteval.evidence.located import files_at
from robusteval.evidence.pieces import unsealed
from robusteval.places import Place


def evidence_of(run: Place) -> dict[str, Any]:
    """All of a run's evidence but for times: rows, what was told, images."""
    found: dict[str, Any] = {}
    files = files_at(run)
    for name in files.names("evidence"):
        content = files.read(f"evidence/{name}")
        if name.endswith(".parquet"):
            columns, about, _ = unsealed(content)
            about.pop("seconds")
            found[name] = ({name: v.tolist() for name, v in columns.items()}, about)
        elif name.endswith(".safetensors"):
            found[name] = {k: v.tobytes() for k, v in load(content).items()}
        else:
            found[name] = content.decode()
    return found
