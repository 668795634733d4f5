"""Whether weights fit a module: what doesn't, with its shapes, and what wrappers put into names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robusteval.errors import WeightsError, cut, reason

# What wrappers put into the names of a state dict.
_WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}
Names = dict[str, tuple[int, ...]]  # of tensors, with their shapes


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Loads the weights.  Raises WeightsError, with what doesn't fit and its shapes."""
    expected, held = _shapes(module.state_dict()), _shapes(tensors)
    other: list[str] = []
    try:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        missing, unexpected = list(expected.keys() - held), list(held.keys() - expected)
        both = expected.keys() & held
        differ = [f"{n} is {held[n]}, not {expected[n]}" for n in both if held[n] != expected[n]]
        other = sorted(differ) or [reason(error)]
    needed = {n: s for n, s in expected.items() if not n.endswith("num_batches_tracked")}
    lacking = {n: needed[n] for n in missing if n in needed}
    unknown = {n: held[n] for n in unexpected}
    told = [
        _told("lacking", lacking, len(needed)),
        _told("unknown", unknown, len(held)),
        _listed("of another shape", other, len(held)),
    ]
    if found := [part for part in told if part]:
        hint = _wrapped(unknown, lacking) or "is it the right file?"
        raise WeightsError(f"weights {path} don't fit the entry: {'; '.join(found)}: {hint}")


def _shapes(tensors: dict[str, Any]) -> Names:
    return {name: tuple(v.shape) for name, v in tensors.items() if isinstance(v, Tensor)}


def _told(what: str, named: Names, of: int) -> str:
    return _listed(what, [f"{name} {shape}" for name, shape in sorted(named.items())], of)


def some(names: Sequence[str]) -> str:
    """Three of them, short, and how many more there are."""
    names = [cut(name, 100) for name in names]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _listed(what: str, told: list[str], of: int) -> str:
    """How many there are, and the first three; empty where there are none."""
    return f"{len(told)} of {of} {what}: {some(told)}" if told else ""


def _wrapped(unknown: Names, lacking: Names) -> str:
    """What to do where names would fit but for what a wrapper, or an outer module, put there."""
    found = [
        f"{part!r} ({by})" for part, by in _WRAPPERS.items() if any(part in n for n in unknown)
    ]
    if {_unwrapped(name) for name in unknown} & set(lacking):
        return f"save them without {' and '.join(found)} in their names"
    first = next(iter(unknown), "").partition(".")[0] + "."
    if {name.removeprefix(first) for name in unknown} & set(lacking):
        return f"save them without {first!r}, by which their names begin"
    return ""


def _unwrapped(name: str) -> str:
    for part in _WRAPPERS:
        name = name.replace(part, "")
    return name
