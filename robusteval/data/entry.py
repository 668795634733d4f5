"""A data set's entry: one TOML file, checked by a schema.  Imports no torch.

For example, all that ``kmnist.toml`` needs:

    name = "kmnist"
    title = "Kuzushiji-MNIST (Clanuwat 2018)"
    shape = [1, 28, 28]             # channels, height, width
    classes = 10
    test_samples = 10000
    folders = ["kmnist"]            # below the data folder; by default the name
    torchvision = "KMNIST"          # its class there, if it has one: for its layout and --download
    outliers = ["mnist", "photo_crops"]
    near = ["mnist"]                # which outlier sets are near to it, and which are far
    far = ["photo_crops"]

    [threats]
    Linf = "0.3"
    L2 = "2"

A set with a ``base`` groups consecutive labels of that one and takes everything else from it.  With
``labels = [0, 1, 2]`` it takes the samples of these labels alone, and says how many
``test_samples`` that leaves; the classes that it leaves out are then its near outliers.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from robusteval.catalogue import near_names
from robusteval.data.shape import Shape
from robusteval.errors import DataError, shown
from robusteval.reading import read_toml
from robusteval.schema import STRICT, Eps, checked, plain_name, require_plain
from robusteval.types import NORMS, Norm, ThreatModel, parse_eps

Archive = Literal["MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "SVHN"]
Reader = Literal["files", "sklearn_digits"]
LEFT_OUT = "left_out_classes"
MADE_TITLES = {  # made by functions of ``data.made``: outlier sets that need no files of their own
    "gaussian_noise": "pixels from N(0.5, 1), cut to [0, 1]",
    "uniform_noise": "pixels from U[0, 1]",
    "photo_crops": "crops of scikit-learn's sample photographs",
    "blurred": "the run's own images, blurred until no object is left",
    "permuted": "the run's own images, the pixels of each in random order",
    LEFT_OUT: "samples of the base's classes that a data set leaves out",
}
_LARGEST_SIDE, _MOST_CLASSES = 4096, 100_000
_NEEDED = ("title", "shape", "test_samples", "threats")  # unless a base has them
_OF_BASE = ("shape", "class_names", "folders", "torchvision", "reader")
_SETS = ("outliers", "near", "far")


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without its files.

    ``test_samples``: of the whole test split.  ``threats``: ε by norm, as text.  ``folders``: names
    below the data folder, the first one found counts.  ``torchvision``: its class there, and so
    its layout.  ``reader``: ``files``, or a package that brings the data along.  ``class_names``:
    where the files tell none.  ``base``: the set whose labels this one groups; ``labels``: those of
    them that it takes, where it leaves some out.  ``outliers``: natural sets in the order in which
    suites take so many of them; ``near`` and ``far``: those that are alike and those that are not.
    ``path``: the file that says all this.  ``own``: data that a user gave, which no name leads to.
    """

    name: str
    title: str
    shape: Shape
    classes: int
    test_samples: int
    threats: dict[str, str]
    folders: tuple[str, ...] = ()
    torchvision: Archive | None = None
    reader: Reader = "files"
    base: str | None = None
    labels: tuple[int, ...] = ()
    outliers: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    note: str = ""
    source: str = ""
    license: str = ""
    path: Path = Path()
    own: bool = False

    def default_threat(self, norm: Norm) -> ThreatModel:
        """The threat model that a suite takes unless ε is given."""
        return ThreatModel(norm, parse_eps(self.threats[norm]))


def usual_threats(channels: int) -> dict[str, str]:
    """ε by norm for images that nothing else is known of: that of MNIST for one channel, else that
    of CIFAR-10 (the usual ones of RobustBench and of Madry et al. 2018)."""
    return {"Linf": "0.3", "L2": "2"} if channels == 1 else {"Linf": "8/255", "L2": "0.5"}


class _Threats(BaseModel):
    """The usual ε in each norm."""

    model_config = STRICT
    Linf: Eps
    L2: Eps

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        for norm in NORMS:
            ThreatModel(norm, parse_eps(getattr(self, norm)))
        return self


def _a_folder(value: str) -> str:
    if not value.isprintable() or "/" in value or "\\" in value or value[:1] in ("", "."):
        raise ValueError("needs the name of one folder, without its path and without a dot first")
    return value


_Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]


class DatasetEntry(BaseModel):
    """One data set's file; see the module."""

    model_config = STRICT

    name: Annotated[str, AfterValidator(plain_name)]
    title: str = ""
    source: str = ""
    license: str = ""
    note: str = ""
    shape: Annotated[tuple[Literal[1, 3], _Side, _Side], Field(strict=False)] | None = None
    classes: int = Field(ge=2, le=_MOST_CLASSES)
    class_names: list[str] = []
    test_samples: int | None = Field(default=None, ge=1)
    threats: _Threats | None = None
    folders: list[Annotated[str, AfterValidator(_a_folder)]] = []
    torchvision: Archive | None = None
    reader: Reader = "files"
    base: str | None = None
    labels: list[Annotated[int, Field(ge=0)]] = []
    outliers: list[str] = []
    near: list[str] = []
    far: list[str] = []

    _all_is_plain = model_validator(mode="before")(require_plain)

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in MADE_TITLES:
            raise ValueError(f"{value} is an outlier set that is made: choose another name")
        return value

    @field_validator(*_SETS)
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if doubled := {name for name in value if value.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(doubled))} stands twice: leave one")
        return value

    @field_validator("labels")
    @classmethod
    def _in_order(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("needs each label once, in ascending order")
        return value

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} names for {self.classes} classes: "
                "give one each"
            )
        for kind in _SETS:
            if self.name in getattr(self, kind):
                raise ValueError(f"{kind} names {self.name} itself: name other data sets")
        if both := set(self.near) & set(self.far):
            raise ValueError(f"{min(both)} is both near and far: leave one")
        return self

    @model_validator(mode="after")
    def _alone_or_on_a_base(self) -> Self:
        given = self.model_fields_set
        if self.base is None:
            if lacking := [name for name in _NEEDED if name not in given]:
                raise ValueError(f"{lacking[0]} is missing: give it")
        elif doubled := [name for name in _OF_BASE if name in given]:
            raise ValueError(f"{doubled[0]} is that of the base {self.base}: leave it out")
        if self.labels and self.base is None:
            raise ValueError("labels are those of a base: name it")
        if bool(self.labels) != ("test_samples" in given) and self.base is not None:
            raise ValueError("labels and test_samples, of those labels, go together: give both")
        return self


def read_entry(path: Path, names: set[str]) -> DatasetEntry:
    """An entry from its file, where there are others of such ``names``.

    Raises DataError with the file, the field and the mend.
    """
    content = read_toml(path, "data set file", DataError)
    entry = checked(DatasetEntry, content, str(path), DataError)
    if entry.name != path.stem:
        raise DataError(f"{path}: name is {entry.name!r}, but the file is {path.name}")
    for kind in _SETS:
        for name in getattr(entry, kind):
            if name not in names and name not in MADE_TITLES:
                hint = near_names(name, {*names, *MADE_TITLES})
                raise DataError(f"{path}: {kind} names {shown(name)}: {hint}")
    return entry


def info_of(entry: DatasetEntry, path: Path) -> DatasetInfo:
    """What an entry without a base says."""
    if entry.shape is None or entry.test_samples is None or entry.threats is None:
        raise ValueError(f"{path} was not checked")
    folders = () if entry.reader != "files" else tuple(entry.folders or [entry.name])
    return DatasetInfo(
        **_own_words(entry, path),
        title=entry.title,
        shape=Shape(*entry.shape),
        test_samples=entry.test_samples,
        threats=entry.threats.model_dump(),
        folders=folders,
        torchvision=entry.torchvision,
        reader=entry.reader,
        outliers=tuple(entry.outliers),
        near=tuple(entry.near),
        far=_far(entry),
        class_names=tuple(entry.class_names),
    )


def _far(entry: DatasetEntry) -> tuple[str, ...]:
    """An entry that names none as far has the rest of its outlier sets."""
    given = entry.model_fields_set
    return tuple(
        entry.far if "far" in given else [n for n in entry.outliers if n not in entry.near]
    )


def regrouped(entry: DatasetEntry, path: Path, base: DatasetInfo) -> DatasetInfo:
    """What an entry with a base says.  Raises DataError if it can't group that one's labels."""
    if entry.labels and not entry.labels[-1] < base.classes > len(entry.labels):
        raise DataError(
            f"{path}: labels are not some of {base.name}'s, 0 to {base.classes - 1}: name a part"
        )
    grouped = len(entry.labels) or base.classes
    if grouped % entry.classes or (entry.classes == base.classes):
        raise DataError(
            f"{path}: {base.name}'s {grouped} classes can't make {entry.classes} groups of "
            "equal size: give another number of classes"
        )
    own = _own_words(entry, path)
    for name in ("source", "license"):
        own[name] = own[name] or getattr(base, name)
    if entry.threats is not None:
        own["threats"] = entry.threats.model_dump()
    if entry.labels:
        near = (LEFT_OUT, *base.near)
        own |= {"labels": tuple(entry.labels), "test_samples": entry.test_samples, "near": near}
    given = entry.model_fields_set
    own |= {kind: tuple(getattr(entry, kind)) for kind in _SETS if kind in given}
    if "outliers" in given and "far" not in given:
        own["far"] = _far(entry)
    title = entry.title or f"{base.title} regrouped into {entry.classes} classes"
    return replace(base, **own, title=title, base=base.name)


def _own_words(entry: DatasetEntry, path: Path) -> dict[str, Any]:
    same = {"name", "classes", "note", "source", "license"}
    return {**entry.model_dump(include=same), "path": path}
