"""Ways to read outputs by which a margin may be linear on pieces: what a squared distance stands
behind.

A model may return distances that are not squared, their logarithms or kernels of them.  Each way is
a function that grows with what it reads.  So the order of classes stays, and where the margin is
zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.attacks.losses import of_class
from robusteval.attacks.search import AIMED, Objective, Seen, Slopes

_MOST = 40.0  # of outputs whose exponentials are taken: float32 holds their squares
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Reading:
    """``function`` of outputs between ``low`` and ``high``, as where ``told`` is returned, with d
    the distance to a prototype."""

    told: str
    function: Callable[[Tensor], Tensor]
    low: float = -torch.inf
    high: float = torch.inf

    def takes(self, outputs: Tensor) -> bool:
        """Whether they lie where it is defined, and grows."""
        return bool(((outputs >= self.low) & (outputs <= self.high)).all())

    def gap(self, wrong: Tensor, own: Tensor) -> Tensor:
        """Of outputs (B,) of a wrong class and the own one, float64."""
        return self.function(wrong.double()) - self.function(own.double())

    def slopes(self, wrong: Slopes, own: Slopes) -> Slopes:
        """Of the gap, from those of the two outputs."""
        losses = self.gap(wrong.losses, own.losses)
        up, down = (self._slope(one) for one in (wrong, own))
        return Slopes(wrong.margins, wrong.doubts, losses, up - down)

    def _slope(self, one: Slopes) -> Tensor:
        outputs = one.losses.double().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.function(outputs).sum(), outputs)
        return slope.view(-1, *[1] * (one.gradients.dim() - 1)) * one.gradients

    @property
    def objective(self) -> Objective:
        """The gap to the class that a sample is driven towards."""
        return AIMED if self is AS_THEY_ARE else Objective(partial(_read, self))


def _read(reading: Reading, seen: Seen) -> Tensor:
    assert seen.targets is not None
    return reading.gap(of_class(seen.logits, seen.targets), of_class(seen.logits, seen.labels))


def _output(seen: Seen) -> Tensor:
    assert seen.targets is not None
    return of_class(seen.logits, seen.targets)


OUTPUT = Objective(_output)  # of the class that is asked for
AS_THEY_ARE = Reading("-d²", lambda z: z)
READINGS = (
    AS_THEY_ARE,
    Reading("-d", lambda z: -z.square(), high=0),
    Reading("-log d", lambda z: -(-2 * z).exp(), -_MOST, _MOST),
    Reading("-log d²", lambda z: -(-z).exp(), -_MOST, _MOST),
    Reading("exp(-d²)", torch.log, low=_TINY),
    Reading("exp(-d)", lambda z: -z.log().square(), _TINY, 1),
    Reading("1 / (1 + d²)", lambda z: -1 / z, low=_TINY),
    # What lies between 0 and 1 may have been taken for a sigmoid, and led back (see ``squashed``).
    Reading("exp(-d²), led back", F.logsigmoid, low=-_MOST),
    Reading("exp(-d), led back", lambda z: -F.logsigmoid(z).square(), low=-_MOST),
)
