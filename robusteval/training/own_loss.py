"""A trained model's own training loss, for attacks that ascend what the model descended."""

from dataclasses import dataclass

from torch import Tensor

from robusteval.errors import TrainingError
from robusteval.models.adapter import Adapter, PrototypeAdapter
from robusteval.models.entry import Entry
from robusteval.models.loading import load_model, read_weights
from robusteval.training import train  # noqa: F401 - it registers every recipe
from robusteval.training.recipe import RECIPES, Recipe


@dataclass(frozen=True)
class OwnLoss:
    """The loss of a batch (a scalar) at the last epoch, by the recipe that made the weights.

    The network stays in eval mode, and images as they are: nothing is augmented.
    """

    adapter: PrototypeAdapter
    recipe: Recipe
    epoch: int

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        network = self.adapter.module
        loss, _ = self.recipe.loss(network, network.activations(images), labels, self.epoch)
        return loss


def open_model(entry: Entry, device: str = "cpu", allow_code: bool = False) -> Adapter:
    """The entry's trained model, as ``load_model`` gives it, with its own loss where that is known.

    It is unknown where the entry has no [training], where a part of the loss isn't in the weights
    (PCL's repulsion centres), where it is of pairs of images, and where the model is read otherwise
    than it was trained.
    """
    model = load_model(entry, device, allow_code)
    settings = entry.training
    if settings is None or not isinstance(model, PrototypeAdapter) or entry.factory is not None:
        return model
    if settings.recipe in RECIPES and not _is_read_otherwise(model, entry):
        recipe = _trained(RECIPES.get(settings.recipe), model, entry)
        if recipe is not None:
            model.own_loss = OwnLoss(model, recipe, settings.total_epochs - 1)
    return model


def _trained(kind: type[Recipe], model: PrototypeAdapter, entry: Entry) -> Recipe | None:
    """A recipe for a network that it has trained; None where its loss can't be had any more."""
    assert entry.training is not None, "the caller looked"
    try:
        recipe = kind(model.module, entry.training, trained=True)
    except TrainingError:  # of an entry that was changed since, or that nobody could train
        return None
    return recipe if recipe.is_stored else None


def _is_read_otherwise(model: PrototypeAdapter, entry: Entry) -> bool:
    """Whether the weights have a classifier that the model doesn't read."""
    if model.module.classifier is not None:
        return False
    return any(name.startswith("classifier.") for name in read_weights(entry))
