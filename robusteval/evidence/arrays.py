"""What a job keeps beside its rows, as bytes of safetensors: images, or a detector's state."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as serialise

from robusteval.errors import shown
from robusteval.evidence.images import Stored
from robusteval.evidence.pieces import content_digest

Arrays = Mapping[str, NDArray[Any]]


def images_bytes(rows: NDArray[np.int64], images: Stored, stem: str) -> bytes:
    """A job's kept images, and the rows that they belong to."""
    return serialise({"rows": rows, "images": images}, {"job": stem})


def images_of(content: bytes, stem: str) -> tuple[NDArray[np.int64], Stored]:
    """Rows and images.  Raises ValueError, LookupError or SafetensorError for what is no such
    job's."""
    arrays = _loaded(content, stem)
    rows, images = arrays.pop("rows"), arrays.pop("images")
    _require_images(rows, images, list(arrays))
    return rows, images


def state_bytes(state: Arrays, stem: str) -> bytes:
    """A fitted detector's state."""
    return serialise(dict(state), {"job": stem})


def state_of(content: bytes, stem: str, digest: str) -> Arrays:
    """A fitted detector's state.  Raises ValueError or SafetensorError for one of another digest,
    or of another job."""
    arrays = _loaded(content, stem)
    if digest_of_state(arrays) != digest:
        raise ValueError("it is not what was written")
    return arrays


def digest_of_state(state: Arrays) -> str:
    """SHA-256 over a state's names, types, shapes and values."""
    about = {name: [str(array.dtype), [*array.shape]] for name, array in state.items()}
    return content_digest(dict(state), about)


def _loaded(content: bytes, stem: str) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = load_arrays(content)
    if (told := metadata_of(content)) != {"job": stem}:
        raise ValueError(f"it says of itself {shown(told)}")
    return arrays


def metadata_of(content: bytes) -> Any:
    """What a safetensors file that could be loaded says of itself; None where it says nothing."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__")


def _require_images(rows: Any, images: Any, others: list[str]) -> None:
    """Raises ValueError for what are no kept images of a job."""
    if others:
        raise ValueError(f"it holds {others[0]!r}, too")
    alike = rows.ndim == 1 and images.ndim == 4 and len(rows) == len(images)
    if not alike or rows.dtype != np.int64 or images.dtype != np.uint16:
        raise ValueError("its arrays don't belong together")
    if len(rows) == 0 or rows.min() < 0 or (np.diff(rows) <= 0).any():
        raise ValueError("its rows are not in order")
