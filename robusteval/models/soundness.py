"""Whether a model answers as an adapter should, tried before anything is measured."""

import torch
from torch import Tensor, nn

from robusteval.errors import AttackError, RobustevalError, reason
from robusteval.models.adapter import Adapter
from robusteval.models.answers import answer, as_logits


def require_answers(module: nn.Module, images: Tensor, classes: int | None = None) -> int:
    """How many classes a foreign module tells apart.

    Raises AttackError where it can't read ``images`` (B, C, H, W), B from 1 up, or returns no
    logits (B, K), be it for one image alone or for two; and for an adapter whose distances to
    prototypes are none.
    """
    if any(p.is_inference() for p in module.parameters()):
        raise AttackError(
            "the module was made in torch.inference_mode(), where no gradient is recorded: make it "
            "outside"
        )
    for some in (images[:1], torch.stack([images[0], images[-1]])):
        try:
            with torch.no_grad():
                logits = as_logits(answer(module, some), len(some), classes)
                if isinstance(module, Adapter) and module.layers:
                    _require_distances(module, some)
        except RobustevalError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may raise anything
            raise AttackError(
                f"the module fails on clean images ({type(error).__name__}: {reason(error)}): "
                f"{_mend(module, images)}"
            ) from None
        if not torch.isfinite(logits).all():
            raise AttackError("the model returns NaN or infinite logits on clean images: mend it")
        classes = logits.shape[1]
    assert classes is not None, "both passes say it"
    return classes


def _require_distances(model: Adapter, images: Tensor) -> None:
    """Raises AttackError for an adapter that doesn't show its prototypes as it should."""
    _, squared = model.logits_and_distances(images)
    if list(squared) != list(model.layers):
        raise AttackError(
            f"logits_and_distances gives distances of {', '.join(map(str, squared)) or 'no layer'}"
            f", but layers are {', '.join(model.layers)}: give those of each, in that order"
        )
    given = {f"squared distances of {name}": values for name, values in squared.items()}
    for told, values in {**given, "distances": model.distances(images)}.items():
        if values.dim() != 3 or values.shape[:2] != (len(images), model.classes):
            raise AttackError(
                f"{told} are of shape {tuple(values.shape)} for {len(images)} images and "
                f"{model.classes} classes: give (B, K, M), M prototypes for each of K classes"
            )
    if (features := model.embed(images)).dim() != 2 or len(features) != len(images):
        raise AttackError(
            f"embed gives shape {tuple(features.shape)} for {len(images)} images: give (B, D)"
        )


def _mend(module: nn.Module, images: Tensor) -> str:
    """What to do where a module fails: as a rule images and weights differ in type."""
    kinds = [p.dtype for p in module.parameters() if p.is_floating_point()]
    if not kinds or images.dtype in kinds:
        return "mend it"
    weights, pixels = (str(kind).removeprefix("torch.") for kind in (kinds[0], images.dtype))
    return f"its weights are {weights}, the images {pixels}, so give both one type"
