"""Times as people write and read them: 90s, 10m, 1h30m."""

import math
import re
from typing import Any

from robusteval.types import parse_float

_FORM = re.compile(r"(?=.)(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)s)?")
_HOW = "give a time above 0, such as 90s, 10m or 1h30m"


def parse_duration(value: Any) -> float:
    """Seconds, from a number of them or from text.  Raises ValueError or TypeError.

    >>> parse_duration("1h30m"), parse_duration("90s"), parse_duration(600)
    (5400.0, 90.0, 600.0)
    """
    match = _FORM.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        found = 3600 * hours + 60 * minutes + seconds
    else:
        try:
            found = parse_float(value)
        except ValueError:
            raise ValueError(_HOW) from None
    if not (math.isfinite(found) and found > 0):
        raise ValueError(_HOW)
    return found


def duration_text(seconds: float) -> str:
    """Such as "12 s", "3 min 20 s" or "1 h 5 min".

    >>> duration_text(200), duration_text(3900)
    ('3 min 20 s', '1 h 5 min')
    """
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    return f"{rest} s"
