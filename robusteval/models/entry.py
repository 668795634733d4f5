"""A model's entry: one TOML file, checked by a schema.  Imports no torch."""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robusteval.catalogue import near_names
from robusteval.errors import (
    EntryError,
    RobustevalError,
    ThreatError,
    UnknownNameError,
    WeightsError,
)
from robusteval.types import Norm, ThreatModel, parse_eps

Similarity = Literal["l2", "sql2", "l1", "linf", "dot", "cosine"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(_Table):
    """Where the method was published."""

    title: str
    authors: str = ""
    year: int | None = None
    arxiv: str = ""


class Input(_Table):
    """Per-channel mean and standard deviation that the network was trained with."""

    mean: list[float]
    std: list[float]

    @model_validator(mode="after")
    def _same_length(self) -> "Input":
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError("mean and std need one number per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class BackboneTable(BaseModel):
    """A backbone by name, with its own options beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Head(_Table):
    """How features become logits; see ``robusteval.models.heads``."""

    reading: Literal["softmax", "nearest_prototype"] = "softmax"
    layers: list[str] = []
    branch_dims: dict[str, int] = {}
    similarity: Similarity = "sql2"
    prototypes_per_class: int = Field(default=1, ge=1)
    pooling: Literal["max", "mean", "logsumexp", "softmax"] = "max"
    temperature: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _readable(self) -> "Head":
        if self.reading == "nearest_prototype" and not self.layers:
            raise ValueError("nearest_prototype needs the layers that carry prototypes")
        if unknown := set(self.branch_dims) - set(self.layers):
            raise ValueError(f"branch_dims names {', '.join(sorted(unknown))}, not in layers")
        return self


class Weights(_Table):
    """A safetensors file beside the entry, and its SHA-256."""

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("file")
    @classmethod
    def _a_plain_name(cls, value: str) -> str:
        if not value.endswith(".safetensors"):
            raise ValueError("weights are safetensors files: no pickle is ever loaded")
        return value


def _a_number(value: str | None) -> str | None:
    """An ε as text, as it was, if it is one."""
    if value is not None:
        parse_eps(value)
    return value


class Claim(_Table):
    """What the paper reports: accuracy in percent under one attack.

    Also as text with its sign, such as "0.28 %", which one percent and less needs in a file.
    """

    attack: str
    accuracy: float = Field(ge=0, le=100)
    norm: Norm | None = None
    eps: str | None = None
    source: str = ""
    note: str = ""

    _eps_is_a_number = field_validator("eps")(_a_number)

    @field_validator("accuracy", mode="before")
    @classmethod
    def _without_its_sign(cls, value: Any) -> Any:
        return value.strip().removesuffix("%").strip() if isinstance(value, str) else value


# What an attack of adversarial training doesn't read.
_UNREAD = {
    "fgsm": {"steps", "step_size", "replays"},
    "pgd": {"replays"},
    "fast": {"steps", "replays"},
    "free": {"steps", "with_clean"},
}


class Adversarial(_Table):
    """Adversarial training: images crafted with ε drawn uniformly from ``eps``.

    ``fast`` is one step from a random start, ``free`` replays each batch and steps image and
    weights at once; see ``robusteval.training.adversarial``.
    """

    attack: Literal["fgsm", "pgd", "fast", "free"]
    eps: tuple[str, str]
    steps: int = Field(default=1, ge=1)
    step_size: float = Field(default=1.0, gt=0, description="as a share of ε")
    with_clean: bool = Field(default=True, description="clean images beside the crafted ones")
    replays: int = Field(default=8, ge=1, description="of each batch, where the attack is free")

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


class Training(_Table):
    """What ``robusteval train`` does."""

    recipe: str
    epochs: int = Field(ge=1)
    warmup_epochs: int = Field(
        default=0,
        ge=0,
        description="on clean images, before adversarial training; in PCL, before centres (its T')",
    )
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(gt=0)
    warmup_lr: float | None = Field(default=None, gt=0)
    schedule: Literal["one_cycle", "cyclic", "steps"] = "one_cycle"
    milestones: list[int] = []
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    augment: list[Literal["crop", "flip"]] = []
    crop_padding: int = Field(default=4, ge=1)
    validation: int = Field(ge=1)
    seed: int = 0
    options: dict[str, float | str | bool] = {}
    adversarial: Adversarial | None = None
    stopping_eps: str | None = Field(
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
        return self

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


class Trained(_Table):
    """What was really trained; written by ``robusteval train``.

    ``validation_robust``: under ten steps of PGD, where that chose the epoch.
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


class Entry(_Table):
    """One model of the registry."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.\-]*$")
    method: str
    dataset: str
    description: str = ""
    license: str = ""
    paper: Paper | None = None
    input: Input
    classes: int | None = Field(default=None, ge=2)
    factory: str | None = None
    backbone: BackboneTable | None = None
    head: Head = Head()
    weights: Weights | None = None
    claims: list[Claim] = []
    training: Training | None = None
    paper_training: dict[str, Any] = {}
    trained: Trained | None = None
    path: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _one_architecture(self) -> Self:
        if (self.backbone is None) == (self.factory is None):
            raise ValueError("give either a [backbone] or a factory")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the model's outputs, its weights' digest with it."""
        decisive = {"factory", "backbone", "head", "input", "classes", "weights"}
        parts = self.model_dump(mode="json", include=decisive)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def weights_path(self) -> Path:
        """Beside the entry; a path in the entry may not leave its folder."""
        name = self.weights.file if self.weights else f"{self.name}.safetensors"
        return self.path.parent / Path(name).name


def read_entry(path: Path) -> Entry:
    """An entry from its TOML file.  Raises EntryError with the file, the field and the mend."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise EntryError(f"{path} can't be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise EntryError(f"{path} is no valid TOML ({error}): mend that line") from None
    try:
        entry = Entry(**content, path=path)
    except (ValidationError, TypeError, ThreatError) as error:
        raise EntryError(f"{path}: {first_problem(error)}") from None
    _require_percent(path, [claim["accuracy"] for claim in content.get("claims", [])])
    return entry


def _require_percent(path: Path, claimed: list[Any]) -> None:
    """Raises EntryError for a claim that is written as a share, most probably."""
    for place, value in enumerate(claimed):
        if not isinstance(value, str) and 0 < value <= 1:
            raise EntryError(
                f"{path}: claims.{place}.accuracy = {value}: did you mean {100 * value:g}?  It is "
                f'in percent: write "{value} %" if it is so little'
            )


def weights_content(entry: Entry) -> bytes:
    """The weights' file, after its digest was checked.  Raises WeightsError."""
    path = entry.weights_path
    if entry.weights is None:
        raise WeightsError(
            f"{entry.name} has no weights yet: train them with `robusteval train {entry.name}`"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {path} can't be read ({error.strerror or error})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.weights.sha256:
        raise WeightsError(
            f"weights {path} are altered: SHA-256 is {found[:12]}…, the entry says "
            f"{entry.weights.sha256[:12]}…: restore the file or correct the entry"
        )
    return content


def first_problem(error: Exception) -> str:
    """The first thing a schema found wrong, with the field's name."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    what = problem["msg"].removeprefix("Value error, ")
    more = len(error.errors()) - 1
    return f"{where}: {what}" + (f" (and {more} more)" if more else "")


def built_in_folder() -> Path:
    """The models that come with the project: inside the wheel, or beside a checkout."""
    package = Path(__file__).resolve().parent.parent
    return inside if (inside := package / "_models").is_dir() else package.parent / "models"


def model_folders() -> list[Path]:
    """Folders with entries: ``$ROBUSTEVAL_MODELS``, installed packages', the project's own."""
    named = [Path(p) for p in os.environ.get("ROBUSTEVAL_MODELS", "").split(os.pathsep) if p]
    for folder in named:
        if not folder.is_dir():
            raise EntryError(f"model folder {folder} of $ROBUSTEVAL_MODELS does not exist")
    for point in entry_points(group="robusteval.models"):
        spec = find_spec(point.value)
        named += [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    return [*named, built_in_folder()]


def entry_paths() -> dict[str, Path]:
    """Every entry's name (its file's stem) and path; earlier folders come first."""
    found: dict[str, Path] = {}
    for folder in model_folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_entry(name_or_path: str) -> Entry:
    """An entry by name, or by the path of its TOML file."""
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise EntryError(f"entry file {path} does not exist: check the path")
        return read_entry(path)
    paths = entry_paths()
    if name_or_path not in paths:
        hint = near_names(name_or_path, paths)
        raise UnknownNameError(
            f"unknown model {name_or_path!r}: {hint} (`robusteval list models` shows all)"
        )
    return _read_named(paths[name_or_path])


def _read_named(path: Path) -> Entry:
    """A registered entry, whose name is its file's: two files can't share one."""
    entry = read_entry(path)
    if entry.name != path.stem:
        raise EntryError(f"{path}: name is {entry.name!r}, but the file is {path.name}")
    return entry


def all_entries() -> Iterator[Entry | RobustevalError]:
    """Every entry, or what is wrong with it, in order of name."""
    for path in entry_paths().values():
        try:
            yield _read_named(path)
        except RobustevalError as error:
            yield error
