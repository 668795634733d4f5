"""A run's evidence, to be compared with another's."""

from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from robusteval.evidence.pieces import unsealed


def evidence_of(folder: Path) -> dict[str, Any]:
    """All of a run's evidence but for times: rows, what was told, images."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "evidence").iterdir()):
        if path.suffix == ".parquet":
            columns, about, _ = unsealed(path.read_bytes())
            about.pop("seconds")
            found[path.name] = ({name: v.tolist() for name, v in columns.items()}, about)
        elif path.suffix == ".safetensors":
            found[path.name] = {k: v.tobytes() for k, v in load_file(path).items()}
        else:
            found[path.name] = path.read_text()
    return found
