"""robusteval: is a prototype classifier's robustness real?

The Python interface is :mod:`robusteval.api`; its functions are offered here lazily, so that
importing the package loads neither torch nor pandas.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_API = ("evaluate", "load_model", "load_dataset", "train", "list_entries", "wrap_module")
__all__ = ["__version__", *_API]


def __getattr__(name: str) -> Any:
    if name in _API:
        return getattr(import_module("robusteval.api"), name)
    raise AttributeError(f"module 'robusteval' has no attribute {name!r}")
