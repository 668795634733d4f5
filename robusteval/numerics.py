"""Statistics that stand behind the numbers.  Pure functions."""

import math
from typing import Any, SupportsInt

from robusteval.types import Rate

Z = 1.959963984540054  # the normal's 97.5 % quantile


def wilson(k: int, n: int) -> Rate | None:
    """``k`` of ``n`` with its 95 % Wilson score interval; None where n is 0."""
    if n == 0:
        return None
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is not a share")
    share, z2 = k / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if k == 0 else max(centre - half, 0.0)
    high = 1.0 if k == n else min(centre + half, 1.0)
    return Rate(share, low, high, k, n)


def rate_json(k: SupportsInt, n: SupportsInt) -> dict[str, Any] | None:
    """A share with its interval as JSON; null where there is nothing to share."""
    rate = wilson(int(k), int(n))
    return rate.to_json() if rate else None


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p: were the samples that differ split by a fair coin?

    ``only_first``: right in the first run alone.  1 where no sample differs.
    """
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def drawn_alike(k: int, n: int, whole_k: int, whole_n: int) -> float:
    """Two-sided p of ``k`` right among ``n`` samples drawn from ``whole_n``, ``whole_k`` of them
    right: exact (hypergeometric), so that all of them must have as many."""
    from scipy.stats import hypergeom

    drawn = hypergeom(whole_n, whole_k, n)
    return min(1.0, 2 * float(min(drawn.cdf(k), drawn.sf(k - 1))))
