"""Adversarials of another model: gradients are the source's, the word on success is this one's."""

import torch
from torch import Tensor, nn

from robusteval.attacks.blindness import NO_GRADIENT, reaches_images
from robusteval.attacks.counting import as_adapter, as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import COUNT, Range, require_within
from robusteval.attacks.ranking import ranked_classes
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack, defaults_of
from robusteval.attacks.search import AIMED, MARGIN, Search, cosine
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import random_start
from robusteval.errors import AttackError, kind_of, reason
from robusteval.models.adapter import Adapter
from robusteval.models.loading import load_model
from robusteval.models.registry import find_entry
from robusteval.types import ThreatModel

_RANGES = {"steps": COUNT, "source": Range(bool, "a model's name, or a module", object)}


@attack
def transfer(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    source: str | nn.Module,
    steps: int = 50,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1], found by a source's gradients.

    ``source``: a model of the registry, or any module with the same images and classes; ``steps``
    from 1 up.  Steps with momentum (after Dong et al. 2018; what is added up here are unit steps,
    in L∞ signs) on its logit margin from the clean images, then from random starts towards the
    class that this model itself ranks next.  Both are looked at by this model wherever the source
    is fooled, by mean logits if its outputs change.  At most 2 · ``steps`` forward and backward
    passes of the source, and as many forward ones of this model, and seven to look for randomness,
    to rank classes and to look at the last images; of both eight times as many where this model's
    outputs change, and up to 264 to look at a success.  Raises AttackError for a source that
    doesn't fit, for images outside [0, 1], for logits that are NaN or infinite, and in inference
    mode.
    """
    require_within("transfer", {"steps": steps}, _RANGES)
    if not isinstance(source, str | nn.Module):
        raise AttackError(f"the source is {kind_of(source)}: pass a model's name, or a module")
    if len(images) == 0:
        return images
    with seeded(seed, images.device):  # a model may draw from the global generators
        return _transferred(model, images, labels, threat, seed, source, steps)


def _transferred(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    seed: int,
    source: str | nn.Module,
    steps: int,
) -> Tensor:
    counted = as_counted(model, images, labels)
    other = (
        load_model(find_entry(source), str(images.device)) if isinstance(source, str) else source
    )
    search = Search(counted, images, labels, threat)
    search.beware()
    with counted.led_by(source_adapter(other, images, counted.classes)):
        everything = search.alive()
        search.ascend(everything, images, MARGIN, cosine(threat.radius, steps), momentum=1.0)
        rows = search.alive()
        if len(rows):
            generator = torch.Generator().manual_seed(seed)
            start = random_start(images[rows], threat, generator)
            targets = ranked_classes(search, rows, images[rows])[:, 0]
            schedule = cosine(threat.radius, steps)
            search.ascend(rows, start, AIMED, schedule, momentum=1.0, targets=targets)
    return search.best


def source_adapter(
    source: nn.Module, images: Tensor, classes: int, called: str = "transfer's source"
) -> Adapter:
    """The source behind an adapter.  Raises AttackError where it doesn't fit."""
    try:
        adapter = as_adapter(source, images)
        with torch.no_grad():
            found = adapter(images[:1]).shape[1]
    except (AttackError, RuntimeError, ValueError, IndexError) as error:
        raise AttackError(
            f"the {called} can't read these images ({reason(error)}): choose one for the same data"
        ) from None
    if found != classes:
        raise AttackError(
            f"the {called} has {found} classes, the model {classes}: choose one for the same data"
        )
    if not reaches_images(adapter, images):
        raise AttackError(f"the {called} can't lead: {NO_GRADIENT}")
    return adapter


ATTACKS = (
    Attack(
        name="transfer",
        library=ROBUSTEVAL,
        function=transfer,
        norms=BOTH,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="both",  # another model's
        by_sample=True,
        # By its source, and by the model itself.
        passes=lambda given, classes: (4 * given["steps"], 2 * given["steps"]),
        parameters=_RANGES,
        defaults=defaults_of(lambda: transfer),
        version=1,
    ),
)
