"""What counts: every adversarial image is projected, predicted again and measured here.

Success is decided by the float32 model alone, on the image as it stands, in the ε-ball and in
[0, 1].  No attack's word is taken.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robusteval.attacks.losses import logit_margin, require_finite
from robusteval.attacks.steps import norms, project
from robusteval.errors import AttackError, RobustevalError, reason
from robusteval.hardware import is_out_of_memory
from robusteval.models.adapter import Adapter
from robusteval.types import ThreatModel

TOLERANCE = 1e-6  # float32 pixels ± ε overshoot ε by up to 2.8e-8; see ThreatModel
NEAR_TIE = 1e-5  # of the logits' spread: what float32 kernels' rounding may turn
VERIFY_BATCH = 64  # another batch size than the attack's: kernels differ with it


def near_tie(spreads: Any) -> float:
    """The gap between two logits up to which a prediction is nearly a tie.

    ``spreads`` (N,): of clean samples, between the largest and the smallest logit.  Logits of any
    scale give the same ties.
    """
    return float(NEAR_TIE * np.median(spreads)) if len(spreads) else 0.0


@dataclass(frozen=True)
class Judged:
    """What holds of a batch of adversarial images; every tensor is (B,), on the CPU."""

    fooled: Tensor  # bool: mispredicted, in [0, 1]; in the ball too, where the attack knows ε
    prediction: Tensor  # int64
    margin: Tensor  # float32: largest wrong logit less the label's
    norm: Tensor  # float64: of the perturbation, in the threat's norm
    survives_8_bit: Tensor  # bool: still mispredicted after rounding to 8 bits

    def replaced(self, rows: Tensor, other: "Judged", chosen: Tensor) -> "Judged":
        """With ``rows`` taken from the ``chosen`` samples of another judgement."""
        merged = {}
        for name, values in self.__dict__.items():
            merged[name] = values.clone()
            merged[name][rows] = getattr(other, name)[chosen]
        return Judged(**merged)


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = VERIFY_BATCH
) -> Tensor:
    """Logits (B, K), or what else ``model`` gives, in float32, at the verifier's own batch size,
    halved where memory ends."""
    try:
        return torch.cat([model(part.contiguous()).float() for part in images.split(batch_size)])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or batch_size == 1:
            raise
    return predict(model, images, batch_size // 2)


def predict_again(model: Adapter, images: Tensor, batch_size: int) -> Tensor:
    """``predict`` outside of jobs, which tell by themselves why they fail.

    Raises AttackError where the model fails: foreign code may raise anything, and at any pass.
    """
    try:
        return predict(model, images, batch_size)
    except RobustevalError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        raise AttackError(
            f"the model fails on images that are predicted again ({type(error).__name__}: "
            f"{reason(error)}): mend it, and run the same command again: what was finished is kept"
        ) from None


def in_threat(images: Tensor, clean: Tensor, threat: ThreatModel | None) -> Tensor:
    """What an attack returned, put in the ball, where ε was known, and in [0, 1].

    Raises AttackError for an image of another shape or with values that are not finite.
    """
    if images.shape != clean.shape:
        raise AttackError(f"returned shape {tuple(images.shape)} for {tuple(clean.shape)}")
    if not torch.isfinite(images).all():
        bad = int((~torch.isfinite(images).flatten(1).all(1)).sum())
        raise AttackError(f"returned NaN or infinite pixels in {bad} of {len(images)} images")
    images = images.detach().to(clean.dtype)
    return images.clamp(0, 1) if threat is None else project(images, clean, threat)


def judge(
    model: Adapter, images: Tensor, clean: Tensor, labels: Tensor, threat: ThreatModel, bound: bool
) -> Judged:
    """Predicts counted images again and measures them in float64.

    ``bound``: an image outside the threat's ball is no success.
    """
    logits = predict(model, images)
    require_finite(logits)
    prediction = logits.argmax(1)
    distance = norms(images.double() - clean.double(), threat.norm)
    in_range = ((images >= 0) & (images <= 1)).flatten(1).all(1)
    fooled = (prediction != labels) & in_range
    if bound:
        fooled &= distance <= threat.radius + TOLERANCE
    survives = torch.zeros_like(fooled)
    if fooled.any():
        rounded = predict(model, to_8_bits(images[fooled])).argmax(1)
        survives[fooled] = rounded != labels[fooled]
    return Judged(
        fooled.cpu(),
        prediction.cpu(),
        logit_margin(logits, labels).cpu(),
        distance.cpu(),
        survives.cpu(),
    )


def success(rows: Mapping[str, Any], threat: ThreatModel) -> Any:
    """The rows of an attack's evidence that it broke within a threat model: bool (B,)."""
    if "fooled" not in rows:  # an attack on a chunk without a correct sample
        return np.zeros(len(rows["label"]), bool)
    return rows["fooled"] & (rows["norm"] <= threat.radius + TOLERANCE)


def first_successes(
    threats: Sequence[Sequence[ThreatModel]], broke: Callable[[int, ThreatModel], Any]
) -> Any:
    """The rows whose first success under a threat model is the last attack's: bool (B,).

    ``threats``: each attack's, in the suite's order, up to that one.  ``broke``: the rows that the
    attack at a place broke within a threat model.
    """
    last = len(threats) - 1
    first: Any = False
    for threat in threats[last]:
        mine = broke(last, threat)
        for place in range(last):
            if threat in threats[place] and mine.any():
                mine = mine & ~broke(place, threat)
        first = first | mine
    return first


def to_8_bits(images: Tensor) -> Tensor:
    """Rounded to the nearest of 256 levels, as a file format would."""
    return (images * 255).round() / 255


def state_digest(model: nn.Module) -> str:
    """SHA-256 over parameters and buffers, and what an adapter adds to them: an attack must leave
    it as it was."""
    digest = hashlib.sha256()
    if isinstance(model, Adapter):
        digest.update(model.fingerprint.encode())
    # Buffers by name, since those that are not saved (an input's mean, say) decide outputs too.
    for name, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(name.encode())
        # As bytes, since numpy doesn't know all of torch's types.
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
