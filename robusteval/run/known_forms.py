"""Which forms of a model compute soonest on this machine, as an earlier run found.

Trying them takes seconds, and finds the same as long as model, machine and work are the same.  What
was found stands in the user's cache: names of forms, of which a form is made anew.  It is no
evidence: without it they are tried again.
"""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from robusteval.hardware import hardware_name
from robusteval.installed import installation
from robusteval.models.acceleration import Acceleration
from robusteval.plan.spec import RunSpec
from robusteval.reading import read_file
from robusteval.storage import cache_dir, write_cache

Forms = tuple[Acceleration, Acceleration]  # for libraries, and for our own gradients
_MOST = 2**10  # bytes of what is known of a model


def known_forms(spec: RunSpec, images: int, passes: float, choose: Callable[[], Forms]) -> Forms:
    """As they were chosen before for this model on this machine, or what ``choose`` finds.

    ``images``: how many are taken at once; ``passes``: how many follow, of which a power of two
    counts: more of them pay for compiling.
    """
    place = _place(spec, images, passes)
    if place is None:
        return choose()
    if (known := _read(place)) is not None:
        return known
    found = choose()
    write_cache(place, json.dumps([str(form) for form in found]).encode())
    return found


def _place(spec: RunSpec, images: int, passes: float) -> Path | None:
    if (folder := cache_dir()) is None:
        return None
    work = [images, math.frexp(passes)[1], spec.threads, spec.device]
    told = [hardware_name(spec.device), installation(), spec.model_digest, *work]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return folder / "forms" / f"{key[:24]}.json"


def _read(place: Path) -> Forms | None:
    with suppress(OSError, ValueError, TypeError):
        libraries, gradients = names = json.loads(read_file(place, _MOST))
        found = Acceleration.parse(libraries), Acceleration.parse(gradients)
        if names == [str(form) for form in found]:
            return found
    return None
