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
from robusteval.attacks.transfer import source_adapter
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
    surrogate: nn.Module | None = None,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1] and labels (B,), in L∞ or L2.

    Each is the first image that broke its sample, or, if none did, the one with the largest margin.

    - ``model``: an adapter, or any module from such images to logits (B, K), K from 2 up.
    - ``passes_per_sample``: the budget of passes for each sample that survives, on average.  It is
      3 or more; hundreds are of use.  A backward pass counts as two.  A sample that breaks early
      costs less.
    - ``surrogate``: any module with the same images and classes.  Its gradients lead after the
      model's own, on a second budget; success stays the model's word.

    In these cases another number of passes is made:

    - Some 44 forward passes for gradient-free queries, on 16 samples of a batch, come on top, and
      so do the stages for masked gradients.
    - A look whether the margin is linear on pieces takes 7 to 13 on up to 32 samples of a batch,
      on top.
    - If fewer than a quarter of a batch survive, they share the whole batch's budget, each up to
      ten times its own.
    - If the model's outputs change between passes, the budget is eight times as large, because each
      gradient is a mean of eight.  Up to 256 fresh passes confirm a success.
    - The attack ends early after 1.25 ascents towards classes for each pass of the budget (2.5 in
      L2; 0.6, if there is one wrong class) that broke nothing, one after the other.  A group of
      fewer than 32 samples counts as 32.

    Version 3 follows gradients straight through what stops them, sees through squashed outputs,
    and goes on at a zero gradient.  On random models fresh passes confirm a success.  In L∞ it also
    climbs along gradients themselves.  In L2 it also climbs inside the ball, and starts from what
    broke similar samples of the batch.  In version 4, in L2, balls also shrink around whatever
    breaks a sample: after 750 passes a survivor, and where gradients look masked.  In version 5
    queries say nothing of masking before gradients had two passes for each of them.  Version 6
    follows cutting planes where the margin is linear on pieces (see ``pieces``), and goes by all
    members of a vote, also where the first always agrees with it; elsewhere it is as version 5.
    Version 7 spends what is left of a budget on fewer samples where it is too little for many.
    Version 8 goes by the model's own gradients first where a surrogate is given.  Where nothing
    has a gradient it searches at random in L2, too.  Elsewhere it is as version 7.  Version 9 goes
    by what has gradients from the first step where no sample has one of the model's own.
    Elsewhere it is as version 8.  Version 10 goes on from the best image of each ascent where
    another model's gradients lead, and not from its last.  Version 11 also follows pieces where
    outputs are distances that are not squared, their logarithms or kernels (see ``readings``), and
    goes on the logits that outputs are one bent function of.  Elsewhere both are as version 9.

    Warns if gradients look masked, or outputs change.  Of few images, a small share may look so by
    chance.  Raises AttackError for images outside [0, 1], for a module with a single logit, for
    logits that are NaN or infinite, and in inference mode.

    The cascade is this project's own, and has no paper.  The margin is that of Carlini and Wagner
    (2017, their f6) without its floor; PMA (arXiv:2411.15210) takes the same steps on the margin of
    probabilities, which can saturate.  Targeted, it is the difference of two logits, as in FAB-T
    (Croce and Hein 2020).  Ascents through larger balls, here in L2, are the idea of Constraint
    Relaxation (AAAI 2025; see ``cr``).
    """
    found = adaptive_result(
        model,
        images,
        labels,
        threat,
        seed=seed,
        passes_per_sample=passes_per_sample,
        surrogate=surrogate,
    )
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
    surrogate: nn.Module | None = None,
) -> AttackResult:
    """The same as ``adaptive``, with what each of its stages broke."""
    require_within("adaptive", {"passes_per_sample": passes_per_sample}, _RANGES)
    if len(images) == 0:
        return AttackResult(images)
    with seeded(seed, images.device):  # a model may draw from the global generators
        counted = as_counted(model, images, labels)
        if surrogate is not None:
            counted.surrogate = source_adapter(surrogate, images, counted.classes, "surrogate")
        return Cascade(counted, images, labels, threat, seed, passes_per_sample).run()


def _passes(given: Parameters, classes: int) -> tuple[int, int]:
    """A backward pass counts as two; random search takes none, nor do the queries on top."""
    budget = given["passes_per_sample"]
    return budget + 51, budget // 3


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
        version=11,
    ),
)
