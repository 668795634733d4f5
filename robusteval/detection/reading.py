"""What detectors read of a batch: logits, features and distances from one pass that all share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from robusteval.models.adapter import Adapter

Reads = Literal["logits", "features", "both", "distances", "images"]
READS: tuple[Reads, ...] = get_args(Reads)


class Outputs(NamedTuple):
    """What a model makes of N images."""

    features: Tensor  # (N, D)
    logits: Tensor  # (N, K)


Read = Tensor | Outputs


def count_of(read: Read) -> int:
    """Of how many images it was read."""
    return len(read.logits if isinstance(read, Outputs) else read)


def is_finite(read: Read) -> bool:
    """Whether no number of it is NaN or infinite."""
    parts = read if isinstance(read, Outputs) else (read,)
    return all(bool(torch.isfinite(part).all()) for part in parts)


def taken(read: Read, rows: Tensor) -> Read:
    """What was read of some of the images."""
    if isinstance(read, Outputs):
        return Outputs(read.features[rows], read.logits[rows])
    return read[rows]


def joined(parts: Sequence[Read]) -> Read:
    """What was read of batches, as of one.  Raises ValueError where there are none."""
    if not parts:
        raise ValueError("there are no training samples")
    if isinstance(parts[0], Outputs):
        return Outputs(*map(torch.cat, zip(*parts, strict=True)))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


class Shared:
    """What detectors read of one batch of images (B, C, H, W), each made once.

    ``wanted``: what will be asked for.  Features and logits then come of one pass.
    """

    def __init__(self, model: Adapter, images: Tensor, wanted: Sequence[Reads] = ()) -> None:
        self.model, self.images = model, images
        asked = {*wanted}
        self._together = "both" in asked or ("logits" in asked and len(asked - {"images"}) > 1)

    def read(self, reads: Reads) -> Read:
        """What a detector of this kind is given."""
        if reads == "images":
            return self.images
        if reads == "both":
            return self._both
        if reads == "distances":
            return self._distances
        return self._features if reads == "features" else self.logits

    @cached_property
    def _both(self) -> Outputs:
        return Outputs(*self.model.embed_and_logits(self.images))

    @cached_property
    def logits(self) -> Tensor:
        """(B, K)"""
        logits: Tensor = self._both.logits if self._together else self.model(self.images)
        return logits

    @cached_property
    def _features(self) -> Tensor:
        return self._both.features if self._together else self.model.embed(self.images)

    @cached_property
    def _distances(self) -> Tensor:
        """From the features where they tell; else by a pass of their own."""
        if (found := self.model.squared_of(self._features)) is not None:
            return found
        _, squared = self.model.logits_and_distances(self.images)
        return squared[self.model.layers[-1]]


class Gathered:
    """What detectors read of many images, (B, C, H, W) in each batch; all but images is kept.

    ``batches``: begins them anew.  ``within``: what a reading of all of them happens in, such as a
    seed, so that it gives the same whoever asks first.
    """

    def __init__(
        self,
        model: Adapter,
        batches: Callable[[], Iterator[Tensor]],
        within: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.model, self.batches, self.within = model, batches, within

    @torch.no_grad()
    def read(self, reads: Reads) -> Read:
        """What a detector of this kind is given.  Raises ValueError where there are no images."""
        if reads == "images":
            return joined(list(self.batches()))
        if reads == "distances":
            return self._distances
        if reads == "both":
            return self._both
        return self._both.features if reads == "features" else self._both.logits

    @cached_property
    def _both(self) -> Outputs:
        with self.within():
            found = joined([Outputs(*self.model.embed_and_logits(b)) for b in self.batches()])
        assert isinstance(found, Outputs), "of such parts"
        return found

    @cached_property
    def _distances(self) -> Tensor:
        with self.within():
            found = joined([Shared(self.model, b).read("distances") for b in self.batches()])
        assert isinstance(found, Tensor), "of such parts"
        return found
