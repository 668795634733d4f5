"""A model's entry: one TOML file, checked by a schema.  Imports no torch."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from robusteval.errors import (
    EntryError,
    WeightsError,
)
from robusteval.models.entry_tables import (
    CHECKPOINT,
    SAFETENSORS,
    BackboneTable,
    Claim,
    Input,
    Onnx,
    Paper,
    Prototypes,
    Table,
    Trained,
    Training,
    Weights,
)
from robusteval.models.head import Head
from robusteval.reading import read_file, read_toml
from robusteval.schema import checked, plain_name, require_plain

_MOST_WEIGHTS = 2**33  # bytes
_MOST_ONNX = 2**30  # bytes


class Entry(Table):
    """One model of the registry."""

    name: Annotated[str, AfterValidator(plain_name)]
    method: str
    dataset: str = ""  # empty where only data of the user's own fit
    description: str = ""
    license: str = ""
    revision: int = Field(default=1, ge=1)  # raised when the entry changes: rows name it
    paper: Paper | None = None
    input: Input
    classes: int | None = Field(default=None, ge=2, le=100_000)
    factory: str | None = None
    factory_options: dict[str, Any] | None = None
    prototypes: Prototypes | None = None
    backbone: BackboneTable | None = None
    onnx: Onnx | None = None
    head: Head = Head()
    weights: Weights | None = None
    claims: list[Claim] = Field(default=[])
    training: Training | None = None
    paper_training: dict[str, Any] = Field(default={})
    trained: Trained | None = None
    path: Path = Field(default=Path(), exclude=True)

    _all_is_plain = model_validator(mode="before")(require_plain)

    @model_validator(mode="after")
    def _one_architecture(self) -> Self:
        if sum(one is not None for one in (self.backbone, self.factory, self.onnx)) != 1:
            raise ValueError("give either a [backbone] or a factory, or an [onnx] file")
        if self.onnx is not None and (self.weights is not None or self.head != Head()):
            raise ValueError(
                "an [onnx] file holds head and weights: leave [head] and [weights] out"
            )
        if self.factory is None and (self.prototypes or self.factory_options):
            name = "prototypes" if self.prototypes else "factory_options"
            raise ValueError(
                f"[{name}] go with a factory: for a [backbone] use its options and [head]"
            )
        return self

    @model_validator(mode="after")
    def _classes_are_told(self) -> Self:
        if not self.dataset and self.classes is None:
            raise ValueError("give a dataset, or classes if no known data set fits")
        if not self.dataset and self.training is not None:
            raise ValueError("training needs a dataset: name a known one")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the model's outputs, its weights' digest with it."""
        decisive = {"factory", "backbone", "head", "input", "classes", "weights"}
        # Younger ones only where they are given, so that the digests of older entries stay theirs.
        younger = ("factory_options", "prototypes", "onnx")
        decisive |= {name for name in younger if getattr(self, name)}
        parts = self.model_dump(mode="json", include=decisive)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def address(self) -> str:
        """How to find an entry again that stands in no file; empty for one that does."""
        return ""

    @property
    def stored(self) -> Weights | Onnx | None:
        """What holds the trained numbers."""
        return self.weights or self.onnx

    @property
    def lacking(self) -> str:
        """Of one that names no trained numbers, why: "not kept" after a training, "untrained", or
        "none" where nothing says how to train it."""
        if self.trained:
            return "not kept"
        return "untrained" if self.training else "none"

    @property
    def weights_path(self) -> Path:
        """Beside the entry; a path in the entry may not leave its folder."""
        return self.beside(self.stored.file if self.stored else f"{self.name}.safetensors")

    def beside(self, name: str) -> Path:
        """A file in the entry's folder."""
        return self.path.parent / Path(name).name


def read_entry(path: Path) -> Entry:
    """An entry from its TOML file.  Raises EntryError with the file, the field and the mend."""
    require_toml(path)
    content = read_toml(path, "entry file", EntryError)
    entry = checked(Entry, content, str(path), EntryError).model_copy(update={"path": path})
    if entry.weights is not None and entry.weights.file.endswith(CHECKPOINT):
        raise EntryError(f"{path}: weights.file: {SAFETENSORS}")
    _require_percent(path, [claim["accuracy"] for claim in content.get("claims", [])])
    return entry


def _require_percent(path: Path, claimed: list[Any]) -> None:
    """Raises EntryError for a claim that is written as a share, most probably."""
    for place, value in enumerate(claimed):
        if not isinstance(value, str) and 0 < value <= 1:
            raise EntryError(
                f"{path}: claims.{place}.accuracy = {value}: did you mean {100 * value:g}?  It is "
                f'in percent: write "{value} %" if you mean so little'
            )


# What people give in an entry's place, by the end of its name, and what to do with it.
_IN_PYTHON = "or in Python pass robusteval.wrap_module(module, classes=…) to robusteval.evaluate"
_DESCRIBE = (
    "describe its network in an entry (`robusteval init NAME` writes one; docs/entry.md), "
    + _IN_PYTHON
)
_OTHERS = {
    **dict.fromkeys(
        [
            *(".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".safetensors", ".tar", ".npz"),
            *(".h5", ".keras", ".msgpack", ".pb", ".tflite"),
        ],
        f"is a checkpoint, not an entry: {_DESCRIBE}",
    ),
    ".onnx": "is a checkpoint, not an entry: name it in one (`robusteval init NAME --onnx FILE` "
    f"writes it; docs/entry.md), {_IN_PYTHON}",
    ".py": 'is code, not an entry: write an entry with factory = "module:function", '
    "and pass --allow-code (docs/entry.md)",
}


def require_toml(path: Path) -> None:
    """Raises EntryError for another kind of file, which is told by its name."""
    end = path.suffix.lower()
    if end in _OTHERS:
        raise EntryError(f"{path} {_OTHERS[end]}")
    if end != ".toml" and os.path.exists(path):
        kind = "a folder" if os.path.isdir(path) else "not a TOML file"
        raise EntryError(f"{path} is {kind}: name a model's entry, a file that ends in .toml")


def weights_content(entry: Entry) -> bytes:
    """The weights' file, or the ONNX file, after its digest was checked.  Raises WeightsError."""
    if entry.stored is None:
        state = f" ({entry.lacking})" if entry.training else ""
        train = f"train them with `robusteval train {entry.name}`, or " if entry.training else ""
        raise WeightsError(f"{entry.name} has no weights{state}: {train}name yours in [weights]")
    most = _MOST_WEIGHTS if entry.weights else _MOST_ONNX
    return sealed_content(entry.weights_path, entry.stored.sha256, most)


def sealed_content(path: Path, sha256: str, most: int = _MOST_WEIGHTS) -> bytes:
    """A file of tensors, after its digest was checked.  Raises WeightsError."""
    try:
        content = read_file(path, most)
    except OSError as error:
        raise WeightsError(f"weights {path} can't be read ({error.strerror})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"weights {path} are altered: SHA-256 is {found[:12]}…, the entry says "
            f"{sha256[:12]}…: restore the file or correct the entry"
        )
    return content
