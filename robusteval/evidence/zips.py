"""Zips whose bytes follow from the files in them alone: nothing packed, one date, one mode."""

import stat
import struct
import zipfile

_DATE = (1980, 1, 1, 0, 0, 0)
# What zipfile raises for content that is none.
DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    LookupError,
    EOFError,
    struct.error,
)


def entry_of(name: str) -> zipfile.ZipInfo:
    """What a zip says of a file: nothing but its name, whatever system this is."""
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = 3  # where modes are kept
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
