"""The tables of a model's entry, each with its own checks.  Imports no torch."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from robusteval.models.head import LARGEST, OwnReading, Pooling, Similarity
from robusteval.schema import STRICT, Eps
from robusteval.types import Norm, ThreatModel, parse_eps, parse_float

CHECKPOINT = ".pt"  # how a checkpoint of torch ends, as RobustBench keeps them
SAFETENSORS = "weights are safetensors files: no pickle is ever loaded"
_MOST_EPOCHS = 100_000


class Table(BaseModel):
    model_config = STRICT


class Paper(Table):
    """Where the method was published."""

    title: str
    authors: str = ""
    year: int | None = None
    arxiv: str = ""


class Input(Table):
    """Per-channel mean and standard deviation that the network was trained with."""

    mean: list[float]
    std: list[float]

    @model_validator(mode="after")
    def _same_length(self) -> "Input":
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError("mean and std need one number per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        if max(map(abs, [*self.mean, *self.std])) > LARGEST or min(self.std) < 1 / LARGEST:
            raise ValueError("mean and std are of pixels from 0 to 1: give them in these units")
        return self


class BackboneTable(Table):
    """A backbone by name, with its own options beside it."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _a_sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("needs 64 hex digits in small letters, as `sha256sum` prints them")
    return value


def _safetensors(value: str) -> str:
    if not value.endswith(".safetensors"):
        raise ValueError(SAFETENSORS)
    return value


def _weights_file(value: str) -> str:
    return value if value.endswith(CHECKPOINT) else _safetensors(value)


Sha256 = Annotated[str, AfterValidator(_a_sha256)]
File = Annotated[str, AfterValidator(_safetensors)]


class Weights(Table):
    """A safetensors file beside the entry, and its SHA-256.

    Only a model of RobustBench, which no file describes, may have a checkpoint of torch instead.
    """

    file: Annotated[str, AfterValidator(_weights_file)]
    sha256: Sha256


class Prototypes(Table):
    """Prototypes (K, M, D) or (K, D) beside what a factory makes: see ``models.own.OwnPrototypes``.

    ``tensor``: their name, in ``file`` (safetensors beside the entry, with its ``sha256``), else in
    the entry's weights, else among the module's own parameters and buffers.  ``features``: a
    layer's name; left out where the module returns features itself.
    """

    tensor: str
    file: File | None = None
    sha256: Sha256 | None = None
    features: str | None = None
    similarity: Similarity = "sql2"
    pooling: Pooling = "max"
    temperature: float = Field(default=1.0, ge=1 / LARGEST, le=LARGEST)
    reading: OwnReading = "module"

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if (self.file is None) != (self.sha256 is None):
            raise ValueError("file and sha256 go together: give both or neither")
        return self


class Onnx(Table):
    """An ONNX file beside the entry, network and weights in one, and its SHA-256."""

    file: str
    sha256: Annotated[str, AfterValidator(_a_sha256)]

    @field_validator("file")
    @classmethod
    def _an_onnx_name(cls, value: str) -> str:
        if not value.endswith(".onnx"):
            raise ValueError("does not name an ONNX file, which ends in .onnx")
        return value


class Claim(Table):
    """What the paper reports: accuracy in percent under one attack.

    Also as text with its sign, such as "0.28 %", which one percent and less needs in a file.

    ``by``: the ``paper``; or its ``protocol``, where the paper has no number on the data set: what
    the attacks that it evaluates with leave of these very weights, measured by this project.  Such
    a claim stands in the model's own reports, and in no table of what papers claim.

    ``settings`` and ``times_eps``: of the paper's attack, by the names that its suite has for them,
    the latter as multiples of ε; ``restarts`` are settings, too.  An attack of that name with other
    ones is not compared.  A claim without norm and eps, of an attack that knows no ε, counts images
    at any distance.
    """

    attack: str
    accuracy: float = Field(ge=0, le=100)
    norm: Norm | None = None
    eps: Eps | None = None
    source: str = ""
    note: str = ""
    by: Literal["paper", "protocol"] = "paper"
    settings: dict[str, int | float | bool | str] = {}
    times_eps: dict[str, Eps] = {}

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if both := sorted(self.settings.keys() & self.times_eps.keys()):
            raise ValueError(f"settings and times_eps both have {', '.join(both)}: leave one out")
        return self

    @field_validator("accuracy", mode="before")
    @classmethod
    def _without_its_sign(cls, value: Any) -> Any:
        """As a number, where it is text with or without its sign."""
        if not isinstance(value, str):
            return value
        try:
            return parse_float(value.strip().removesuffix("%").strip())
        except (TypeError, ValueError):
            return value


# What an attack of adversarial training doesn't read.
_UNREAD = {
    "fgsm": {"steps", "step_size", "replays"},
    "pgd": {"replays"},
    "fast": {"steps", "replays"},
    "free": {"steps", "with_clean"},
}


class Adversarial(Table):
    """Adversarial training: images crafted with ε drawn uniformly from ``eps``.

    ``fast`` is one step from a random start, ``free`` replays each batch and steps image and
    weights at once; see ``robusteval.training.adversarial``.
    """

    attack: Literal["fgsm", "pgd", "fast", "free"]
    eps: Annotated[tuple[Eps, Eps], Field(strict=False)]
    steps: int = Field(default=1, ge=1, le=10_000)
    step_size: float = Field(default=1.0, gt=0, description="as a share of ε")
    with_clean: bool = Field(default=True, description="clean images beside the crafted ones")
    replays: int = Field(
        default=8, ge=1, le=10_000, description="of each batch, where the attack is free"
    )

    @field_validator("eps")
    @classmethod
    def _ordered(cls, value: tuple[str, str]) -> tuple[str, str]:
        low, high = (ThreatModel("Linf", parse_eps(eps)) for eps in value)
        if low.eps > high.eps:
            raise ValueError("eps goes from the smaller to the larger")
        return value

    @model_validator(mode="after")
    def _all_is_read(self) -> Self:
        changed = {k for k, f in type(self).model_fields.items() if getattr(self, k) != f.default}
        if unread := sorted(_UNREAD[self.attack] & changed):
            raise ValueError(f"{self.attack} doesn't read {', '.join(unread)}: leave it out")
        return self


class Training(Table):
    """What ``robusteval train`` does."""

    recipe: str
    epochs: int = Field(ge=1, le=_MOST_EPOCHS)
    warmup_epochs: int = Field(
        default=0,
        ge=0,
        le=_MOST_EPOCHS,
        description="on clean images, before adversarial training; in PCL, before centres (its T')",
    )
    batch_size: int = Field(default=128, ge=2, le=100_000)
    lr: float = Field(gt=0)
    warmup_lr: float | None = Field(default=None, gt=0)
    schedule: Literal["one_cycle", "cyclic", "steps"] = "one_cycle"
    milestones: list[int] = []
    lowest_lr: float | None = Field(
        default=None, gt=0, description="below which one_cycle and cyclic never fall; else lr/1000"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    augment: list[Literal["crop", "flip"]] = []
    crop_padding: int = Field(default=4, ge=1, le=256)
    validation: int = Field(ge=1)
    samples: int | None = Field(
        default=None, ge=2, description="of the images beside validation, class-balanced; else all"
    )
    share: float | None = Field(
        default=None, gt=0, le=1, description="the same as a share of the images beside validation"
    )
    seed: int = Field(default=0, ge=0, lt=2**32)
    options: dict[str, float | str | bool | list[float]] = {}
    adversarial: Adversarial | None = None
    stopping_eps: Eps | None = Field(
        default=None,
        description="choose the epoch by accuracy under PGD at this ε (early stopping on "
        "robustness); in adversarial training its own largest ε unless given",
    )

    @field_validator("stopping_eps")
    @classmethod
    def _in_the_range_of_pixels(cls, value: str | None) -> str | None:
        if value is not None:
            ThreatModel("Linf", parse_eps(value))
        return value

    @model_validator(mode="after")
    def _milestones_are_read(self) -> Self:
        if self.milestones and self.schedule != "steps":
            raise ValueError('milestones need schedule = "steps"')
        if self.lowest_lr is not None and (self.schedule == "steps" or self.lowest_lr > self.lr):
            raise ValueError("lowest_lr is at most lr, and goes with one_cycle and cyclic")
        if self.samples is not None and self.share is not None:
            raise ValueError("samples and share say the same: give one of them")
        return self

    @property
    def identity(self) -> str:
        """All settings as text; younger ones only where they are given, so that trainings which
        began without them go on."""
        younger = {"samples", "share", "lowest_lr"}
        return self.model_dump_json(
            exclude={name for name in younger if getattr(self, name) is None}
        )

    @property
    def kind(self) -> str:
        """In a word: "standard", or such as "PGD at 8/255"."""
        if (chosen := self.adversarial) is None:
            return "standard"
        low, high = chosen.eps
        name = chosen.attack.upper() if chosen.attack in ("pgd", "fgsm") else chosen.attack.title()
        return f"{name} at {high}" if low == high else f"{name} at {low} to {high}"

    @property
    def total_epochs(self) -> int:
        return self.warmup_epochs + self.epochs


class Trained(Table):
    """What was really trained; written by ``robusteval train``.

    ``validation_robust``: under ten steps of PGD, where that chose the epoch.  ``samples``: how
    many images it was trained on, where not on all beside the validation part.
    ``prototypes_left``: how many different ones the stored weights hold of each class, where a
    class may have several.
    """

    seed: int
    epochs: int
    best_epoch: int
    seconds: float
    hardware: str
    precision: str
    commit: str
    date: str
    validation_accuracy: float
    validation_robust: float | None = None
    clean_accuracy: float
    clean_correct: int
    clean_total: int
    samples: int | None = None
    prototypes_left: list[int] | None = None
