"""A training's state on disk: safetensors, no pickle, replaced atomically."""

import hashlib
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
    copies = {k: v.detach().to("cpu").contiguous().clone() for k, v in tensors.items()}
    text = json.dumps(state)
    content = save(copies, {"state": text, "sha256": _digest(copies, text)})
    require_writable(path.parent, "free space or use --work-dir")
    replace_file(path, content, "free space or use --work-dir")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises TrainingError if the file is broken, were it by one bit."""
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {k: stream.get_tensor(k) for k in stream.keys()}  # noqa: SIM118
            metadata = stream.metadata()
        state = json.loads(metadata["state"])
        told = metadata.get("sha256")  # earlier versions wrote none
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise broken(path, str(error)) from None
    if told is not None and told != _digest(tensors, metadata["state"]):
        raise broken(path, "its digest is another")
    if not isinstance(state, dict):
        raise broken(path, "its state is not a table")
    return tensors, state


def broken(path: Path, reason: str) -> TrainingError:
    """What to say of a checkpoint that can't be used."""
    return TrainingError(f"checkpoint {path} is broken ({reason}): delete it to start anew")


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    """SHA-256 over all that a checkpoint holds."""
    digest = hashlib.sha256(state.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(save({"": tensor}))
    return digest.hexdigest()
