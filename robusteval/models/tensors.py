"""What a weights file holds: names, shapes and types.  Imports no torch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, deserialize

from robusteval.errors import WeightsError, reason
from robusteval.models.entry import Entry, weights_content
from robusteval.models.entry_tables import CHECKPOINT
from robusteval.models.onnx_files import initializers

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TYPES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}


@dataclass(frozen=True)
class Held:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    type: str  # such as float16

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def held_by(entry: Entry) -> list[Held]:
    """The tensors of an entry's weights or ONNX file, by name, after its digest was checked.

    Raises WeightsError where the file can't be read, or is another one than the entry says.
    """
    found = _initializers(entry) if entry.onnx else _tensors(entry)
    return sorted(found, key=lambda held: held.name)


def _initializers(entry: Entry) -> Iterator[Held]:
    for name, shape, kind in initializers(entry):
        yield Held(name, shape, kind)


def _tensors(entry: Entry) -> Iterator[Held]:
    content = weights_content(entry)
    if entry.weights_path.suffix == CHECKPOINT:
        raise WeightsError(
            f"weights {entry.weights_path} are a checkpoint of torch: only safetensors files are "
            "listed (docs/other_tools.md says how to save one)"
        )
    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"weights {entry.weights_path} are not a safetensors file ({reason(error)})"
        ) from None
    for name, about in found:
        yield Held(name, tuple(about["shape"]), _type(about["dtype"]))


def _type(dtype: str) -> str:
    """Such as "float16" of "F16", as NumPy and torch say it."""
    letters = dtype.rstrip("0123456789")
    return f"{_TYPES.get(letters, letters)}{dtype.removeprefix(letters)}"


def left_of_each_class(prototypes: "NDArray[Any]") -> list[int]:
    """How many of the prototypes (K, M, D) of each class differ at all: of merged ones all but one
    are copies."""
    from numpy import unique

    return [len(unique(own, axis=0)) for own in prototypes]
