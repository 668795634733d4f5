"""The control: noise that knows nothing of the model."""

import torch
from torch import Tensor

from robusteval.attacks.counting import as_counted
from robusteval.attacks.inputs import attack
from robusteval.attacks.ours import ROBUSTEVAL
from robusteval.attacks.ranges import COUNT, require_within
from robusteval.attacks.record import ANY_MODEL, BOTH, Attack, defaults_of
from robusteval.attacks.steps import norms, project
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

_RANGES = {"draws": COUNT}


@attack
def gaussian_noise(
    model: Adapter,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    draws: int = 1,
) -> Tensor:
    """The control: noise that knows nothing of the model, and of no paper.

    L∞: N(0, (ε/2)²) per pixel, cut at ε.  L2: a uniform direction of length ε.  Of ``draws``, from
    1 up, the first that breaks its sample, else the last: where there are several, a forward pass
    for each of them; none for a single one.  Raises AttackError for images outside [0, 1].
    """
    require_within("gaussian_noise", {"draws": draws}, _RANGES)
    generator = torch.Generator().manual_seed(seed)
    if len(images) == 0:
        return images
    counted = as_counted(model, images, labels) if draws > 1 else None
    best = images.clone()
    alive = torch.arange(len(images), device=images.device)
    for _ in range(draws):
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        if threat.norm == "L2":
            noise = threat.radius * noise / norms(noise, "L2").view(-1, 1, 1, 1)
        else:
            noise = (threat.radius / 2) * noise
        moved = project(images + noise, images, threat)
        best[alive] = moved[alive]
        if counted is not None and len(alive):
            with torch.no_grad(), counted.attending(alive):
                alive = alive[counted(moved[alive]).argmax(1) == labels[alive]]
    return best


ATTACKS = (
    Attack(
        name="gaussian_noise",
        library=ROBUSTEVAL,
        function=gaussian_noise,
        norms=BOTH,
        knows_eps=True,
        needs=ANY_MODEL,
        gradients="none",
        by_sample=False,
        passes=lambda given, classes: (given["draws"] if given["draws"] > 1 else 0, 0),
        parameters=_RANGES,
        defaults=defaults_of(lambda: gaussian_noise),
        version=1,
    ),
)
