"""Where Square's windows fit."""

from torch import Tensor

from robusteval.types import Norm


def square_fits(images: Tensor, norm: Norm, oblong: bool = True) -> bool:
    """Whether Square's windows fit on such images: in L2 its first tiles are a fifth as high.

    Both libraries would fail there.  torchattacks' fails on oblong images, too.
    """
    height, width = images.shape[-2:]
    side = height // 5
    if norm == "Linf":
        return True
    if side == 0 or (height != width and not oblong):
        return False
    first = (height - 5 * side) // 2
    return side == 1 or all(first + length // side * side <= length for length in (height, width))
