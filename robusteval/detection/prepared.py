"""What scores make of a state once, and not for each batch anew."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Make = Callable[[Tensor], Tensor]
_MADE: dict[Make, Any] = {}  # of each function its results by tensor, as long as that lives


def prepared(make: Make, tensor: Tensor) -> Tensor:
    """``make(tensor)``, kept while the tensor lives and isn't written to."""
    known = _MADE.setdefault(make, WeakIdKeyDictionary())
    if tensor not in known or known[tensor][0] != tensor._version:
        known[tensor] = tensor._version, make(tensor)
    made: Tensor = known[tensor][1]
    return made
