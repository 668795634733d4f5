"""robusteval: is a prototype classifier's robustness real?

The Python interface is :mod:`robusteval.api`; its functions are offered here lazily, so that
importing the package loads neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robusteval.api import (
        Options,
        Report,
        compare,
        estimate,
        evaluate,
        export,
        list_entries,
        load_dataset,
        load_model,
        rebuild_report,
        train,
        verify,
        wrap_module,
    )

__version__ = "0.2.0"

__all__ = [
    "Options",
    "Report",
    "__version__",
    "compare",
    "estimate",
    "evaluate",
    "export",
    "list_entries",
    "load_dataset",
    "load_model",
    "rebuild_report",
    "train",
    "verify",
    "wrap_module",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("robusteval.api"), name)
    raise AttributeError(f"module 'robusteval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
