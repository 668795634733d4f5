"""What is known of a detector: one record for each, whether ours, a library's or a plug-in's."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
from torch import Tensor

from robusteval.errors import AttackError, ScoreError, kind_of, shown
from robusteval.models.adapter import Adapter

Reads = Literal["logits", "features", "images"]
State = Mapping[str, Tensor]
Fit = Callable[[Adapter, Tensor, Tensor], State]
Score = Callable[[State, Adapter, Tensor], Tensor]

OURS, PYTORCH_OOD = "robusteval", "pytorch-ood"
PLUGIN = ""  # what a plug-in's record says of its package; its own takes the place
# What a state can be made of: these mean the same in NumPy, and so on disk.
_STORED = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.bool)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One detector.  No field has a default: what nobody stated would be taken for true.

    - ``package``: the package whose version decides the scores.
    - ``reads``: what both functions are given of N images: the model's ``logits`` (N, K), its
      ``features`` (N, D) as the adapter's ``embed`` gives them, or the ``images`` (N, C, H, W).
    - ``fit_read(model, read, labels)``: makes a state, which is tensors by name, from training data
      and their labels (N,).  None for a detector that isn't fitted.
    - ``score_read(state, model, read)``: scores (N,), **higher = more in-distribution**.  The state
      is empty if there is no fit.
    - ``version``: raised whenever what the detector returns changes.

    pytorch-ood calls the functions ``fit_features`` and ``predict_features``, and its scores are
    lower for inliers.
    """

    name: str
    package: str
    reads: Reads
    needs_prototypes: bool
    fit_read: Fit | None
    score_read: Score
    version: int

    @property
    def needs_training_data(self) -> bool:
        """Whether it has to be fitted before it can score."""
        return self.fit_read is not None

    @property
    def package_version(self) -> str:
        """The installed version.  Raises AttackError if the package isn't installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            raise AttackError(
                f"{self.package} is not installed: pip install {self.package}"
            ) from None

    def read(self, model: Adapter, images: Tensor) -> Tensor:
        """What the detector reads of images (B, C, H, W)."""
        if self.reads == "logits":
            logits: Tensor = model(images)
            return logits
        return model.embed(images) if self.reads == "features" else images

    @torch.no_grad()
    def fit(self, model: Adapter, batches: Iterable[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Fits to all batches' images and their labels (N,), and returns the state on the CPU.

        Raises ValueError or TypeError for a state that can't be stored.
        """
        if self.fit_read is None:
            return {}
        read = torch.cat([self.read(model, images) for images in batches])
        return stored_form(self.fit_read(model, read, labels))

    def score(self, state: State, model: Adapter, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, C, H, W) in [0, 1].

        Raises AttackError where there is not one for each image, ScoreError for one that is not
        finite.
        """
        found = self.score_read(state, model, self.read(model, images))
        if not isinstance(found, Tensor) or found.shape != (len(images),):
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else kind_of(found)
            raise AttackError(
                f"detector {self.name} returns {what} for {len(images)} images: return a tensor of "
                "one score for each"
            )
        if not torch.isfinite(found).all():
            raise ScoreError(f"detector {self.name} returns scores that are NaN or infinite")
        return found


def stored_form(state: State) -> dict[str, Tensor]:
    """A state as it is stored: dense tensors on the CPU, by name.

    Raises ValueError or TypeError for what is none.
    """
    if not isinstance(state, Mapping) or not state:
        raise TypeError("its state is not a table of tensors, or an empty one")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(f"its state has {kind_of(value)} under {shown(name)}, no tensor")
        if value.dtype not in _STORED:
            raise TypeError(f"its state's {name} is {value.dtype}, which can't be stored")
        if not torch.isfinite(value).all():
            raise ValueError(f"its state's {name} is not finite")
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
