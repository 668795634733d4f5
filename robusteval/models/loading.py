"""From an entry and its weights to an adapter."""

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as serialise
from torch import Tensor, nn

from robusteval.ambient import plain_state
from robusteval.data.known import DATASETS
from robusteval.errors import CodeNotAllowedError, EntryError, WeightsError
from robusteval.models.adapter import Adapter, PrototypeAdapter, wrap_module
from robusteval.models.backbones import BACKBONES
from robusteval.models.entry import Entry, weights_content
from robusteval.models.network import HeadConfig, PrototypeNetwork
from robusteval.storage import replace_file

# What wrappers put into the names of a state dict.
_WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}
Names = dict[str, tuple[int, ...]]  # of tensors, with their shapes


def classes_of(entry: Entry) -> int:
    """The number of classes: the data set's, unless the entry states its own."""
    return entry.classes or DATASETS.get(entry.dataset).classes


def build_network(entry: Entry) -> PrototypeNetwork:
    """An untrained network as the entry describes it.  Raises EntryError if it can't be built."""
    if entry.backbone is None:
        raise EntryError(f"{entry.path}: a model from a factory can't be built or trained here")
    build = BACKBONES.get(entry.backbone.name)
    channels = DATASETS.get(entry.dataset).shape.channels
    if len(entry.input.mean) not in (1, channels):
        raise EntryError(
            f"{entry.path}: [input] mean has {len(entry.input.mean)} values, "
            f"but {entry.dataset} has {channels} channels"
        )
    try:
        backbone = build(channels, **entry.backbone.options)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        known = ", ".join(list(inspect.signature(build).parameters)[1:])
        raise EntryError(
            f"{entry.path}: [backbone] {entry.backbone.name} takes {known}; it can't be built "
            f"from {entry.backbone.options} ({error})"
        ) from None
    if unknown := set(entry.head.layers) - set(backbone.channels):
        raise EntryError(
            f"{entry.path}: head.layers names {', '.join(sorted(unknown))}; "
            f"{entry.backbone.name} has {', '.join(backbone.channels)}"
        )
    head = HeadConfig(
        reading=entry.head.reading,
        classes=classes_of(entry),
        layers=tuple(entry.head.layers),
        branch_dims=entry.head.branch_dims,
        similarity=entry.head.similarity,
        prototypes_per_class=entry.head.prototypes_per_class,
        pooling=entry.head.pooling,
        temperature=entry.head.temperature,
    )
    try:
        return PrototypeNetwork(backbone, head, entry.input.mean, entry.input.std)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EntryError(f"{entry.path}: the head can't be built ({error})") from None


@torch.inference_mode(False)  # such parameters would take no part in a gradient
@plain_state()
def load_model(entry: Entry, device: str = "cpu", allow_code: bool = False) -> Adapter:
    """The entry's trained model behind its adapter, in float32 on ``device``.

    The weights' SHA-256 is checked first.  Raises WeightsError for a missing, altered or
    unfitting file, CodeNotAllowedError for a factory without ``allow_code``.
    """
    if entry.factory is not None:
        module = _from_factory(entry, allow_code)
        if entry.weights is not None:
            _fill(module, read_weights(entry), entry.weights_path)
        return wrap_module(module, classes_of(entry), entry.input.mean, entry.input.std).to(device)
    network = build_network(entry)
    tensors = read_weights(entry)
    if network.classifier is None:  # a softmax-trained model, read by its nearest prototype
        tensors = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
    _fill(network, tensors, entry.weights_path)
    return PrototypeAdapter(network).to(device)


def _from_factory(entry: Entry, allow_code: bool) -> nn.Module:
    if not allow_code:
        raise CodeNotAllowedError(
            f"{entry.path}: the factory {entry.factory} would run code: "
            "pass --allow-code if you trust it"
        )
    module_name, _, attribute = str(entry.factory).partition(":")
    sys.path.insert(0, str(entry.path.resolve().parent))  # a module beside the entry is found
    try:
        module = getattr(importlib.import_module(module_name), attribute)()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        raise EntryError(f"{entry.path}: factory {entry.factory} failed ({error})") from None
    finally:
        sys.path.pop(0)
    if not isinstance(module, nn.Module):
        raise EntryError(f"{entry.path}: factory {entry.factory} returned no torch module")
    return module


def read_weights(entry: Entry) -> dict[str, Tensor]:
    """The weights in float32, after their digest was checked."""
    content = weights_content(entry)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError) as error:
        path = entry.weights_path
        raise WeightsError(f"weights {path} are no safetensors file ({error})") from None
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Loads the weights.  Raises WeightsError, with what doesn't fit and its shapes."""
    expected, held = _shapes(module.state_dict()), _shapes(tensors)
    other: list[str] = []
    try:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        missing, unexpected = list(expected.keys() - held), list(held.keys() - expected)
        both = expected.keys() & held
        differ = [f"{n} is {held[n]}, not {expected[n]}" for n in both if held[n] != expected[n]]
        other = sorted(differ) or [str(error).splitlines()[-1].strip()]
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


def _listed(what: str, told: list[str], of: int) -> str:
    """How many there are, and the first three; empty where there are none."""
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return f"{len(told)} of {of} {what}: {', '.join(told[:3])}{more}" if told else ""


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


def stored_form(network: nn.Module) -> dict[str, Tensor]:
    """The tensors as stored: float16, which is what every verdict is about.

    Raises WeightsError for values that it can't hold.
    """
    stored = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in network.state_dict().items()
        if value.is_floating_point()
    }
    if beyond := [name for name, value in stored.items() if not torch.isfinite(value).all()]:
        raise WeightsError(
            f"{', '.join(beyond[:3])} can't be stored in float16 (above 65,504, or not finite): "
            "lower [training] lr, or raise weight_decay"
        )
    return stored


def write_weights(path: Path, tensors: dict[str, Tensor]) -> str:
    """Writes atomically, and returns the SHA-256."""
    content = serialise(tensors)
    replace_file(path, content, "free space in its folder")
    return hashlib.sha256(content).hexdigest()
