"""Which attacks there are: a library's name and an attack's to its record.

A module in this folder, or in ``libraries/``, adds those of its ``ATTACKS``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from torch import Tensor

from robusteval import attacks
from robusteval.attacks import libraries
from robusteval.attacks.code import code_of_module
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.record import Attack
from robusteval.attacks.tables import require_known
from robusteval.catalogue import near_names
from robusteval.errors import UnknownNameError, kind_of
from robusteval.plugins import Plugin, Registry


def find(library: str, name: str) -> Attack:
    """An attack's record.

    Raises UnknownNameError, with near names, if there is no such attack, AttackError for one of a
    library that is refused, and PluginError for a plug-in that can't be used.
    """
    if library == ROBUSTEVAL.name:
        return OWN.get(name)
    if library not in LIBRARIES:
        known = near_names(library, [*LIBRARIES, ROBUSTEVAL.name])
        raise UnknownNameError(f"unknown library {library!r}: {known}")
    require_known(library, name, LIBRARIES[library], _REFUSED[library])
    return LIBRARIES[library][name]


def code_of(attack: Attack) -> str:
    """Hex digits for what computes an attack: here, or in the package that adds it."""
    plugin = OWN.plugin(attack.name) if attack.library.name == ROBUSTEVAL.name else None
    if plugin is not None:
        return plugin.source_digest
    return code_of_module(attack.function.__module__)


def _accepted(value: Any, plugin: Plugin) -> Attack:
    """A plug-in's attack, of its package, and with seeds that NumPy takes: those of 32 bits."""
    if not isinstance(value, Attack):
        what = f"it is {kind_of(value)}, not a robusteval.attacks.record.Attack"
        raise plugin.unusable(what)
    if value.name != plugin.name:
        raise plugin.unusable(f"its record is named {value.name}")
    package = replace(ROBUSTEVAL, package=plugin.package, install=f"pip install {plugin.package}")
    return replace(value, library=package, function=_with_small_seeds(value.function))


def _with_small_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def attack(*given: Any, seed: int, **parameters: Any) -> Tensor:
        found: Tensor = function(*given, seed=seed % 2**32, **parameters)
        return found

    return attack


def _modules(package: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    for one in iter_modules(package.__path__):
        if not one.ispkg:
            yield one.name, import_module(f"{package.__name__}.{one.name}")


OWN = Registry[Attack]("attacks", "attack", _accepted)
for _, _module in _modules(attacks):
    for _attack in getattr(_module, "ATTACKS", ()):
        OWN.add(_attack.name, _attack)

LIBRARIES: dict[str, dict[str, Attack]] = {}
_REFUSED: dict[str, Mapping[str, str]] = {}
for _name, _module in _modules(libraries):
    LIBRARIES[_name] = {_attack.name: _attack for _attack in _module.ATTACKS}
    _REFUSED[_name] = getattr(_module, "REFUSED", {})
