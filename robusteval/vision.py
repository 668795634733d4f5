"""torchvision, made importable beside a CPU build of torch.

A torchvision wheel built for CUDA fails to import beside torch's CPU build, because operators of
its binary part are missing when it registers their shapes.  Declaring them first is enough: data
sets, transforms and architectures need none of them.  timm and onnx2torch import torchvision, too.
"""

from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from types import ModuleType

_kept_alive: list[object] = []


@lru_cache(maxsize=1)
def torchvision() -> ModuleType:
    """The torchvision module, whichever way it imports."""
    try:
        return import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor a, Tensor b, float c) -> Tensor")
    library.define("qnms(Tensor a, Tensor b, float c) -> Tensor")
    _kept_alive.append(library)
    return import_module("torchvision")


def make_importable() -> None:
    """So that others' code can ``import torchvision``, or what imports it; without a word where
    that can't be had, since not all of them do."""
    with suppress(Exception):
        torchvision()
