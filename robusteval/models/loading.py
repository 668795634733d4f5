"""From an entry and its weights to an adapter."""

import hashlib
import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as serialise
from torch import Tensor, nn

from robusteval.ambient import plain_state
from robusteval.data.known import DATASETS
from robusteval.errors import EntryError, WeightsError, reason, shown
from robusteval.hardware import is_out_of_memory
from robusteval.models.adapter import Adapter, PrototypeAdapter, wrap_module
from robusteval.models.backbones import BACKBONES, Backbone
from robusteval.models.entry import Entry, sealed_content, weights_content
from robusteval.models.entry_tables import BackboneTable
from robusteval.models.factories import module_from_factory
from robusteval.models.fitting import fill, some
from robusteval.models.head import LARGEST_SIZE
from robusteval.models.libraries import (
    foreign_backbone,
    foreign_module,
    is_foreign,
    own_names,
    reads_itself,
)
from robusteval.models.made import adapter_of, given_adapter
from robusteval.models.network import PrototypeNetwork
from robusteval.models.onnx_files import module_from_onnx
from robusteval.models.robustbench import RobustBenchEntry
from robusteval.models.robustbench_zoo import robustbench_module
from robusteval.storage import replace_file

_MOST_LAYERS = 200  # that a backbone's option lists
EMBEDDING = "embedding"  # the option that may be 0


def classes_of(entry: Entry) -> int:
    """The number of classes: the data set's, unless the entry states its own."""
    return entry.classes or DATASETS.get(entry.dataset).classes


def channels_of(entry: Entry) -> int:
    """The channels of its images: the data set's, else one for each value of [input] mean."""
    given = len(entry.input.mean)
    return DATASETS.get(entry.dataset).shape.channels if entry.dataset else given


def build_network(entry: Entry) -> PrototypeNetwork:
    """An untrained network as the entry describes it.  Raises EntryError if it can't be built."""
    if entry.backbone is None:
        what = "from a factory" if entry.factory else "of an ONNX file"
        raise EntryError(f"{entry.path}: a model {what} can't be built or trained here")
    if reads_itself(entry):
        raise EntryError(
            f"{entry.path}: {entry.backbone.name} with its own classifier can't be trained here: "
            'give it prototypes with [head] layers = ["features"]'
        )
    channels = _fitting_channels(entry)
    backbone = _backbone(entry, entry.backbone, channels)
    if unknown := set(entry.head.layers) - set(backbone.channels):
        raise EntryError(
            f"{entry.path}: head.layers names {', '.join(sorted(unknown))}; "
            f"{entry.backbone.name} has {', '.join(backbone.channels)}"
        )
    try:
        return PrototypeNetwork(
            backbone, entry.head, classes_of(entry), entry.input.mean, entry.input.std
        )
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise EntryError(f"{entry.path}: the head can't be built ({reason(error)})") from None


def _fitting_channels(entry: Entry) -> int:
    """Of the images.  Raises EntryError where the entry normalises another number."""
    channels = channels_of(entry)
    if len(entry.input.mean) not in (1, channels):
        raise EntryError(
            f"{entry.path}: [input] mean has {len(entry.input.mean)} values, "
            f"but {entry.dataset} has {channels} channels"
        )
    return channels


def _backbone(entry: Entry, table: BackboneTable, channels: int) -> Backbone:
    """Raises EntryError for options that it hasn't, or that can't be built."""
    if is_foreign(table):
        return foreign_backbone(entry, channels)
    build, where = BACKBONES.get(table.name), f"{entry.path}: [backbone] {table.name}"
    defaults = {p.name: p.default for p in list(inspect.signature(build).parameters.values())[1:]}
    for name, value in table.options.items():
        if name not in defaults:
            raise EntryError(f"{where} has no option {shown(name)}: it takes {', '.join(defaults)}")
        least = 0 if name == EMBEDDING else 1
        _require_sizes(f"{where} {name}", value, isinstance(defaults[name], tuple), least)
    try:
        return build(channels, **table.options)
    except (TypeError, ValueError, LookupError, RuntimeError, MemoryError) as error:
        why = "too few values" if isinstance(error, LookupError) else reason(error)
        raise EntryError(
            f"{where} takes {', '.join(defaults)}; it can't be built from "
            f"{shown(table.options, 200)} ({why})"
        ) from None


def _require_sizes(where: str, value: Any, is_list: bool, least: int) -> None:
    """Raises EntryError unless these can be sizes of layers, and few enough to be built."""
    values = value if is_list and isinstance(value, list) else [value]
    fit = (type(v) is int and least <= v <= LARGEST_SIZE for v in values)
    if isinstance(value, list) == is_list and len(values) <= _MOST_LAYERS and all(fit):
        return
    some = f"a list of at most {_MOST_LAYERS} whole numbers" if is_list else "a whole number"
    raise EntryError(f"{where} needs {some} from {least} to {LARGEST_SIZE}, not {shown(value)}")


@torch.inference_mode(False)  # such parameters would take no part in a gradient
@plain_state()
def load_model(entry: Entry, device: str = "cpu", allow_code: bool = False) -> Adapter:
    """The entry's trained model behind its adapter, in float32 on ``device``.

    The weights' SHA-256 is checked first.  Raises WeightsError for a missing, altered or
    unfitting file, CodeNotAllowedError for a factory without ``allow_code``.
    """
    if entry.factory is not None:
        return _from_factory(entry, allow_code).to(device)
    if (foreign := _without_code(entry)) is not None:
        mean, std = entry.input.mean, entry.input.std
        return wrap_module(foreign, classes_of(entry), mean, std).to(device)
    network = build_network(entry)
    tensors = own_names(read_weights(entry), network.state_dict())
    if network.classifier is None:  # a softmax-trained model, read by its nearest prototype
        tensors = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
    fill(network, tensors, entry.weights_path)
    return PrototypeAdapter(network).to(device)


def _without_code(entry: Entry) -> nn.Module | None:
    """A foreign network that needs no code of the user's: of an ONNX file, of RobustBench, or of a
    library's architecture with its own classifier.  None where the entry has none of them."""
    if isinstance(entry, RobustBenchEntry):
        return robustbench_module(entry, read_weights)
    if entry.onnx is not None:
        return module_from_onnx(entry, _image_shape(entry))
    if not reads_itself(entry):
        return None
    module = foreign_module(entry, classes_of(entry), _fitting_channels(entry))
    fill(module, read_weights(entry), entry.weights_path)
    return module


def _image_shape(entry: Entry) -> tuple[int, int, int] | None:
    """Channels, height and width of the data set's images; None where the entry names none."""
    if not entry.dataset:
        return None
    shape = DATASETS.get(entry.dataset).shape
    return _fitting_channels(entry), shape.height, shape.width


def _from_factory(entry: Entry, allow_code: bool) -> Adapter:
    module, classes = module_from_factory(entry, allow_code), classes_of(entry)
    tensors = read_weights(entry) if entry.weights is not None else None
    if isinstance(module, Adapter):
        return given_adapter(entry, module, classes, tensors)
    return adapter_of(entry, module, classes, tensors, read_prototypes(entry))


def read_prototypes(entry: Entry) -> dict[str, Tensor] | None:
    """The tensors of the file that [prototypes] names; None where it names none."""
    told = entry.prototypes
    if told is None or told.file is None or told.sha256 is None:
        return None
    path = entry.beside(told.file)
    return tensors_in(sealed_content(path, told.sha256), path)


def read_weights(entry: Entry) -> dict[str, Tensor]:
    """The weights in float32, after their digest was checked.  Raises WeightsError."""
    return tensors_in(weights_content(entry), entry.weights_path)


def tensors_in(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in float32.  Raises WeightsError."""
    where = f"weights {path}"
    try:
        tensors = load_tensors(content)
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise WeightsError(f"{where} can't be read ({reason(error)})") from None
        raise WeightsError(f"{where} don't fit into memory: free some") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{where} are not a safetensors file ({reason(error)})") from None
    if wrong := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise WeightsError(f"{where} hold NaN or infinity in {some(wrong)}: train them anew")
    return tensors


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
