"""``adaptive``: an ordered cascade on survivors (see ``cascade``), as an attack."""

import warnings

from torch import Tensor, nn

from robusteval.attacks.cascade import Cascade
from robusteval.attacks.counting import as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import require_within, whole
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack, Parameters, defaults_of
from robusteval.attacks.results import AttackResult, said
from robusteval.attacks.seeding import seeded
from robusteval.types import ThreatModel

_RANGES = {"passes_per_sample": whole(3)}


def adaptive(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes_per_sample: int = 400,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1] and labels (B,), in L∞ or L2.

    ``model``: an adapter, or any module from such images to logits (B, K), K from 2 up.  Raises
    AttackError for images outside [0, 1], for a module with a single logit, for logits that are NaN
    or infinite, and in inference mode.  ``passes_per_sample``, from 3 up (hundreds are of use): the
    budget for each sample that survives, on average, a backward pass counted as two, with the
    passes that look for masking; samples that break earlier cost less.  Some 44 forward passes for
    gradient-free queries on 16 samples of a batch come on top, and so does what masked models get.
    Where fewer than a quarter survive, they share the budget of the whole batch, each up to
    tenfold: the model is easily broken, and strength alone counts.  A model whose outputs change
    gets eight times as many, since each gradient is a mean of eight.  Less is spent where 1.25
    ascents towards classes (0.6 towards the one wrong class of two) for each pass of the budget
    have broken nothing, one after the other; groups of fewer than 32 samples count as 32.
    Returns the first image that broke a sample, else the one with the largest margin; warns where
    gradients look masked or outputs change (of few images a small share may look so by chance).

    The cascade is this project's own, and has no paper.  The margin is that of Carlini and Wagner
    (2017, their f6) without its floor; PMA (arXiv:2411.15210) takes the same steps on the margin of
    probabilities, which can saturate.  Targeted, it is the difference of two logits, as in FAB-T
    (Croce and Hein 2020).
    """
    parameters = {"seed": seed, "passes_per_sample": passes_per_sample}
    found = adaptive_result(model, images, labels, threat, **parameters)
    for warned in found.warned:
        warnings.warn(said(warned), stacklevel=2)
    return found.images


@attack
def adaptive_result(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passes_per_sample: int = 400,
) -> AttackResult:
    """``adaptive``, with what each of its stages broke."""
    require_within("adaptive", {"passes_per_sample": passes_per_sample}, _RANGES)
    if len(images) == 0:
        return AttackResult(images)
    with seeded(seed, images.device):  # a model may draw from the global generators
        counted = as_counted(model, images, labels)
        return Cascade(counted, images, labels, threat, seed, passes_per_sample).run()


def _passes(given: Parameters, classes: int) -> tuple[int, int]:
    """A backward pass counts as two; random search takes none, nor do the queries on top."""
    budget = given["passes_per_sample"]
    return budget + 44, budget // 3


ATTACKS = (
    Attack(
        name="adaptive",
        library=ROBUSTEVAL,
        function=adaptive_result,
        norms=BOTH,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="both",
        by_sample=True,
        passes=_passes,
        parameters=_RANGES,
        defaults=defaults_of(lambda: adaptive_result),
        version=3,
    ),
)
