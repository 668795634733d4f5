"""What an attack gives back: images, what each of its stages broke, and what it warns of."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class AttackResult:
    """Adversarial images, and what the library told and warned of on the way."""

    images: Tensor
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
