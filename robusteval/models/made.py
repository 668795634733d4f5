"""An adapter around what an entry's factory made: its weights, its prototypes, its classes."""

from torch import Tensor, nn

from robusteval.catalogue import near_names
from robusteval.errors import AttackError, EntryError, shown
from robusteval.models.adapter import Adapter, wrap_module
from robusteval.models.entry import Entry
from robusteval.models.entry_tables import Prototypes
from robusteval.models.fitting import fill
from robusteval.models.foreign import Normalised, unwrapped
from robusteval.models.own import OwnBackbone, OwnNetwork

Tensors = dict[str, Tensor]


def adapter_of(
    entry: Entry, module: nn.Module, classes: int, tensors: Tensors | None, beside: Tensors | None
) -> Adapter:
    """Around a module.  ``tensors``: the entry's weights; ``beside``: its prototypes' own file.

    Raises WeightsError for weights that don't fit, and EntryError for [prototypes] that don't.
    """
    told = entry.prototypes
    prototypes = None
    if told is not None and beside is not None:
        prototypes = _named(entry, told, beside, f"{told.file} holds")
    elif told is not None and tensors and told.tensor not in module.state_dict():
        # Weights may hold them beside what the module has.
        prototypes, tensors = tensors.get(told.tensor), {**tensors}
        tensors.pop(told.tensor, None)
    if tensors is not None:
        _fill(entry, module, tensors)
    if told is not None and prototypes is None:
        prototypes = _named(entry, told, module.state_dict(), "weights and module have")
    return _wrapped(entry, module, classes, prototypes)


def _wrapped(entry: Entry, module: nn.Module, classes: int, prototypes: Tensor | None) -> Adapter:
    mean, std, told = entry.input.mean, entry.input.std, entry.prototypes
    if told is None:
        return wrap_module(module, classes, mean, std)
    try:
        return wrap_module(
            module,
            classes,
            mean,
            std,
            prototypes=prototypes,
            **told.model_dump(exclude={"tensor", "file", "sha256"}),
        )
    except AttackError as error:
        raise EntryError(f"{entry.path}: [prototypes] {error}") from None


def _named(entry: Entry, told: Prototypes, tensors: Tensors, where: str) -> Tensor:
    if told.tensor not in tensors:
        raise EntryError(
            f"{entry.path}: [prototypes] tensor = {shown(told.tensor)}: {where} no such one: "
            f"{near_names(told.tensor, tensors)}"
        )
    return tensors[told.tensor]


def _fill(entry: Entry, module: nn.Module, tensors: Tensors) -> None:
    """Loads weights that were saved with a wrapper's names or without, as they come."""
    inside, _ = unwrapped(module)
    fits = bool(tensors.keys() & module.state_dict().keys())
    fill(module if fits else inside, tensors, entry.weights_path)


def given_adapter(entry: Entry, adapter: Adapter, classes: int, tensors: Tensors | None) -> Adapter:
    """An adapter that a factory made itself, which knows its own normalisation and prototypes.

    Weights are those of the module that it wraps.  Raises EntryError where the entry says what the
    adapter would not heed, or other classes.
    """
    where = f"{entry.path}: the factory returns an adapter"
    if adapter.classes != classes:
        raise EntryError(
            f"{where} of {adapter.classes} classes, and the entry is of {classes}: give as many"
        )
    if entry.prototypes is not None:
        raise EntryError(f"{where}, which has prototypes of its own: leave [prototypes] out")
    if any(entry.input.mean) or any(std != 1 for std in entry.input.std):
        raise EntryError(
            f"{where}, which normalises by itself: write mean = [0.0] and std = [1.0] in [input]"
        )
    if tensors is not None:
        _fill(entry, _innermost(adapter), tensors)
    adapter.requires_grad_(False).eval()
    return adapter


def _innermost(module: nn.Module) -> nn.Module:
    """The module that adapters wrap."""
    while isinstance(module, Adapter | Normalised | OwnBackbone | OwnNetwork):
        module = module.backbone if isinstance(module, OwnNetwork) else module.module
    return module
