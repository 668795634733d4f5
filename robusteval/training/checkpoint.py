"""A training's state on disk: safetensors, no pickle, replaced atomically."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robusteval.errors import TrainingError
from robusteval.storage import replace_file, require_writable


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Tensors and a JSON state; a kill leaves the old file or the new one, never half of one."""
    copies = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    content = save(copies, {"state": json.dumps(state)})
    require_writable(path.parent, "free space or use --work-dir")
    replace_file(path, content, "free space or use --work-dir")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises TrainingError if the file is broken."""
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {k: stream.get_tensor(k) for k in stream.keys()}  # noqa: SIM118
            return tensors, json.loads(stream.metadata()["state"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"checkpoint {path} is broken ({error}): delete it to start anew"
        ) from None
