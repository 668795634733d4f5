"""Arrays of numbers from MATLAB's format 5, as SVHN is published: plain or compressed.

SciPy reads far more of the format, but a damaged file can end the process in its compiled parts.
The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# Each type of data, and each class of arrays, as NumPy calls it.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
_COMPLEX = 0x0800


def read_arrays(content: bytes, most: int) -> dict[str, NDArray[np.generic]]:
    """Every array of real numbers by its name; what else is in there is passed over.

    ``most``: how many bytes one may unpack to.  Raises ValueError, struct.error or zlib.error for
    what is no such file.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or len(content) < _HEADER or content[:4] == b"\x89HDF":
        raise ValueError("it is not a MATLAB file of format 5")
    arrays = {}
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, data = next(_elements(_unpacked(data, most), order))
        if kind == _MATRIX and (found := _array(data, order)) is not None:
            arrays[found[0]] = found[1]
    return arrays


def _unpacked(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(data, most)
    if not stream.eof:
        raise ValueError(f"an array is cut off, or holds more than {most:,} bytes")
    return content


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Each element's type and data.  A small one has both in eight bytes."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        small = kind >> 16
        start, size = (at + 4, small) if small else (at + 8, size)
        kind &= 0xFFFF
        if start + size > len(content) or small > 4:
            raise ValueError("an element goes on after the end")
        yield kind, content[start : start + size]
        at = at + 8 if small else start + size
        if kind != _COMPRESSED:
            at += -at % 8


def _array(matrix: bytes, order: str) -> tuple[str, NDArray[np.generic]] | None:
    """A matrix's name and values, None if it is no array of real numbers."""
    parts = _elements(matrix, order)
    flags = np.frombuffer(next(parts)[1], f"{order}u4")
    kind = _CLASSES.get(int(flags[0]) & 0xFF)
    if kind is None or int(flags[0]) & _COMPLEX:
        return None
    shape = np.frombuffer(next(parts)[1], f"{order}i4").tolist()
    name = next(parts)[1].decode("ascii")
    stored, data = next(parts)
    if stored not in _STORED:
        raise ValueError(f"{name} is stored in an unknown way")
    values = np.frombuffer(data, order + _STORED[stored]).reshape(shape, order="F")
    return name, values.astype(kind)
