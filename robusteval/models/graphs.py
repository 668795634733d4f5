"""A model's passes recorded as CUDA graphs and replayed.

An accelerator waits for a small model's hundred kernels to be launched one by one for longer than
they compute; a replay launches them at once.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from robusteval.models.adapter import PrototypeAdapter
from robusteval.models.network import PrototypeNetwork

Function = Callable[[Tensor], tuple[Tensor, ...]]  # images (B, C, H, W) to some (B, …)
_WARMING = 3  # passes before recording, as libraries choose and load their kernels in the first


class Recording(Protocol):
    """A function at one static number of images.  A replay writes to the same memory each time."""

    replays: int  # forward ones so far

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs for as many images as the static number, or fewer."""

    def backward(self, slopes: tuple[Tensor | None, ...]) -> Tensor:
        """The images' gradient from the outputs', of the last replay; any number of times."""


class Recorded:
    """By two CUDA graphs.  Raises RuntimeError where ``images`` are on no accelerator, memory is
    short, or ``function`` waits for the processor."""

    def __init__(self, function: Function, images: Tensor) -> None:
        if not images.is_cuda:
            raise RuntimeError("only an accelerator's kernels can be recorded")
        self.replays = 0
        self.images = images.detach().clone().requires_grad_()
        self._warm_up(function)
        pool = torch.cuda.graph_pool_handle()
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.enable_grad(), torch.cuda.graph(self._forward, pool=pool):
            self.outputs = function(self.images)
        self.slopes = tuple(torch.zeros_like(values) for values in self.outputs)
        with torch.cuda.graph(self._backward, pool=pool):
            self.gradient = self._differentiate(self.outputs, self.slopes)

    def _warm_up(self, function: Function) -> None:
        """On a stream of its own, which recording asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.enable_grad():
            for _ in range(_WARMING):
                outputs = function(self.images)
                self._differentiate(outputs, tuple(torch.zeros_like(values) for values in outputs))
        torch.cuda.current_stream().wait_stream(stream)

    def _differentiate(self, outputs: tuple[Tensor, ...], slopes: tuple[Tensor, ...]) -> Tensor:
        """Nothing of the forward pass is freed: what comes after would be written over it, and a
        second backward replay would read that."""
        (gradient,) = torch.autograd.grad(outputs, self.images, slopes, retain_graph=True)
        return gradient

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.images[: len(images)].copy_(images)
        self._forward.replay()
        self.replays += 1
        return self.outputs

    @torch.no_grad()
    def backward(self, slopes: tuple[Tensor | None, ...]) -> Tensor:
        for mine, given in zip(self.slopes, slopes, strict=True):
            if given is None:
                mine.zero_()
            else:
                mine[: len(given)].copy_(given)
        self._backward.replay()
        return self.gradient


class _Replayed(torch.autograd.Function):
    """A recording as a step of autograd.

    Callers may keep an output and go back through it later, or more than once: where the recording
    has been at other images since, it goes to these again first.
    """

    @staticmethod
    def forward(ctx: Any, recording: Recording, images: Tensor) -> tuple[Tensor, ...]:
        outputs = recording.forward(images)
        ctx.recording, ctx.replay = recording, recording.replays
        ctx.save_for_backward(images)
        return tuple(values[: len(images)].clone() for values in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[None, Tensor]:
        recording, (images,) = ctx.recording, ctx.saved_tensors
        if recording.replays != ctx.replay:
            recording.forward(images)
            ctx.replay = recording.replays
        gradient = recording.backward(slopes)
        return None, gradient[: len(images)].clone(memory_format=torch.contiguous_format)


class GraphedAdapter(PrototypeAdapter):
    """A prototype adapter that replays.

    ``sizes``: numbers of images that passes are recorded at, rising; a batch takes the smallest
    that holds it, and is cut into parts of the largest.  Where recording fails, it computes
    without.
    """

    def __init__(
        self,
        network: PrototypeNetwork,
        sizes: tuple[int, ...],
        record: Callable[[Function, Tensor], Recording] = Recorded,
    ) -> None:
        super().__init__(network)
        self.sizes, self.record = sizes, record
        self._recordings: dict[tuple[bool, tuple[int, ...]], Recording] = {}

    def forward(self, images: Tensor) -> Tensor:
        return self._replayed(images, distances=False)[0]

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, *squared = self._replayed(images, distances=True)
        return logits, dict(zip(self.layers, squared, strict=True))

    def _replayed(self, images: Tensor, distances: bool) -> tuple[Tensor, ...]:
        parts = images.split(self.sizes[-1]) if self.sizes else (images,)
        found = [self._part(part, distances) for part in parts]
        return found[0] if len(found) == 1 else tuple(map(torch.cat, zip(*found, strict=True)))

    def _part(self, images: Tensor, distances: bool) -> tuple[Tensor, ...]:
        function = self._both if distances else self._logits
        if not self.sizes or not len(images):
            return function(images)
        size = next(size for size in self.sizes if size >= len(images))
        key = distances, (size, *images.shape[1:])
        try:
            if key not in self._recordings:
                example = images[:1].expand(size, -1, -1, -1)
                self._recordings[key] = self.record(function, example)
        except RuntimeError:  # no memory for it, or a kernel that waits for the processor
            self.sizes = ()
            return function(images)
        outputs: tuple[Tensor, ...] = _Replayed.apply(  # type: ignore[no-untyped-call]
            self._recordings[key], images
        )
        return outputs

    def _logits(self, images: Tensor) -> tuple[Tensor, ...]:
        return (super().forward(images),)

    def _both(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, squared = super().logits_and_distances(images)
        return logits, *squared.values()
