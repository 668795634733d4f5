"""Architectures of timm and torchvision by name, such as ``timm:resnet18``: no code of the user's.

Nothing is ever downloaded: weights are the entry's own.  With the architecture's own classifier
such a network is a foreign module; without it, it is a backbone for a head of ours.
"""

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from torch import Tensor, nn

from robusteval.catalogue import near_names
from robusteval.errors import EntryError, UnknownNameError, reason, shown
from robusteval.extras import extra
from robusteval.models.backbones import Backbone
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import BackboneTable
from robusteval.models.head import LARGEST_SIZE
from robusteval.vision import make_importable

T = TypeVar("T")
FEATURES = "features"  # the one layer of such a backbone
_MOST_VALUES = 200  # that an option lists
_WORD = re.compile(r"\w{1,40}", re.ASCII)
_FOLLOWS = {"num_classes", "in_chans"}
# What would bring weights from elsewhere, or return something else than logits.
_KEPT_BACK = re.compile(
    "pretrained.*|weights.*|checkpoint_path|cache_dir|progress|features_only|feature_cfg|out_indices"
    "|scriptable|exportable|no_jit|kwargs_filter|model_cfg|variant"
)


class LibraryBackbone(Backbone):
    """A foreign network without its classifier.

    Layer: ``features``, the vectors (B, D) that its classifier would have read.
    """

    def __init__(self, net: nn.Module, width: int) -> None:
        super().__init__()
        self.net = net
        self.channels = {FEATURES: width}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {FEATURES: self.net(images)}


@dataclass(frozen=True)
class _Library:
    """``names()`` lists its classifiers; ``build(name, classes, channels, options)`` makes one, and
    ``without(…)`` the same less its classifier, with the width of its features."""

    names: Callable[[], Iterable[str]]
    build: Callable[[str, int, int, dict[str, Any]], nn.Module]
    without: Callable[[str, int, dict[str, Any]], tuple[nn.Module, int]]


def is_foreign(table: BackboneTable) -> bool:
    """Whether a backbone's name is one of a library: ``library:name``."""
    return ":" in table.name


def reads_itself(entry: Entry) -> bool:
    """Whether a library's architecture classifies by itself: no layer of it carries prototypes."""
    return entry.backbone is not None and is_foreign(entry.backbone) and not entry.head.layers


def require_known(table: BackboneTable) -> None:
    """Raises UnknownNameError, with near names, and EntryError where the library is missing."""
    _found(table, table.name)


def foreign_module(entry: Entry, classes: int, channels: int) -> nn.Module:
    """The architecture with its own classifier: normalised images to logits.

    Raises EntryError, and UnknownNameError for a name that there isn't.
    """
    library, name, where, options = _asked(entry)
    return _made(where, options, lambda: library.build(name, classes, channels, options))


def foreign_backbone(entry: Entry, channels: int) -> Backbone:
    """The architecture without its classifier.  Raises as ``foreign_module`` does."""
    library, name, where, options = _asked(entry)
    net, width = _made(where, options, lambda: library.without(name, channels, options))
    return LibraryBackbone(net, width)


def own_names(tensors: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Weights ``backbone.conv1.…`` as ``backbone.net.conv1.…``, which is where a library's are."""
    start = "backbone.net."
    inner = {f"backbone.{n.removeprefix(start)}": n for n in expected if n.startswith(start)}
    return {inner.get(name, name): values for name, values in tensors.items()}


def _asked(entry: Entry) -> tuple[_Library, str, str, dict[str, Any]]:
    table = entry.backbone
    assert table is not None, "only entries with a library's backbone come here"
    where = f"{entry.path}: [backbone] {table.name}"
    library, name = _found(table, where)
    for option, value in table.options.items():
        _require_plain(where, option, value)
    return library, name, where, table.options


def _found(table: BackboneTable, where: str) -> tuple[_Library, str]:
    of, _, name = table.name.partition(":")
    if of not in LIBRARIES:
        raise UnknownNameError(f"{where}: unknown library {shown(of)}: {near_names(of, LIBRARIES)}")
    names = set(LIBRARIES[of].names())
    if name not in names:
        hint = near_names(name, names, f"{of}:{{}}")
        raise UnknownNameError(f"{where}: {of} has no classifier {shown(name)}: {hint}")
    return LIBRARIES[of], name


def _require_plain(where: str, option: str, value: Any) -> None:
    """Raises EntryError for an option that isn't the architecture's own, or no plain value."""
    if option in _FOLLOWS:
        raise EntryError(f"{where}: {option} follows from the entry's data set: leave it out")
    if _KEPT_BACK.fullmatch(option):
        raise EntryError(
            f"{where}: {option} can't be set: weights come from [weights], logits from the network"
        )
    if not _is_plain(value):
        raise EntryError(
            f"{where}: {option} = {shown(value)}: give a number up to {LARGEST_SIZE}, a word, "
            f"true or false, or a list of at most {_MOST_VALUES} of them"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _MOST_VALUES and all(map(_is_plain, value))
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return isinstance(value, int | float) and abs(value) <= LARGEST_SIZE


def _made(where: str, options: dict[str, Any], build: Callable[[], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of starts that weights replace
            return build()
    except EntryError as error:
        raise EntryError(f"{where} {error}") from None
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        given = f" from {shown(options, 200)}" if options else ""
        raise EntryError(
            f"{where} can't be built{given} ({type(error).__name__}: {reason(error)}): "
            "mend its options"
        ) from None


def _timm() -> Any:
    return extra("timm", "timm", "a backbone timm:…", EntryError)


def _timm_names() -> Iterable[str]:
    found: list[str] = _timm().list_models()
    return found


def _of_timm(name: str, classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    module: nn.Module = _timm().create_model(
        name, pretrained=False, num_classes=classes, in_chans=channels, **options
    )
    return module


def _without_of_timm(name: str, channels: int, options: dict[str, Any]) -> tuple[nn.Module, int]:
    net: Any = _of_timm(name, 0, channels, options)
    return net, int(getattr(net, "head_hidden_size", None) or net.num_features)


def _models() -> Any:
    make_importable()
    return import_module("torchvision.models")


def _torchvision_names() -> Iterable[str]:
    found: list[str] = _models().list_models(module=_models())
    return found


def _of_torchvision(name: str, classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    if channels != 3:
        raise EntryError(f"takes images of three channels, not {channels}: choose one of timm's")
    module: nn.Module = _models().get_model(name, weights=None, num_classes=classes, **options)
    return module


def _without_of_torchvision(
    name: str, channels: int, options: dict[str, Any]
) -> tuple[nn.Module, int]:
    """Its last linear layer, which is its classifier, gives way."""
    net = _of_torchvision(name, 2, channels, options)
    linear = [name for name, inner in net.named_modules() if isinstance(inner, nn.Linear)]
    if not linear:
        raise EntryError("has no linear classifier to take features from: choose another one")
    width = net.get_submodule(linear[-1]).in_features
    outer, _, last = linear[-1].rpartition(".")
    setattr(net.get_submodule(outer), last, nn.Identity())
    return net, int(width)  # type: ignore[arg-type]


LIBRARIES = {
    "timm": _Library(_timm_names, _of_timm, _without_of_timm),
    "torchvision": _Library(_torchvision_names, _of_torchvision, _without_of_torchvision),
}
