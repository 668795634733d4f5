"""Packages that only some users need: an extra of the project each, imported where it is asked for.

>>> onnx = extra("onnx", "onnx", "network.onnx", EntryError)
"""

from importlib import import_module
from types import ModuleType

from robusteval.errors import RobustevalError, reason
from robusteval.vision import make_importable

# How to install an extra whose own requirements don't build, or don't fit beside others.
EXTRAS = {"advlib": "pip install --no-deps adv-lib"}


def extra(package: str, name: str, what: str, error: type[RobustevalError]) -> ModuleType:
    """A package of the extra ``name``, which ``what`` needs: the start of the line that says so.

    Raises ``error`` where it isn't installed, or can't be imported.
    """
    make_importable()  # timm and onnx2torch import torchvision
    try:
        return import_module(package)
    except ModuleNotFoundError as failed:
        if failed.name != package:
            raise _unusable(package, what, failed, error) from None
    except Exception as failed:  # noqa: BLE001 - foreign code may raise anything
        raise _unusable(package, what, failed, error) from None
    raise error(f"{what} needs {package}, which is not installed: pip install 'robusteval[{name}]'")


def _unusable(
    package: str, what: str, failed: Exception, error: type[RobustevalError]
) -> RobustevalError:
    return error(
        f"{what} needs {package}, which can't be imported "
        f"({type(failed).__name__}: {reason(failed)}): install it anew"
    )
