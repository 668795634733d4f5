"""Which versions of attacks older runs and rows were made by.

They hold one digest of the code of all attacks in the place of a version of each.
"""

from robusteval.attacks.record import Attack

# Of code whose attacks return what those of version 1 do.
_FIRST = {"489cd6ae", "faf04d26"}


def version_then(digest: str) -> int:
    """The version that every attack had by then; 0 where it was before the first."""
    return int(digest in _FIRST)


def others(then: dict[str, int], now: dict[str, Attack]) -> list[str]:
    """Names of the attacks, of both, whose versions differ, in order."""
    return [
        name for name, attack in now.items() if then.get(name, attack.version) != attack.version
    ]
