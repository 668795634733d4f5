"""Entries whose networks are others': architectures by name, and ONNX files, with their seals."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

HEADING = """name = "{name}"
method = "ce"
dataset = "{dataset}"
[input]
mean = [0.3]
std = [0.4]
"""


def lay_entry(folder: Path, name: str, tables: str, dataset: str = "digits") -> Path:
    """An entry with these tables."""
    path = folder / f"{name}.toml"
    path.write_text(HEADING.format(name=name, dataset=dataset) + tables)
    return path


def sealed(table: str, path: Path) -> str:
    """A table that names a file beside the entry."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f'[{table}]\nfile = "{path.name}"\nsha256 = "{digest}"\n'


def lay_weights(folder: Path, name: str, state: Mapping[str, Tensor]) -> str:
    """Weights, and the table that names them."""
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return sealed("weights", path)
