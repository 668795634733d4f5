"""An attack that asks for no gradient: the whole image brighter, or darker, by ε."""

import torch
from torch import Tensor, nn

from robusteval.attacks.ranges import CHANCE
from robusteval.attacks.record import ANY_MODEL, LINF, PLUGIN, Attack, defaults_of
from robusteval.types import ThreatModel


@torch.no_grad()
def brightness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int,
    share: float = 1.0,
) -> Tensor:
    """Images (B, C, H, W) moved by ``share`` of ε, up or down: whichever lowers the label's logit
    more."""
    step = share * threat.radius
    moved = [(images + step).clamp(0, 1), (images - step).clamp(0, 1)]
    left = [model(points).gather(1, labels[:, None])[:, 0] for points in moved]
    return torch.where((left[0] < left[1]).view(-1, 1, 1, 1), *moved)


BRIGHTNESS = Attack(
    name="brightness",
    library=PLUGIN,
    function=brightness,
    norms=LINF,
    knows_eps=True,
    needs=ANY_MODEL,
    gradients="none",
    by_sample=False,
    passes=lambda given, classes: (2, 0),
    parameters={"share": CHANCE},
    defaults=defaults_of(lambda: brightness),
    version=1,
)
