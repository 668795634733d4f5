"""The rows of the samples that a run takes."""

import numpy as np
from numpy.typing import NDArray

from robusteval.data.choice import First, Listed, Samples
from robusteval.errors import DataError


def chosen_rows(
    labels: NDArray[np.int64],
    samples: Samples,
    about: str,
    at_most: bool = False,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Rows of the chosen samples, in the data's order.

    ``about``: what the data are called.  ``at_most``: where there are fewer than so many, all of
    them.  Raises DataError for more samples than there are, and for an index beyond them.
    """
    total = len(labels)
    if isinstance(samples, Listed):
        if samples.indices[-1] >= total:
            raise DataError(
                f"samples: index {samples.indices[-1]} is beyond {about}, which holds {total}: "
                f"choose 0 to {total - 1}"
            )
        return np.array(samples.indices, np.int64)
    count = samples.count if isinstance(samples, First) else samples
    if count is None or (at_most and count >= total):
        return np.arange(total)
    if not 0 < count <= total:
        raise DataError(
            f"{count} samples asked of {about}, which holds {total}: choose 1 to {total}"
        )
    if isinstance(samples, First):
        return np.arange(count)
    return np.sort(balanced_order(labels, seed)[:count])


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Every row once: the first of each class, then the second of each class, and so on."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    classes = labels[shuffled]
    by_class = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[by_class], np.arange(int(classes.max()) + 1))
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - starts[classes[by_class]]
    return shuffled[np.lexsort((rng.permutation(len(labels)), rank))]
