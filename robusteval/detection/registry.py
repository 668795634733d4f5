"""Which detectors there are: a name to its record.

A module in this folder adds those of its tuple ``DETECTORS``, a package those of its entry points
of the group ``robusteval.detectors``.
"""

from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from robusteval import detection
from robusteval.attacks.code import code_of_module
from robusteval.detection.record import Detector
from robusteval.errors import kind_of
from robusteval.plugins import Plugin, Registry


def find(name: str) -> Detector:
    """A detector's record.

    Raises UnknownNameError, with near names, if there is no such detector, and PluginError for a
    plug-in that can't be used.
    """
    return DETECTORS.get(name)


def code_of(detector: Detector) -> str:
    """Hex digits for what computes a detector: here, or in the package that adds it."""
    plugin = DETECTORS.plugin(detector.name)
    if plugin is not None:
        return plugin.source_digest
    return code_of_module(detector.score_read.__module__)


def _accepted(value: Any, plugin: Plugin) -> Detector:
    """A plug-in's detector, of its package."""
    if not isinstance(value, Detector):
        what = f"it is {kind_of(value)}, not a robusteval.detection.record.Detector"
        raise plugin.unusable(what)
    if value.name != plugin.name:
        raise plugin.unusable(f"its record is named {value.name}")
    return replace(value, package=plugin.package)


DETECTORS = Registry[Detector]("detectors", "detector", _accepted)
for _module in iter_modules(detection.__path__, f"{detection.__name__}."):
    if _module.name != __name__:
        for _detector in getattr(import_module(_module.name), "DETECTORS", ()):
            DETECTORS.add(_detector.name, _detector)
