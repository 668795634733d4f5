"""A model of RobustBench's zoo, filled with weights that lie here."""

import io
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, cast

import torch
from torch import Tensor, nn

from robusteval.errors import EntryError, WeightsError, reason
from robusteval.models.entry import weights_content
from robusteval.models.entry_tables import CHECKPOINT
from robusteval.models.fitting import fill, some
from robusteval.models.robustbench import CLASSES, RobustBenchEntry, names_of, require_known

# Constants of normalisation, which older checkpoints lack: the architecture has them.
_CONSTANTS = {"mu", "sigma", "mean", "std"}
_WRAPS = ("last", "state_dict")  # what checkpoints keep their tensors under


def robustbench_module(
    entry: RobustBenchEntry, safetensors: Callable[[RobustBenchEntry], dict[str, Tensor]]
) -> nn.Module:
    """The trained model: images (B, C, H, W) in [0, 1] to logits (B, K).  ``safetensors`` reads the
    weights of such a file.

    Raises UnknownNameError, EntryError and WeightsError, as ``load_model`` does.
    """
    require_known(entry.asked)
    module = _architecture(entry)
    is_pickle = entry.weights_path.suffix == CHECKPOINT
    tensors = _state_dict(entry) if is_pickle else safetensors(entry)
    fill(module, _fitting(module, tensors), entry.weights_path)
    return module


def _architecture(entry: RobustBenchEntry) -> nn.Module:
    """Untrained, and without a download: some of RobustBench's would begin with one."""
    asked, known = entry.asked, names_of(entry.asked)[entry.asked.name]
    try:
        # Foreign code prints, and warns of starts that weights replace.
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if (registered := _of_timm(entry)) is not None:
                return registered
            if known["gdrive_id"]:
                return cast(Callable[[], nn.Module], known["model"])()
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything
        raise EntryError(
            f"{entry.path} can't be built ({type(error).__name__}: {reason(error)})"
        ) from None
    raise EntryError(
        f"{entry.path}: RobustBench takes {asked.name} with another library's weights: name that "
        "library's model in an entry of your own"
    )


def _of_timm(entry: RobustBenchEntry) -> nn.Module | None:
    """Of those that RobustBench registers with timm, where it looks first."""
    import timm

    asked = entry.asked
    name = f"{asked.name.replace('-', '_')}_{asked.dataset}_{asked.threat}".lower()
    if not timm.is_model(name):
        return None
    found: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES[asked.dataset])
    return found


def _state_dict(entry: RobustBenchEntry) -> dict[str, Tensor]:
    """The tensors of a checkpoint, in float32.  torch reads tensors and plain containers of it, and
    runs nothing of it.  Raises WeightsError."""
    where = f"weights {entry.weights_path}"
    content = weights_content(entry)
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever the file holds
        raise WeightsError(
            f"{where} can't be read without running its code ({type(error).__name__}): where you "
            "trust it, save its state dict as safetensors (docs/other_tools.md)"
        ) from None
    for name in _WRAPS:
        loaded = loaded[name] if isinstance(loaded, Mapping) and name in loaded else loaded
    if not isinstance(loaded, Mapping) or not loaded or not all(map(_is_named, loaded.items())):
        raise WeightsError(f"{where} hold no state dict: save the model's, tensors by name")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in loaded.items()}
    if wrong := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise WeightsError(f"{where} hold NaN or infinity in {some(wrong)}: take another file")
    return tensors


def _is_named(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _fitting(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the architecture's names, with its constants, and less what RobustBench leaves out."""
    expected = module.state_dict()
    renamed = max(
        ({way(name): value for name, value in tensors.items()} for way in _WAYS),
        key=lambda found: len(found.keys() & expected.keys()),
    )
    kept = {n: v for n, v in renamed.items() if n in expected or not _is_left_out(n)}
    constants = {n: v for n, v in expected.items() if n.rpartition(".")[2] in _CONSTANTS}
    return {**constants, **kept}


def _is_left_out(name: str) -> bool:
    """What checkpoints hold beside the network: scores of pruning, an unused layer."""
    return name.endswith(".scores") or name.startswith("model_preact_hl1.")


def _bare(name: str) -> str:
    return name.removeprefix("module.").removeprefix("model.")


# What RobustBench does to names, by model: the way that fits best is taken.
_WAYS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: name.removeprefix("module."),
    _bare,
    lambda name: f"model.{_bare(name)}",
)
