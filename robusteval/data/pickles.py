"""Arrays from pickles, of which nothing runs: neither code, nor NumPy's own unpickling.

A pickle may ask for any function to be called with anything.  Here it gets stand-ins for the few
names that arrays need, and no other name.  NumPy's own functions are not among them, since a forged
state makes them read memory that isn't theirs.
"""

import io
import pickle
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robusteval.data.files import shown

_WHOLE = re.compile("[iu][1248]")  # NumPy's names of whole numbers


class _Kind:
    """In place of ``numpy.dtype``: a type of whole numbers."""

    def __init__(self, name: str, *_: object) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        if not _WHOLE.fullmatch(self.name) or self.order not in ("|", "=", "<", ">"):
            raise ValueError(f"it holds an array of {shown(self.order)}{shown(self.name)}")
        return np.dtype(self.order + self.name)


class _Array:
    """In place of ``numpy.ndarray``, filled from its state."""

    values: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        stored = content.encode("latin1") if isinstance(content, str) else content
        values = np.frombuffer(stored, kind.numpy())
        self.values = values.reshape(shape, order="F" if by_columns else "C")


def _empty(*_: object) -> _Array:
    return _Array()


def _encode(text: str, *_: object) -> bytes:
    """Bytes, as protocol 2 writes them."""
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle._Unpickler):
    # The one in Python: the one in C reserves as much memory as a damaged number asks for.

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(
                f"it asks for {shown(module)}.{shown(name)}, which is refused, since it could run"
            )
        return _STAND_INS[module, name]


def read_pickle(content: bytes) -> Any:
    """What a pickle of plain values and arrays of whole numbers holds.

    Raises UnpicklingError if it asks for anything else, and many kinds of error if it is damaged.
    """
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


def whole_numbers(value: Any) -> NDArray[Any]:
    """A value of such a pickle as an array.  Raises ValueError if it isn't one of whole numbers."""
    found = value.values if isinstance(value, _Array) else np.asarray(value)
    if found.dtype.kind not in "iu":
        raise ValueError(f"it holds {found.dtype} where whole numbers are expected")
    return found
