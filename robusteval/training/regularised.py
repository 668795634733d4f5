"""What adversarial training is compared with: TRADES, and input-gradient regularisation.

``trades``: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy"
(2019), their eq. 5: cross-entropy on clean images + β · KL(f(x) ‖ f(x')), where x' is crafted to
raise that divergence, by what ``[training.adversarial]`` says and beside the clean images.  PGD
starts at random in the ball here; the authors' starts at 0.001 of normal noise.  ``options``:
``beta`` (6).

``input_gradient``: Ross and Doshi-Velez, "Improving the Adversarial Robustness and Interpretability
of Deep Neural Networks by Regularizing their Input Gradients" (2018), their eq. 3:
cross-entropy + λ Σ_d (∂CE/∂x_d)², averaged over the batch, by a second pass backward.  Pixels are
in [0, 1].  ``options``: ``weight`` is λ (1).
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robusteval.errors import TrainingError
from robusteval.models.network import PrototypeNetwork
from robusteval.training.baselines import CrossEntropy
from robusteval.training.recipe import RECIPES, Option, is_paired


def divergence(clean: Tensor, crafted: Tensor) -> Tensor:
    """KL(p ‖ q) of the classes' probabilities at logits (B, K), averaged over the batch."""
    return F.kl_div(
        crafted.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True
    )


class TRADES(CrossEntropy):
    """Clean images for accuracy; crafted ones for staying at the same answer."""

    defaults: ClassVar[dict[str, Option]] = {"beta": 6.0}
    crafts_from_logits = True

    def prepare(self, network: PrototypeNetwork) -> None:
        chosen = self.settings.adversarial
        if chosen is None or not chosen.with_clean or chosen.attack in ("free", "fgsm"):
            raise TrainingError(
                "TRADES needs [training.adversarial] with_clean, by an attack that starts at "
                "random: pgd or fast"
            )

    @property
    def is_stored(self) -> bool:
        return False  # it is of clean and crafted images, beside each other

    def loss(
        self, network: PrototypeNetwork, layers: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        logits = network.logits(layers)
        if not is_paired(labels):  # an epoch on clean images alone
            return F.cross_entropy(logits, labels), logits
        clean, crafted = logits.chunk(2)
        loss = F.cross_entropy(clean, labels.chunk(2)[0])
        return loss + self.number("beta") * divergence(clean, crafted), logits

    def crafting_loss(
        self,
        network: PrototypeNetwork,
        layers: Mapping[str, Tensor],
        labels: Tensor,
        epoch: int,
        clean: Tensor | None,
    ) -> Tensor:
        logits = network.logits(layers)
        return divergence(logits.detach() if clean is None else clean, logits)


class InputGradient(CrossEntropy):
    """Cross-entropy whose slope at the image is small."""

    defaults: ClassVar[dict[str, Option]] = {"weight": 1.0}
    differentiates_twice = True

    @property
    def is_stored(self) -> bool:
        return False  # the penalty is left out of ``loss``

    def penalty(self, loss: Tensor, images: Tensor) -> Tensor:
        (slopes,) = torch.autograd.grad(len(images) * loss, images, create_graph=True)
        return self.number("weight") * slopes.square().flatten(1).sum(1).mean()


RECIPES.add("trades", TRADES)
RECIPES.add("input_gradient", InputGradient)
