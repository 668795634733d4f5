"""What is known of a detector: one record for each, whether ours, a library's or a plug-in's."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from robusteval.detection.reading import Read, Reads, Shared, count_of, is_finite, joined
from robusteval.errors import AttackError, ScoreError, kind_of, shown
from robusteval.models.adapter import Adapter

State = Mapping[str, Tensor]
Fit = Callable[..., State]
Score = Callable[[State, Adapter, Any], Tensor]

OURS, PYTORCH_OOD = "robusteval", "pytorch-ood"
PLUGIN = ""  # what a plug-in's record says of its package; its own takes the place
# What a state can be made of: these mean the same in NumPy, and so on disk.
_STORED = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.bool)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One detector.  No field has a default: what nobody stated would be taken for true.

    - ``title``: the method's name in its field; ``source``: its paper, with the year.
    - ``package``: the package whose version decides the scores.
    - ``reads``: what both functions are given of N images: the model's ``logits`` (N, K), its
      ``features`` (N, D) as the adapter's ``embed`` gives them, ``both`` as ``Outputs``, squared
      ``distances`` (N, K, M) to the deepest prototypes, or the ``images`` (N, C, H, W).
    - ``needs_prototypes``: whether the model must have some; ``needs_linear_head``: whether
      ``model.linear_head()`` must be one.
    - ``gradient``: whether a score passes its gradient on to the images.  An attack can't follow a
      detector that passes none.
    - ``own_passes``: how many passes an image takes beside the one that all detectors share, a
      backward pass as one more.  0 for what doesn't read images.
    - ``settings``: the hyper-parameters that may be chosen, each a table of numbers; the first is
      the paper's.  Empty where there is nothing to choose.
    - ``fit_read(model, read, labels, **setting)``: makes a state, which is tensors by name, from
      training data and their labels (N,).  None for a detector that isn't fitted.  The numbers of
      the setting stand in the state beside it, by their names.
    - ``score_read(state, model, read)``: scores (N,), **higher = more in-distribution**.  The state
      is empty if there is no fit.
    - ``version``: raised whenever what the detector returns changes.

    pytorch-ood calls the functions ``fit_features`` and ``predict_features``, and its scores are
    lower for inliers.
    """

    name: str
    title: str
    source: str
    package: str
    reads: Reads
    needs_prototypes: bool
    needs_linear_head: bool
    gradient: bool
    own_passes: int
    settings: tuple[Mapping[str, float], ...]
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

    def read(self, model: Adapter, images: Tensor) -> Read:
        """What the detector reads of images (B, C, H, W)."""
        return Shared(model, images).read(self.reads)

    @torch.no_grad()
    def fit(
        self,
        model: Adapter,
        batches: Iterable[Tensor],
        labels: Tensor,
        setting: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Fits to all batches' images and their labels (N,), and returns the state on the CPU.

        ``setting``: one of ``settings``; None for the first.
        Raises ValueError or TypeError for a state that can't be stored.
        """
        if self.fit_read is None:
            return {}
        read = joined([self.read(model, images) for images in batches])
        return stored_form(self.fit_to(model, read, labels, setting))

    @torch.no_grad()
    def fit_to(
        self, model: Adapter, read: Read, labels: Tensor, setting: Mapping[str, float] | None = None
    ) -> State:
        """The state of a fit to what was read of training data, and to their labels (N,).

        Raises ValueError where there are none, or the fit can't be done with them.
        """
        assert self.fit_read is not None, "only asked of those that are fitted"
        if not count_of(read):
            raise ValueError("there are no training samples")
        if not is_finite(read):
            raise ValueError("the model gives NaN or infinity on training data")
        chosen = dict(setting if setting is not None else (*self.settings, {})[0])
        state = self.fit_read(model, read, labels, **chosen)
        if not chosen or not isinstance(state, Mapping):
            return state
        return {**state, **{name: _number(value) for name, value in chosen.items()}}

    def score(self, state: State, model: Adapter, images: Tensor) -> Tensor:
        """Scores (B,) of images (B, C, H, W) in [0, 1].

        Raises AttackError where there is not one for each image, and where the detector wasn't
        fitted; ScoreError for one that is not finite.
        """
        return self.score_of(state, model, self.read(model, images))

    def score_of(self, state: State, model: Adapter, read: Read) -> Tensor:
        """Scores (B,) of what was read of B images.  Raises as ``score`` does."""
        if self.needs_training_data and not state:
            raise AttackError(f"detector {self.name} was not fitted: fit it to training data first")
        if not is_finite(read):
            # Some would lose it on the way, as the largest of others.
            raise ScoreError(
                f"detector {self.name} has scores that are NaN or infinite: so are the model's "
                "outputs"
            )
        count = count_of(read)
        found = self.score_read(state, model, read)
        if not isinstance(found, Tensor) or found.shape != (count,):
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else kind_of(found)
            raise AttackError(
                f"detector {self.name} returns {what} for {count} images: return a tensor of "
                "one score for each"
            )
        if not torch.isfinite(found).all():
            raise ScoreError(f"detector {self.name} returns scores that are NaN or infinite")
        return found


def _number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


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
