"""``pma``: the Probability Margin Attack, as published; ``adaptive``'s steps come from it."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.attacks.blindness import gradients_needed
from robusteval.attacks.counting import as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.losses import logit_margin, of_class
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import COUNT, require_norms, require_within
from robusteval.attacks.record import ANY_MODEL, LINF, Attack, defaults_of
from robusteval.attacks.search import Objective, Search
from robusteval.attacks.seeding import seeded
from robusteval.attacks.steps import project_fully, random_start
from robusteval.hardware import exact_float32
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

_RANGES = {"steps": COUNT, "restarts": COUNT}
# As in the public code (github.com/OpenTAI/taiadv, commit 5ebd29f,
# taiadv/attacks/White-box/attacks/PMA.py).
_LARGEST = 2.0  # in units of ε: the step that each half's cosine falls from


def _of_probabilities(loss: Callable[[Tensor, Tensor], Tensor]) -> Objective:
    return Objective(lambda seen: loss(F.softmax(seen.logits, 1), seen.labels))


def _other(probabilities: Tensor, labels: Tensor) -> Tensor:
    return logit_margin(probabilities, labels) + of_class(probabilities, labels)


OWN = _of_probabilities(of_class)
LESS_OF_OWN = _of_probabilities(lambda p, labels: -of_class(p, labels))
MORE_OF_OTHER = _of_probabilities(_other)
MARGIN_OF_PROBABILITIES = _of_probabilities(logit_margin)


@attack
def pma(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
) -> Tensor:
    """Adversarial images (B, C, H, W) for images in [0, 1] and labels (B,), in L∞: *Towards
    Million-Scale Adversarial Robustness Evaluation With Stronger Individual Attacks*
    (arXiv:2411.15210), written anew from its public code.

    Two ascents a restart, each from a uniform random start, by signs.  In its second half each
    climbs the margin of probabilities, that of the likeliest wrong class less that of the label;
    in the first half one lowers the label's probability, and the other raises the wrong class's
    (as margin decomposition does, Jiang et al. 2020).  The very first step raises the label's, as
    published.  In each half sizes fall by a cosine from 2ε.  100 ``steps`` are what the public
    code takes where APGD-T follows.  Unlike there, starts are cut to [0, 1].

    A survivor takes ``restarts`` · 2 · (``steps`` + 1) forward passes and ``restarts`` · 2 ·
    ``steps`` backward ones.  Probabilities saturate: where float32 makes the label's 1, there is
    no gradient.  Raises AttackError for another norm, for a model without gradients, and for
    images outside [0, 1].
    """
    require_within("pma", {"steps": steps, "restarts": restarts}, _RANGES)
    require_norms("pma", (threat.norm,), LINF)
    if len(images) == 0:
        return images
    with seeded(seed, images.device):  # a model may draw from the global generators
        counted = as_counted(model, images, labels)
        search = Search(counted, images, labels, threat)
        generator = torch.Generator().manual_seed(seed)
        with counted.led_by(None), gradients_needed(counted, images), exact_float32():
            for _ in range(restarts):
                for first in (LESS_OF_OWN, MORE_OF_OTHER):
                    _ascend(search, first, steps, generator)
    return search.best


def _ascend(search: Search, first: Objective, steps: int, generator: torch.Generator) -> None:
    rows = search.alive()
    points = random_start(search.images[rows], search.threat, generator)
    for step in range(steps):
        if len(rows) == 0:
            return
        slopes = search.gradients(rows, points, _objective(first, step, steps))
        search.keep(rows, points, slopes.margins.double())
        kept = ~search.broken[rows]
        rows, points, gradients = rows[kept], points[kept], slopes.gradients[kept]
        moved = points + _size(step, steps) * search.threat.radius * gradients.sign()
        points = project_fully(moved, search.images[rows], "Linf", search.threat.radius)
    if len(rows):
        search.judge(rows, points)


def _objective(first: Objective, step: int, steps: int) -> Objective:
    if step == 0:
        return OWN
    return first if step < steps / 2 else MARGIN_OF_PROBABILITIES


def _size(step: int, steps: int) -> float:
    """Of a step, in units of ε."""
    half = steps / 2
    after = step - half if step > half else step
    return _LARGEST * 0.5 * (1 + math.cos((after - 1) / half * math.pi))


ATTACKS = (
    Attack(
        name="pma",
        library=ROBUSTEVAL,
        function=pma,
        norms=LINF,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="uses",
        by_sample=True,
        passes=lambda given, classes: (
            2 * given["restarts"] * (given["steps"] + 1),
            2 * given["restarts"] * given["steps"],
        ),
        parameters=_RANGES,
        defaults=defaults_of(lambda: pma),
        version=1,
    ),
)
