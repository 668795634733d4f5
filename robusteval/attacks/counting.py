"""The model as attacks see it: counted, always in eval mode, stopped at a deadline."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from robusteval.attacks.inputs import require_classes
from robusteval.errors import AttackError, reason
from robusteval.models.acceleration import folded_if_same
from robusteval.models.adapter import Adapter
from robusteval.models.linear import LinearHead
from robusteval.models.soundness import require_answers

BACKWARD = 2  # a backward pass costs about as much as two forward ones
_COUNT = torch.float64  # a batch's passes may not divide by its samples
_PAUSE = 0.1  # seconds between two words on how many passes were made


class TimeLimitReached(Exception):  # noqa: N818 - no mistake, a limit
    """An attack ran past its time limit; what it had so far is not counted."""


class Counted(Adapter):
    """Counts forward and backward passes per sample, and stops an attack at its deadline.

    ``samples``: how many are attacked together; None for one tally of all passes.
    ``deadline``: a time of ``time.monotonic``.  ``on_pass`` is told the forward passes so far.
    ``fast``: the same model in a faster, rougher form, for gradients (see ``quickly``).
    ``surrogate``: another model whose gradients the user wants ``adaptive`` to follow, too.

    A batch's passes are spread evenly over the samples attended to (all, unless ``attending``
    says otherwise), since an attack does not tell which of them it holds.  Backward passes are
    counted where a gradient reaches the logits (or a layer's distances).
    """

    def __init__(
        self,
        adapter: Adapter,
        samples: int | None = None,
        deadline: float | None = None,
        on_pass: Callable[[int], None] = lambda _: None,
        fast: Adapter | None = None,
        surrogate: Adapter | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.adapter = adapter
        self.fast, self.surrogate = fast, surrogate
        self.led = False  # whether ``fast`` is another model, and not this one
        self.classes = adapter.classes
        self.deadline = deadline
        self.on_pass = on_pass
        self._counts = {
            "forward": torch.zeros(samples or 1, dtype=_COUNT),
            "backward": torch.zeros(samples or 1, dtype=_COUNT),
        }
        # Plain numbers until someone looks or attends to others: a tensor would cost more than
        # the pass of a small model.
        self._pending = {"forward": 0, "backward": 0}
        self._total = 0
        self._told = 0.0
        self._attended = torch.arange(samples or 1)
        self._apart = samples is not None
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: torchattacks would switch a wrapper to training after an attack."""
        return super().train(False)

    @contextmanager
    def attending(self, rows: Tensor) -> Iterator[None]:
        """Within it, passes belong to these of the samples attended to before."""
        self._settle()
        before = self._attended
        self._attended = before[rows.cpu()] if self._apart else before
        try:
            yield
        finally:
            self._settle()
            self._attended = before

    @contextmanager
    def quickly(self) -> Iterator[None]:
        """Within it the faster form computes, if there is one."""
        plain = self.adapter
        self.adapter = self.fast or plain
        try:
            yield
        finally:
            self.adapter = plain

    @contextmanager
    def led_by(self, other: Adapter | None) -> Iterator[None]:
        """Within it ``quickly`` means another model: gradients are that one's.  None: this one."""
        before = self.fast, self.led
        self.led = other is not None and (self.led or other is not self.fast)
        self.fast = other
        try:
            yield
        finally:
            self.fast, self.led = before

    @contextmanager
    def seen_as(self, other: Adapter) -> Iterator[None]:
        """Within it the model is another form of itself, for gradients as for its own word."""
        before = self.adapter, self.fast
        self.adapter, self.fast = other, None
        try:
            yield
        finally:
            self.adapter, self.fast = before

    def passes(self, count: int) -> Tensor:
        """What each of ``count`` samples attended to has cost (count,), a backward pass as two.

        Of a single tally, an equal share.
        """
        spent = self.forward_passes + BACKWARD * self.backward_passes
        return spent[self._attended] if self._apart else spent.expand(count) / max(count, 1)

    @property
    def forward_passes(self) -> Tensor:
        """Of each sample (B,), float64."""
        self._settle()
        return self._counts["forward"]

    @property
    def backward_passes(self) -> Tensor:
        """Of each sample (B,), float64."""
        self._settle()
        return self._counts["backward"]

    def forward(self, images: Tensor) -> Tensor:
        self._before(images)
        return self._after(self.adapter(images))

    @property
    def layers(self) -> tuple[str, ...]:
        return self.adapter.layers

    @property
    def reads_distances(self) -> bool:
        return self.adapter.reads_distances

    @property
    def prototypes_per_class(self) -> int:
        return self.adapter.prototypes_per_class

    def class_distances(self) -> Tensor | None:
        return self.adapter.class_distances()

    @property
    def has_features(self) -> bool:
        return self.adapter.has_features

    def linear_head(self) -> LinearHead | None:
        return self.adapter.linear_head()

    @property
    def compares_directions(self) -> bool:
        return self.adapter.compares_directions

    def squared_of(self, features: Tensor) -> Tensor | None:
        return self.adapter.squared_of(features)

    def prototype_vectors(self) -> dict[str, Tensor]:
        return self.adapter.prototype_vectors()

    def training_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch that the model was trained on.  Raises AttackError if unknown."""
        if self.adapter.own_loss is None:
            raise AttackError(
                "this model's own training loss is unknown: it needs an entry with [training], and "
                "a loss whose every part is in the weights"
            )
        self._before(images)
        loss = self.adapter.own_loss(images, labels)
        if loss.requires_grad:
            loss.register_hook(lambda _: self._count_backward(images))
        return loss

    def embed(self, images: Tensor) -> Tensor:
        self._before(images)
        return self._after(self.adapter.embed(images))

    def embed_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self._before(images)
        both = self.adapter.embed_and_logits(images)
        # As one, so that a backward pass through both counts once.
        features, logits = self._after(torch.cat(both, 1)).split([b.shape[1] for b in both], 1)
        return features, logits

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        self._before(images)
        found = self.adapter.activations(images)
        if found:  # the deepest is behind all others
            deepest = list(found)[-1]
            found[deepest] = self._after(found[deepest])
        return found

    def distances(self, images: Tensor) -> Tensor:
        self._before(images)
        return self._after(self.adapter.distances(images))

    def logits_and_distances(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._before(images)
        logits, squared = self.adapter.logits_and_distances(images)
        if squared:  # the deepest distances are part of every prototype-aware loss
            deepest = self.adapter.layers[-1]
            squared[deepest] = self._after(squared[deepest])
        return logits, squared

    def _before(self, images: Tensor) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeLimitReached
        self._pending["forward"] += len(images)
        self._total += len(images)
        now = time.monotonic()
        if now - self._told > _PAUSE:
            self._told = now
            self.on_pass(self._total)

    def _after(self, output: Tensor) -> Tensor:
        if output.requires_grad:
            output.register_hook(self._count_backward)
        return output

    def _count_backward(self, gradient: Tensor) -> None:
        self._pending["backward"] += len(gradient)

    def _settle(self) -> None:
        for kind, made in self._pending.items():
            each = torch.full_like(self._attended, made / max(len(self._attended), 1), dtype=_COUNT)
            self._counts[kind].index_add_(0, self._attended, each)  # one may be attended to twice
            self._pending[kind] = 0


def as_counted(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Counted:
    """Any module behind an adapter that counts.

    A plain module is copied, so that it keeps its mode, its statistics and its parameters'
    gradients.  Raises AttackError for one that can't be copied, that returns no logits, or that
    has none for one of ``labels``.
    """
    counted = model if isinstance(model, Counted) else _counted(as_adapter(model, images), images)
    if labels is not None:
        require_classes(labels, counted.classes)
    return counted


def _counted(adapter: Adapter, images: Tensor) -> Counted:
    return Counted(adapter, len(images), fast=folded_if_same(adapter, images[:32]))


def as_adapter(model: nn.Module, images: Tensor) -> Adapter:
    """A copy of any module behind an adapter; an adapter as it is, once it was tried."""
    if isinstance(model, Adapter):
        try_out(model, images)
        return model
    try:
        module = copy.deepcopy(model).eval()
    except Exception as error:  # noqa: BLE001 - foreign modules raise many kinds
        raise AttackError(
            f"the module can't be copied ({reason(error)}): "
            "pass robusteval.wrap_module(module, classes=…), which freezes it in place"
        ) from None
    return Adapter(module, require_answers(module, images))


def try_out(model: Adapter, images: Tensor) -> None:
    """Raises AttackError for an adapter that can't read such images; in a run it has read them."""
    if len(images) and not isinstance(model, Counted):
        require_answers(model, images, model.classes)


class PositiveLogits(nn.Module):
    """Shifts each sample's logits by a detached constant so that the smallest is 1 or more.

    No loss that depends on differences of logits changes.  ``torchattacks.CW`` needs it: it takes
    the largest of masked products, so that all-negative logits (negative distances) read as 0,
    and its gradient vanishes.
    """

    def __init__(self, model: Counted) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.contiguous())
        smallest = logits.detach().amin(1, keepdim=True)
        return logits + (1 - smallest).clamp_min(0)
