"""Where a model's prototypes are: how many, and which of them stand in one place."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from robusteval.models.adapter import Adapter

# Of the root mean square distance of a layer's prototypes to their mean: what is closer coincides.
CLOSE = 1e-3
_AT_ONCE = 1024


@dataclass(frozen=True)
class PrototypeLayer:
    """One layer's prototypes, K · M of them; prototype k · M + m is the m-th of class k.

    ``features``: their length; None where the model doesn't show them, and then ``firsts``, for
    each the first of those that coincide with it, and ``equal``, how many of the others have
    exactly its values, are None, too.
    """

    name: str
    per_class: int
    features: int | None = None
    firsts: NDArray[np.int64] | None = None  # (K · M,)
    equal: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``run.json`` has it: of coinciding prototypes each with the first of them."""
        pairs = None
        if self.firsts is not None:
            later = np.flatnonzero(self.firsts != np.arange(len(self.firsts)))
            pairs = [[int(i), int(self.firsts[i])] for i in later]
        return {
            "layer": self.name,
            "per_class": self.per_class,
            "features": self.features,
            "coinciding": pairs,
            "equal": self.equal,
        }


def prototype_layers(model: Adapter) -> tuple[PrototypeLayer, ...]:
    """A model's layers that carry prototypes, shallow to deep.

    Of one that doesn't show them only the deepest is known, by the distances to it.
    """
    vectors = model.prototype_vectors()
    if not vectors:
        return tuple(PrototypeLayer(name, model.prototypes_per_class) for name in model.layers[-1:])
    return tuple(
        _layer(name, vectors[name].detach().double().cpu().numpy())
        for name in model.layers
        if name in vectors
    )


def _layer(name: str, prototypes: NDArray[np.float64]) -> PrototypeLayer:
    _, per_class, features = prototypes.shape
    flat = prototypes.reshape(-1, features)
    firsts = first_of_each(flat)
    others = firsts != np.arange(len(firsts))
    equal = int((flat[others] == flat[firsts[others]]).all(1).sum())
    return PrototypeLayer(name, per_class, features, firsts, equal)


def first_of_each(prototypes: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each prototype of (P, D) the first that coincides with it: (P,).

    Those closer than ``CLOSE`` of the spread coincide, and so do chains of them.
    """
    centred = prototypes - prototypes.mean(0)
    squares = np.square(centred).sum(1)
    close = CLOSE**2 * squares.mean()
    pairs = [np.empty((2, 0), np.int64)]
    for start in range(0, len(centred), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        apart = squares[part, None] + squares - 2 * centred[part] @ centred.T
        rows, columns = np.nonzero(apart <= close)
        pairs.append(np.stack([rows + start, columns]))
    rows, columns = np.concatenate(pairs, 1)
    shape = (len(centred), len(centred))
    _, groups = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape), False)
    _, firsts = np.unique(groups, return_index=True)
    found: NDArray[np.int64] = firsts[groups].astype(np.int64)
    return found
