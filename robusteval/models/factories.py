"""A model from an entry's Python factory: foreign code, run with the user's permission alone."""

import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robusteval.catalogue import near_names
from robusteval.errors import CodeNotAllowedError, EntryError, reason, shown
from robusteval.models.entry import Entry
from robusteval.vision import make_importable

_brought: dict[str, Path] = {}  # modules that factories came with, and their folders


def module_from_factory(entry: Entry, allow_code: bool) -> nn.Module:
    """What the entry's factory makes of [factory_options]: a module, be it an adapter.

    What it prints goes to stderr: stdout is for what the program says.  Raises
    CodeNotAllowedError without ``allow_code``, and EntryError for whatever goes wrong, a call of
    ``sys.exit`` included.
    """
    if not allow_code:
        raise CodeNotAllowedError(
            f"{entry.path}: the factory {entry.factory} would run code: "
            "pass --allow-code if you trust it"
        )
    where = f"{entry.path}: factory {shown(entry.factory)}"
    make_importable()
    try:
        with redirect_stdout(sys.stderr):
            # A copy: what a factory does with its options changes no entry.
            module = _function(entry, where)(**copy.deepcopy(entry.factory_options or {}))
    except (KeyboardInterrupt, EntryError):
        raise
    except BaseException as error:  # noqa: BLE001 - foreign code may raise anything
        kind = type(error).__name__
        said = kind if (why := reason(error)) == kind else f"{kind}: {why}"
        raise EntryError(f"{where} failed ({said}): mend it") from None
    if not isinstance(module, nn.Module):
        raise EntryError(f"{where} returned no torch module but {shown(module)}: return one")
    return module


def _function(entry: Entry, where: str) -> Callable[[], Any]:
    """The factory itself.  Raises EntryError where there is none, or one that takes other arguments
    than [factory_options]."""
    name, _, attribute = str(entry.factory).partition(":")
    if not (name and attribute):
        raise EntryError(f'{where} names no function: write factory = "module:function"')
    module = _import(entry.path.resolve().parent, name)
    function = getattr(module, attribute, None)
    if not callable(function):
        hint = near_names(
            attribute, [n for n in vars(module) if callable(getattr(module, n, None))]
        )
        raise EntryError(f"{where}: the module has no function {shown(attribute)}: {hint}")
    try:
        inspect.signature(function).bind(**entry.factory_options or {})
    except ValueError:  # one of C tells nothing of its arguments
        pass
    except TypeError as error:
        told = f"other arguments than [factory_options] gives ({reason(error)})"
        raise EntryError(
            f"{where} takes {told if entry.factory_options else 'arguments'}: give it defaults, or "
            "name them in [factory_options]"
        ) from None
    return function  # type: ignore[no-any-return]


def _import(folder: Path, name: str) -> ModuleType:
    """A module beside the entry, else one that is installed.

    What another entry came with steps aside, so that each entry gets its own.  So does any other
    module that hides the one beside the entry, which is back at its place afterwards.
    """
    top = name.partition(".")[0]
    beside = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
    others = {known for known, place in _brought.items() if place != folder}
    hides = beside and top in sys.modules and _root(sys.modules[top]) != folder
    hidden = _step_aside({top} - others) if hides else {}
    _step_aside(others)
    before = {*sys.modules, *hidden}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        new = [known for known in sys.modules if known not in before and "." not in known]
        _brought.update({n: folder for n in new if _root(sys.modules[n]) == folder})
        sys.modules.update(hidden)


def _step_aside(tops: set[str]) -> dict[str, ModuleType]:
    """Takes modules, and those below them, out of the place where imports find them."""
    names = [known for known in sys.modules if known.partition(".")[0] in tops]
    return {known: sys.modules.pop(known) for known in names}


def _root(module: ModuleType) -> Path | None:
    """The folder that a top-level module was found in."""
    try:
        if path := list(getattr(module, "__path__", [])):
            return Path(path[0]).resolve().parent
        file = getattr(module, "__file__", None)
        return Path(file).resolve().parent if file else None
    except Exception:  # noqa: BLE001 - modules may be odd objects
        return None
