"""Entries of small models, as files."""

import hashlib
from pathlib import Path

from safetensors.torch import save_file

from robusteval.models.entry import read_entry
from robusteval.models.loading import build_network

MINIMAL = """
name = "{name}"
method = "ce"
dataset = "digits"
[input]
mean = [0.3]
std = [0.4]
[backbone]
name = "cnn6"
widths = [4, 4, 4]
hidden = [8, 8]
kernel_size = 3
"""

TRAINING = """
[training]
recipe = "{recipe}"
epochs = {epochs}
warmup_epochs = {warmup}
batch_size = 64
lr = 0.01
warmup_lr = 0.03
validation = 100
augment = ["crop"]
crop_padding = 1
"""

FACTORY = """
name = "foreign"
method = "ce"
dataset = "digits"
factory = "torch.nn:Flatten"
classes = 64
[input]
mean = [0.0]
std = [1.0]
"""


def write_entry(folder: Path, name: str = "tiny", extra: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(MINIMAL.format(name=name) + extra)
    return path


def with_weights(folder: Path, name: str = "tiny") -> Path:
    """An entry with random weights beside it."""
    path = write_entry(folder, name)
    network = build_network(read_entry(path))
    tensors = {k: v.half() for k, v in network.state_dict().items() if v.is_floating_point()}
    save_file(tensors, folder / f"{name}.safetensors")
    digest = hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest()
    text = f'[weights]\nfile = "{name}.safetensors"\nsha256 = "{digest}"\n'
    path.write_text(path.read_text() + text)
    return path
