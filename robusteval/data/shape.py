"""The shape of an image.  Imports no NumPy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Channels, height and width."""

    channels: int
    height: int
    width: int
